"""Pure tensor mathematics: divergences, decompositions and scores."""

from lightning_vi.functional.decomposition import (
    EntropyDecomposition,
    RunningMoments,
    decompose_entropy,
    entropy,
)
from lightning_vi.functional.divergence import gaussian_kl
from lightning_vi.functional.quadrature import gauss_hermite

__all__ = ["EntropyDecomposition", "RunningMoments", "decompose_entropy", "entropy", "gauss_hermite", "gaussian_kl"]
