"""Pure tensor mathematics: divergences, decompositions, scores, and how well an uncertainty ranks data."""

from lightning_vi.functional.decomposition import (
    EntropyDecomposition,
    RunningMoments,
    decompose_entropy,
    entropy,
)
from lightning_vi.functional.divergence import gaussian_kl
from lightning_vi.functional.quadrature import gauss_hermite
from lightning_vi.functional.selective import (
    area_under_risk_coverage,
    auroc,
    excess_area_under_risk_coverage,
    false_positive_rate,
    risk_coverage_curve,
)

__all__ = [
    "EntropyDecomposition",
    "RunningMoments",
    "area_under_risk_coverage",
    "auroc",
    "decompose_entropy",
    "entropy",
    "excess_area_under_risk_coverage",
    "false_positive_rate",
    "gauss_hermite",
    "gaussian_kl",
    "risk_coverage_curve",
]
