"""Metrics for uncertainty quantification: `torchmetrics.Metric` classes and the collections that methods log.

The value of a metric does not depend on the batch size or on the number of ranks. Most metrics are running sums around
a function of `lightning_vi.functional.scoring`; ranking metrics store two numbers per datum until `reset`. Inputs are
checked by shape and dtype only, so that no update synchronizes with the GPU.

In all shapes, S is the number of samples (mixture components), B the batch size, D the number of targets and C the
number of classes. Keyword arguments that are not listed are passed on to `torchmetrics.Metric`.
"""

from lightning_vi.metrics.base import MeanScore
from lightning_vi.metrics.classification import Accuracy, BrierScore, ExpectedCalibrationError
from lightning_vi.metrics.conformal import (
    PredictionIntervalCoverage,
    PredictionIntervalWidth,
    PredictionSetCoverage,
    PredictionSetSize,
)
from lightning_vi.metrics.defaults import (
    classification_metrics,
    default_metrics,
    point_classification_metrics,
    point_regression_metrics,
    regression_metrics,
)
from lightning_vi.metrics.likelihood import NegativeLogLikelihood
from lightning_vi.metrics.mixture import GaussianMixtureCRPS, IntervalCoverage, IntervalWidth, MixtureCRPS
from lightning_vi.metrics.point import MeanAbsoluteError, R2Score, RootMeanSquaredError
from lightning_vi.metrics.selective import AURC, OODAUROC, ExcessAURC, OODFalsePositiveRate

__all__ = [
    "AURC",
    "OODAUROC",
    "Accuracy",
    "BrierScore",
    "ExcessAURC",
    "ExpectedCalibrationError",
    "GaussianMixtureCRPS",
    "IntervalCoverage",
    "IntervalWidth",
    "MeanAbsoluteError",
    "MeanScore",
    "MixtureCRPS",
    "NegativeLogLikelihood",
    "OODFalsePositiveRate",
    "PredictionIntervalCoverage",
    "PredictionIntervalWidth",
    "PredictionSetCoverage",
    "PredictionSetSize",
    "R2Score",
    "RootMeanSquaredError",
    "classification_metrics",
    "default_metrics",
    "point_classification_metrics",
    "point_regression_metrics",
    "regression_metrics",
]
