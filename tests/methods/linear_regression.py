"""Bayesian linear regression with known noise in closed form, in numpy and float64."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.stats
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearRegression:
    """Regression of one target. The last feature is one, for the bias. All weights have the prior N(m0, s0^2)."""

    features: Array
    target: Array
    noise_std: float
    prior_mean: float
    prior_std: float

    @cached_property
    def precision(self) -> Array:
        """Precision matrix of the exact posterior."""
        width = self.features.shape[1]
        return self.features.T @ self.features / self.noise_std**2 + np.eye(width) / self.prior_std**2

    @cached_property
    def posterior_mean(self) -> Array:
        linear = self.features.T @ self.target / self.noise_std**2 + self.prior_mean / self.prior_std**2
        return np.linalg.solve(self.precision, linear)

    @cached_property
    def mean_field_std(self) -> Array:
        """Standard deviations of the best factorized Gaussian: inverse square root of the diagonal of the precision."""
        return np.diag(self.precision) ** -0.5

    @cached_property
    def log_evidence(self) -> float:
        covariance = self.prior_std**2 * self.features @ self.features.T + self.noise_std**2 * np.eye(len(self.target))
        mean = self.prior_mean * self.features.sum(1)
        return float(scipy.stats.multivariate_normal(mean, covariance).logpdf(self.target))

    @cached_property
    def best_elbo(self) -> float:
        """Log evidence minus the KL divergence from the best factorized Gaussian to the exact posterior."""
        log_det_gap = np.log(np.diag(self.precision)).sum() - np.linalg.slogdet(self.precision)[1]
        return float(self.log_evidence - 0.5 * log_det_gap)

    def expected_nll(self, mean: Array, std: Array) -> float:
        """Expected negative log-likelihood of all data under independent weights, in nats."""
        squares = (self.target - self.features @ mean) ** 2 + self.features**2 @ std**2
        return float((0.5 * squares / self.noise_std**2 + np.log(self.noise_std) + 0.5 * np.log(2 * np.pi)).sum())

    def kl(self, mean: Array, std: Array) -> float:
        scaled = (std**2 + (mean - self.prior_mean) ** 2) / self.prior_std**2
        return float((np.log(self.prior_std / std) + 0.5 * scaled - 0.5).sum())

    def elbo(self, mean: Array, std: Array) -> float:
        return -self.expected_nll(mean, std) - self.kl(mean, std)


def random_features(num_data: int, orthogonal: bool, seed: int = 0) -> Array:
    """Draws three features of different scale, correlated or orthogonal, followed by the constant one."""
    noise = np.random.default_rng(seed)
    columns = noise.normal(size=(num_data, 3)) @ np.array([[1.0, 0.6, 0.0], [0.0, 1.5, 0.4], [0.0, 0.0, 0.8]])
    if orthogonal:
        basis, _ = np.linalg.qr(np.column_stack([np.ones(num_data), columns]))
        columns = basis[:, 1:] * np.sqrt(num_data) * np.array([0.5, 1.0, 1.5])
    return np.column_stack([columns, np.ones(num_data)])
