"""Uncertainty quantification by variational inference, on PyTorch Lightning."""

from lightning_vi.methods import AlphaDivergenceVI, Deterministic, LastLayerVI, MeanFieldVI, MeanVarianceEstimation

__all__ = ["AlphaDivergenceVI", "Deterministic", "LastLayerVI", "MeanFieldVI", "MeanVarianceEstimation"]
