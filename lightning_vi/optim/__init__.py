"""Optimizers that learn a posterior, and learning rate schedules."""

from lightning_vi.optim.cosine_decay import cosine_decay
from lightning_vi.optim.ivon import IVONOptimizer
from lightning_vi.optim.known_stds import KnownStds
from lightning_vi.optim.per_step import PerStep
from lightning_vi.optim.posterior import PosteriorIVON

__all__ = ["IVONOptimizer", "KnownStds", "PerStep", "PosteriorIVON", "cosine_decay"]
