"""Uncertainty quantification by variational inference, on PyTorch Lightning."""

from lightning_vi.methods import (
    IVON,
    SWA,
    SWAG,
    VBLL,
    AlphaDivergenceVI,
    Deterministic,
    FullRankVI,
    Laplace,
    LastLayerVI,
    LatentVariableVI,
    LowRankVI,
    MeanFieldVI,
    MeanVarianceEstimation,
    NotFittedError,
    RadialVI,
    RankOneVI,
)

__all__ = [
    "IVON",
    "SWA",
    "SWAG",
    "VBLL",
    "AlphaDivergenceVI",
    "Deterministic",
    "FullRankVI",
    "Laplace",
    "LastLayerVI",
    "LatentVariableVI",
    "LowRankVI",
    "MeanFieldVI",
    "MeanVarianceEstimation",
    "NotFittedError",
    "RadialVI",
    "RankOneVI",
]
