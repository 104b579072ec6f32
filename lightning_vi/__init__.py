"""Uncertainty quantification by variational inference, on PyTorch Lightning."""

from lightning_vi.methods import Deterministic, LastLayerVI, MeanFieldVI, MeanVarianceEstimation

__all__ = ["Deterministic", "LastLayerVI", "MeanFieldVI", "MeanVarianceEstimation"]
