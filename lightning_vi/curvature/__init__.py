"""Curvature of the log-likelihood around trained weights."""

from lightning_vi.curvature.base import Linearization
from lightning_vi.curvature.blocks import Block, choose_blocks, flat_weights
from lightning_vi.curvature.evidence import best_prior_precision, log_evidence
from lightning_vi.curvature.last_layer import is_pointwise
from lightning_vi.curvature.linearization import linearize
from lightning_vi.curvature.structures import (
    Curvature,
    DiagonalCurvature,
    FullCurvature,
    KroneckerCurvature,
    PerOutputCurvature,
)

__all__ = [
    "Block",
    "Curvature",
    "DiagonalCurvature",
    "FullCurvature",
    "KroneckerCurvature",
    "Linearization",
    "PerOutputCurvature",
    "best_prior_precision",
    "choose_blocks",
    "flat_weights",
    "is_pointwise",
    "linearize",
    "log_evidence",
]
