"""Base classes of everything that predicts, and the predictive distribution that they make."""

from lightning_vi.core.fitted import FittedMethod
from lightning_vi.core.informed import InformedMethod
from lightning_vi.core.method import UQMethod
from lightning_vi.core.optimizers import DEFAULT_LEARNING_RATE, LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.core.predictive import (
    GaussianPredictive,
    MixturePredictive,
    Predictive,
    SampledPredictive,
    TransformedPredictive,
    class_metric_inputs,
)
from lightning_vi.core.predictor import Predictor

__all__ = [
    "DEFAULT_LEARNING_RATE",
    "FittedMethod",
    "GaussianPredictive",
    "InformedMethod",
    "LRSchedulerFactory",
    "MixturePredictive",
    "OptimizerFactory",
    "Predictive",
    "Predictor",
    "SampledPredictive",
    "TransformedPredictive",
    "UQMethod",
    "class_metric_inputs",
    "default_optimizer",
]
