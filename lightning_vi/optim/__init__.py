"""Optimizers that learn a posterior or draw from it, and learning rate schedules."""

from lightning_vi.optim.cosine_decay import cosine_decay
from lightning_vi.optim.cyclical import CyclicalSchedule, cyclical_rate
from lightning_vi.optim.deferred import DeferredScales, defer_scales, known_std, trained_stds
from lightning_vi.optim.ivon import IVONOptimizer
from lightning_vi.optim.joint import JointOptimizer
from lightning_vi.optim.per_step import PerStep
from lightning_vi.optim.posterior import PosteriorIVON
from lightning_vi.optim.sghmc import SGHMCOptimizer

__all__ = [
    "CyclicalSchedule",
    "DeferredScales",
    "IVONOptimizer",
    "JointOptimizer",
    "PerStep",
    "PosteriorIVON",
    "SGHMCOptimizer",
    "cosine_decay",
    "cyclical_rate",
    "defer_scales",
    "known_std",
    "trained_stds",
]
