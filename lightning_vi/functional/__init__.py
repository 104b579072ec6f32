"""Pure tensor mathematics: divergences, decompositions and scores."""

from lightning_vi.functional.decomposition import (
    EntropyDecomposition,
    RunningMoments,
    decompose_entropy,
    entropy,
)
from lightning_vi.functional.divergence import gaussian_kl

__all__ = ["EntropyDecomposition", "RunningMoments", "decompose_entropy", "entropy", "gaussian_kl"]
