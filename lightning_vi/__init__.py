"""Uncertainty quantification by variational inference, on PyTorch Lightning."""

from lightning_vi.methods import (
    IVON,
    VBLL,
    AlphaDivergenceVI,
    Deterministic,
    FullRankVI,
    Laplace,
    LastLayerVI,
    LatentVariableVI,
    LowRankVI,
    MCDropout,
    MeanFieldVI,
    MeanVarianceEstimation,
    NotFittedError,
    RadialVI,
    RankOneVI,
)

__all__ = [
    "IVON",
    "VBLL",
    "AlphaDivergenceVI",
    "Deterministic",
    "FullRankVI",
    "Laplace",
    "LastLayerVI",
    "LatentVariableVI",
    "LowRankVI",
    "MCDropout",
    "MeanFieldVI",
    "MeanVarianceEstimation",
    "NotFittedError",
    "RadialVI",
    "RankOneVI",
]
