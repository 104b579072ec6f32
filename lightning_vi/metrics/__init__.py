"""Metrics for uncertainty quantification: torchmetrics classes, and the collections that methods log.

Each is a running sum around a pure function of `lightning_vi.functional.scoring`, so its value does not
depend on batch sizes or on the number of ranks. Those that rank the data keep a score and a label or loss for
each datum instead, and do not depend on the batches either. Inputs are checked by shape and dtype
only: nothing waits for a GPU.
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
