"""Uncertainty quantification by variational inference, on PyTorch Lightning."""

from lightning_vi.methods import (
    IVON,
    SNGP,
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
    "SNGP",
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
