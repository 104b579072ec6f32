"""Variational posteriors q(w)."""

from lightning_vi.posteriors.mean_field import MeanFieldGaussian, inverse_softplus

__all__ = ["MeanFieldGaussian", "inverse_softplus"]
