"""Optimizers that learn a posterior."""

from lightning_vi.optim.ivon import IVONOptimizer
from lightning_vi.optim.posterior import PosteriorIVON

__all__ = ["IVONOptimizer", "PosteriorIVON"]
