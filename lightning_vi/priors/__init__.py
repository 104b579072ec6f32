"""Priors p(w)."""

from lightning_vi.priors.base import Prior
from lightning_vi.priors.gaussian import GaussianPrior

__all__ = ["GaussianPrior", "Prior"]
