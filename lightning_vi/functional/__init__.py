"""Pure tensor functions: divergences, decompositions, quadrature, scores, intervals of counts and rankings."""

from lightning_vi.functional.decomposition import (
    EntropyDecomposition,
    RunningMoments,
    decompose_entropy,
    entropy,
)
from lightning_vi.functional.divergence import gaussian_kl, moment_sums
from lightning_vi.functional.ensembles import disagreement
from lightning_vi.functional.intervals import uniform_histogram_band, wilson_interval
from lightning_vi.functional.quadrature import gauss_hermite
from lightning_vi.functional.selective import (
    area_under_risk_coverage,
    auroc,
    excess_area_under_risk_coverage,
    false_positive_rate,
    risk_coverage_curve,
)
from lightning_vi.functional.signal import signal_to_noise, unit_signal_to_noise
from lightning_vi.functional.softplus import put_inverse_softplus, softplus_sums
from lightning_vi.functional.special import inverse_softplus

__all__ = [
    "EntropyDecomposition",
    "RunningMoments",
    "area_under_risk_coverage",
    "auroc",
    "decompose_entropy",
    "disagreement",
    "entropy",
    "excess_area_under_risk_coverage",
    "false_positive_rate",
    "gauss_hermite",
    "gaussian_kl",
    "inverse_softplus",
    "moment_sums",
    "put_inverse_softplus",
    "risk_coverage_curve",
    "signal_to_noise",
    "softplus_sums",
    "uniform_histogram_band",
    "unit_signal_to_noise",
    "wilson_interval",
]
