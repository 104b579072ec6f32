"""Optimizers that learn a posterior or draw from it, and learning rate schedules."""

from lightning_vi.optim.cosine_decay import cosine_decay
from lightning_vi.optim.cyclical import CyclicalSchedule, cyclical_rate
from lightning_vi.optim.ivon import IVONOptimizer
from lightning_vi.optim.joint import JointOptimizer
from lightning_vi.optim.known_stds import KnownStds
from lightning_vi.optim.per_step import PerStep
from lightning_vi.optim.posterior import PosteriorIVON
from lightning_vi.optim.sghmc import SGHMCOptimizer

__all__ = [
    "CyclicalSchedule",
    "IVONOptimizer",
    "JointOptimizer",
    "KnownStds",
    "PerStep",
    "PosteriorIVON",
    "SGHMCOptimizer",
    "cosine_decay",
    "cyclical_rate",
]
