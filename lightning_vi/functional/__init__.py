"""Pure tensor functions: divergences, decompositions, quadrature, scores, intervals of counts and rankings."""

from lightning_vi.functional.calibration_errors import (
    BrierParts,
    adaptive_calibration_error,
    brier_decomposition,
    class_bins,
    classwise_calibration_error,
    maximum_calibration_error,
)
from lightning_vi.functional.conditional_coverage import size_stratified_coverage, worst_slab_coverage
from lightning_vi.functional.decomposition import (
    EntropyDecomposition,
    RunningMoments,
    decompose_entropy,
    entropy,
)
from lightning_vi.functional.distances import (
    gaussian_wasserstein_2,
    sample_wasserstein_2,
    top_class_agreement,
    total_variation_distance,
)
from lightning_vi.functional.divergence import gaussian_kl, moment_divergence
from lightning_vi.functional.energy import energy_score, mixture_draws
from lightning_vi.functional.ensembles import disagreement
from lightning_vi.functional.images import (
    blur_images,
    pixelate_images,
    rotate_images,
    scale_contrast,
    translate_images,
)
from lightning_vi.functional.intervals import uniform_histogram_band, wilson_interval
from lightning_vi.functional.logarithms import sum_of_logs
from lightning_vi.functional.low_rank import best_factors, random_factors
from lightning_vi.functional.ordered_classes import class_distance, ranked_probability_score
from lightning_vi.functional.quadrature import gauss_hermite
from lightning_vi.functional.quantile_scores import (
    calibration_gap,
    interval_score,
    miscalibration_area,
    pinball_loss,
    shares_below,
)
from lightning_vi.functional.selective import (
    area_under_generalized_risk_coverage,
    area_under_risk_coverage,
    auroc,
    coverage_at_risk,
    detection_average_precision,
    excess_area_under_risk_coverage,
    false_positive_rate,
    risk_coverage_curve,
)
from lightning_vi.functional.sequential import ScoreState, follow_scores
from lightning_vi.functional.set_coverage import covered_share
from lightning_vi.functional.signal import signal_to_noise, unit_signal_to_noise
from lightning_vi.functional.smooth_calibration import residual_nodes, smooth_calibration_error
from lightning_vi.functional.softplus import put_inverse_softplus
from lightning_vi.functional.sparsification import area_under_sparsification_error, sparsification_curve
from lightning_vi.functional.special import inverse_softplus

__all__ = [
    "BrierParts",
    "EntropyDecomposition",
    "RunningMoments",
    "ScoreState",
    "adaptive_calibration_error",
    "area_under_generalized_risk_coverage",
    "area_under_risk_coverage",
    "area_under_sparsification_error",
    "auroc",
    "best_factors",
    "blur_images",
    "brier_decomposition",
    "calibration_gap",
    "class_bins",
    "class_distance",
    "classwise_calibration_error",
    "coverage_at_risk",
    "covered_share",
    "decompose_entropy",
    "detection_average_precision",
    "disagreement",
    "energy_score",
    "entropy",
    "excess_area_under_risk_coverage",
    "false_positive_rate",
    "follow_scores",
    "gauss_hermite",
    "gaussian_kl",
    "gaussian_wasserstein_2",
    "interval_score",
    "inverse_softplus",
    "maximum_calibration_error",
    "miscalibration_area",
    "mixture_draws",
    "moment_divergence",
    "pinball_loss",
    "pixelate_images",
    "put_inverse_softplus",
    "random_factors",
    "ranked_probability_score",
    "residual_nodes",
    "risk_coverage_curve",
    "rotate_images",
    "sample_wasserstein_2",
    "scale_contrast",
    "shares_below",
    "signal_to_noise",
    "size_stratified_coverage",
    "smooth_calibration_error",
    "sparsification_curve",
    "sum_of_logs",
    "top_class_agreement",
    "total_variation_distance",
    "translate_images",
    "uniform_histogram_band",
    "unit_signal_to_noise",
    "wilson_interval",
    "worst_slab_coverage",
]
