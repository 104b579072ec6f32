"""What the Gaussian observation models share."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_vi.functional import RunningMoments
from lightning_vi.likelihoods.base import Likelihood
from lightning_vi.likelihoods.prediction import Prediction

LOG_SQRT_TWO_PI = 0.5 * math.log(2 * math.pi)


def gaussian_log_prob(residual: Tensor, std: Tensor) -> Tensor:
    """Log density of a Gaussian.

    Args:
        residual: Distance from the mean in standard deviations, any shape.
        std: Standard deviations, of a shape that broadcasts to that of `residual`.

    Returns:
        Nats, the shape of `residual`.
    """
    return -0.5 * residual.square() - std.log() - LOG_SQRT_TWO_PI


class RegressionLikelihood(Likelihood):
    r"""A Gaussian :math:`\mathcal{N}(y \mid \mu(f), \sigma(f)^2)` for each of D targets.

    Targets are in their original units. The network works in standardised units,
    :math:`(y - m) / s`, if `set_target_scaling` has given m and s; predictions, densities and metrics
    are in the original units all the same.

    Args:
        num_targets: D.

    Raises:
        ValueError: If `num_targets` is not positive.
    """

    task = "regression"
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, num_targets: int = 1) -> None:
        super().__init__()
        if num_targets < 1:
            raise ValueError(f"num_targets must be positive, got {num_targets}")
        self.num_targets = num_targets
        self.register_buffer("target_mean", torch.zeros(num_targets))
        self.register_buffer("target_std", torch.ones(num_targets))

    @abstractmethod
    def standardised_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in the network's units.

        Args:
            outputs: Network outputs, shape [S, B, ..., width].

        Returns:
            Each of a shape that broadcasts to [S, B, ..., D].
        """

    @property
    def num_predictions(self) -> int:  # noqa: D102
        return self.num_targets

    def set_target_scaling(self, mean: Tensor, std: Tensor) -> None:
        """Declares that the network predicts ``(target - mean) / std``.

        Args:
            mean: Shape [D], in target units.
            std: Shape [D], positive, in target units.

        Raises:
            ValueError: If a shape is wrong, a value is not finite, or a std is not positive.
        """
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != (self.num_targets,) or not value.isfinite().all():
                raise ValueError(
                    f"{name} must be finite and of shape ({self.num_targets},), got {value} of {tuple(value.shape)}"
                )
        if not (std > 0).all():
            raise ValueError(f"std must be positive, got {std}")
        self.target_mean.copy_(mean)
        self.target_std.copy_(std)

    def check(self, outputs: Tensor, target: Tensor) -> None:  # noqa: D102
        name = type(self).__name__
        if outputs.shape[-1] != self.num_outputs:
            raise ValueError(
                f"{name}(num_targets={self.num_targets}) needs network outputs of width {self.num_outputs}, "
                f"got {outputs.shape[-1]}"
            )
        expected = (*outputs.shape[1:-1], self.num_targets)
        if target.shape != expected:
            raise ValueError(f"{name} needs targets of shape {tuple(expected)}, got {tuple(target.shape)}")
        if not target.is_floating_point():
            raise TypeError(f"{name} needs floating-point targets, got {target.dtype}")

    def _standardise(self, target: Tensor) -> Tensor:
        return (target - self.target_mean) / self.target_std

    def elementwise_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        mean, std = self.standardised_moments(outputs)
        return gaussian_log_prob((self._standardise(target) - mean) / std, std) - self.target_std.log()

    def point_loss(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        mean, _ = self.standardised_moments(outputs)
        squared_error = (mean - self._standardise(target)).square()
        return squared_error.flatten(2).sum(-1).mean()

    def point_prediction(self, outputs: Tensor) -> Tensor:  # noqa: D102
        mean, _ = self.standardised_moments(outputs.mean(0))
        return mean * self.target_std + self.target_mean

    def predictive_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mean, std = self.standardised_moments(outputs)
        return mean * self.target_std + self.target_mean, (std * self.target_std).square().expand_as(mean)

    def prediction(self, moments: RunningMoments, spread: Tensor, **extras: Any) -> Prediction:  # noqa: D102
        return Prediction(moments.mean, moments.variance, spread, moments.variance + spread, **extras)

    def metric_inputs(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:  # noqa: D102
        means, variances = self.predictive_moments(outputs)
        return {
            "preds": means.mean(0),
            "means": means,
            "stds": variances.sqrt(),
            "log_prob": self.log_prob(outputs, target),
            "target": target,
        }
