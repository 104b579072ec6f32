"""Prediction in one pass: means and variances of a network's outputs, propagated in closed form."""

from lightning_vi.moments import (  # noqa: F401, each registers its rules
    attention_rules,
    elementwise_rules,
    linear_rules,
    normalization_rules,
    reduction_rules,
    shape_rules,
)
from lightning_vi.moments.gaussian_tensor import GaussianTensor, make_gaussian, mean_of, variance_of
from lightning_vi.moments.networks import Moments, engine_moments, network_moments, propagated
from lightning_vi.moments.propagation import RULES, NoRuleError, Propagation, rule

__all__ = [
    "RULES",
    "GaussianTensor",
    "Moments",
    "NoRuleError",
    "Propagation",
    "engine_moments",
    "make_gaussian",
    "mean_of",
    "network_moments",
    "propagated",
    "rule",
    "variance_of",
]
