"""Uncertainty quantification by variational inference, on PyTorch Lightning."""

from lightning_vi.methods import (
    IVON,
    VBLL,
    AlphaDivergenceVI,
    DeepEnsemble,
    Deterministic,
    Ensemble,
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
    "VBLL",
    "AlphaDivergenceVI",
    "DeepEnsemble",
    "Deterministic",
    "Ensemble",
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
