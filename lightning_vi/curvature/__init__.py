"""The curvature of a likelihood around a trained network."""

from lightning_vi.curvature.base import Linearisation
from lightning_vi.curvature.blocks import Block, choose_blocks, flat_weights
from lightning_vi.curvature.evidence import best_prior_precision, log_evidence
from lightning_vi.curvature.linearisation import linearise
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
    "Linearisation",
    "PerOutputCurvature",
    "best_prior_precision",
    "choose_blocks",
    "flat_weights",
    "linearise",
    "log_evidence",
]
