"""Methods with a single deterministic network, and Monte Carlo dropout."""

from lightning_vi.methods.deterministic.deterministic import Deterministic as Deterministic
from lightning_vi.methods.deterministic.mc_dropout import MCDropout as MCDropout
from lightning_vi.methods.deterministic.mean_variance_estimation import MeanVarianceEstimation as MeanVarianceEstimation
from lightning_vi.methods.deterministic.quantile_regression import QuantileRegression as QuantileRegression
