"""Training objectives."""

from lightning_vi.objectives.alpha_divergence import alpha_divergence_energy
from lightning_vi.objectives.elbo import ObjectiveTerms, negative_elbo
from lightning_vi.objectives.num_data import count_training_data

__all__ = ["ObjectiveTerms", "alpha_divergence_energy", "count_training_data", "negative_elbo"]
