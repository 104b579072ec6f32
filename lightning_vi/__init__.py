"""Uncertainty quantification by variational inference, on PyTorch Lightning."""

from lightning_vi.methods import (
    IVON,
    AlphaDivergenceVI,
    Deterministic,
    FullRankVI,
    LastLayerVI,
    LowRankVI,
    MeanFieldVI,
    MeanVarianceEstimation,
    RadialVI,
    RankOneVI,
)

__all__ = [
    "IVON",
    "AlphaDivergenceVI",
    "Deterministic",
    "FullRankVI",
    "LastLayerVI",
    "LowRankVI",
    "MeanFieldVI",
    "MeanVarianceEstimation",
    "RadialVI",
    "RankOneVI",
]
