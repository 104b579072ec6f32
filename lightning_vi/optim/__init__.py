"""Optimizers that learn a posterior, for plain PyTorch as well."""

from lightning_vi.optim.ivon import IVONOptimizer
from lightning_vi.optim.posterior import PosteriorIVON

__all__ = ["IVONOptimizer", "PosteriorIVON"]
