"""Calibration of any fitted method: scaling of probabilities and variances, and conformal prediction."""

from lightning_vi.calibration.adaptive_conformal import AdaptiveConformal
from lightning_vi.calibration.adaptive_prediction_sets import AdaptivePredictionSets
from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.calibration.class_scaling import ClassScaling
from lightning_vi.calibration.clear import CLEAR
from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.calibration.conformal_quantile_regression import ConformalQuantileRegression
from lightning_vi.calibration.conformal_risk_control import ConformalRiskControl
from lightning_vi.calibration.conformal_sets import ConformalSets
from lightning_vi.calibration.dirichlet_scaling import DirichletScaling
from lightning_vi.calibration.enbpi import EnbPI
from lightning_vi.calibration.isotonic_scaling import IsotonicScaling
from lightning_vi.calibration.joint_conformal import JointConformal
from lightning_vi.calibration.least_ambiguous_sets import LeastAmbiguousSets
from lightning_vi.calibration.mondrian import Mondrian
from lightning_vi.calibration.quantile_recalibration import QuantileRecalibration
from lightning_vi.calibration.sequential import SequentialConformal
from lightning_vi.calibration.split_conformal import SplitConformal
from lightning_vi.calibration.temperature_scaling import TemperatureScaling
from lightning_vi.calibration.top_k_sets import TopKSets
from lightning_vi.calibration.variance_scaling import VarianceScaling
from lightning_vi.calibration.vector_scaling import VectorScaling

__all__ = [
    "CLEAR",
    "AdaptiveConformal",
    "AdaptivePredictionSets",
    "CalibratedMethod",
    "ClassScaling",
    "ConformalMethod",
    "ConformalQuantileRegression",
    "ConformalRiskControl",
    "ConformalSets",
    "DirichletScaling",
    "EnbPI",
    "IsotonicScaling",
    "JointConformal",
    "LeastAmbiguousSets",
    "Mondrian",
    "QuantileRecalibration",
    "SequentialConformal",
    "SplitConformal",
    "TemperatureScaling",
    "TopKSets",
    "VarianceScaling",
    "VectorScaling",
]
