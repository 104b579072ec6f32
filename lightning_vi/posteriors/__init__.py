"""Posteriors q(w)."""

from lightning_vi.posteriors.initial_std import InitialStd, ProportionalStd, initial_rho, inverse_softplus
from lightning_vi.posteriors.mean_field import MeanFieldGaussian

__all__ = ["InitialStd", "MeanFieldGaussian", "ProportionalStd", "initial_rho", "inverse_softplus"]
