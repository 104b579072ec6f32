"""Posteriors q(w)."""

from lightning_vi.posteriors.coupling import CouplingFactory, NoiseCoupling
from lightning_vi.posteriors.full_rank import FullRankCoupling
from lightning_vi.posteriors.initial_std import DEFAULT_STD, InitialStd, ProportionalStd, initial_rho, inverse_softplus
from lightning_vi.posteriors.joining import divergence_and_stds
from lightning_vi.posteriors.low_rank import LowRankCoupling
from lightning_vi.posteriors.mean_field import MeanFieldGaussian, draw_together
from lightning_vi.posteriors.radial import RadialCoupling

__all__ = [
    "DEFAULT_STD",
    "CouplingFactory",
    "FullRankCoupling",
    "InitialStd",
    "LowRankCoupling",
    "MeanFieldGaussian",
    "NoiseCoupling",
    "ProportionalStd",
    "RadialCoupling",
    "divergence_and_stds",
    "draw_together",
    "initial_rho",
    "inverse_softplus",
]
