"""Metrics for uncertainty quantification: `torchmetrics.Metric` classes and the collections that methods log.

The value of a metric does not depend on the batch size or on the number of ranks. Most metrics are running sums around
a function of `lightning_vi.functional`; rankings, and a few others, store some numbers per datum until `reset`. Inputs
are checked by shape and dtype only, so that no update synchronizes with the GPU.

In all shapes, S is the number of samples (mixture components), B the batch size, D the number of targets and C the
number of classes. Keyword arguments that are not listed are passed on to `torchmetrics.Metric`.
"""

from lightning_vi.metrics.base import MeanScore, StoredScores
from lightning_vi.metrics.calibration_error import (
    AdaptiveCalibrationError,
    BrierDecomposition,
    ClasswiseCalibrationError,
    MaximumCalibrationError,
    SmoothCalibrationError,
)
from lightning_vi.metrics.classification import Accuracy, BrierScore, ExpectedCalibrationError
from lightning_vi.metrics.conditional_coverage import SizeStratifiedCoverage, WorstSlabCoverage
from lightning_vi.metrics.conformal import (
    PredictionIntervalCoverage,
    PredictionIntervalScore,
    PredictionIntervalWidth,
    PredictionRegionCoverage,
    PredictionSetCoverage,
    PredictionSetRisk,
    PredictionSetSize,
)
from lightning_vi.metrics.defaults import (
    classification_metrics,
    default_metrics,
    multi_label_metrics,
    ordered_class_metrics,
    point_classification_metrics,
    point_regression_metrics,
    regression_metrics,
    segmentation_metrics,
    uncertainty_metrics,
)
from lightning_vi.metrics.energy import EnergyScore
from lightning_vi.metrics.imbalance import AUROC, AveragePrecision, F1Score
from lightning_vi.metrics.likelihood import NegativeLogLikelihood
from lightning_vi.metrics.mixture import GaussianMixtureCRPS, IntervalCoverage, IntervalWidth, MixtureCRPS
from lightning_vi.metrics.multi_label import ExactMatch, LabelF1Score
from lightning_vi.metrics.ordered_classes import ClassDistance, RankedProbabilityScore
from lightning_vi.metrics.point import MeanAbsoluteError, R2Score, RootMeanSquaredError
from lightning_vi.metrics.quantile import (
    IntervalScore,
    MiscalibrationArea,
    PinballLoss,
    QuantileCalibrationError,
    Sharpness,
)
from lightning_vi.metrics.segmentation import ImageCoverage, MeanIoU
from lightning_vi.metrics.selective import (
    AUGRC,
    AURC,
    AUSE,
    OODAUROC,
    CoverageAtRisk,
    ExcessAURC,
    OODAveragePrecision,
    OODFalsePositiveRate,
)
from lightning_vi.metrics.uncertainty import EpistemicShare, MutualInformation

__all__ = [
    "AUGRC",
    "AURC",
    "AUROC",
    "AUSE",
    "OODAUROC",
    "Accuracy",
    "AdaptiveCalibrationError",
    "AveragePrecision",
    "BrierDecomposition",
    "BrierScore",
    "ClassDistance",
    "ClasswiseCalibrationError",
    "CoverageAtRisk",
    "EnergyScore",
    "EpistemicShare",
    "ExactMatch",
    "ExcessAURC",
    "ExpectedCalibrationError",
    "F1Score",
    "GaussianMixtureCRPS",
    "ImageCoverage",
    "IntervalCoverage",
    "IntervalScore",
    "IntervalWidth",
    "LabelF1Score",
    "MaximumCalibrationError",
    "MeanAbsoluteError",
    "MeanIoU",
    "MeanScore",
    "MiscalibrationArea",
    "MixtureCRPS",
    "MutualInformation",
    "NegativeLogLikelihood",
    "OODAveragePrecision",
    "OODFalsePositiveRate",
    "PinballLoss",
    "PredictionIntervalCoverage",
    "PredictionIntervalScore",
    "PredictionIntervalWidth",
    "PredictionRegionCoverage",
    "PredictionSetCoverage",
    "PredictionSetRisk",
    "PredictionSetSize",
    "QuantileCalibrationError",
    "R2Score",
    "RankedProbabilityScore",
    "RootMeanSquaredError",
    "Sharpness",
    "SizeStratifiedCoverage",
    "SmoothCalibrationError",
    "StoredScores",
    "WorstSlabCoverage",
    "classification_metrics",
    "default_metrics",
    "multi_label_metrics",
    "ordered_class_metrics",
    "point_classification_metrics",
    "point_regression_metrics",
    "regression_metrics",
    "segmentation_metrics",
    "uncertainty_metrics",
]
