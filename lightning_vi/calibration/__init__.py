"""Calibration of any fitted method: temperature scaling, variance scaling and conformal prediction."""

from lightning_vi.calibration.adaptive_prediction_sets import AdaptivePredictionSets
from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.calibration.conformal_quantile_regression import ConformalQuantileRegression
from lightning_vi.calibration.split_conformal import SplitConformal
from lightning_vi.calibration.temperature_scaling import TemperatureScaling
from lightning_vi.calibration.variance_scaling import VarianceScaling

__all__ = [
    "AdaptivePredictionSets",
    "CalibratedMethod",
    "ConformalMethod",
    "ConformalQuantileRegression",
    "SplitConformal",
    "TemperatureScaling",
    "VarianceScaling",
]
