"""Gaussian noise of one standard deviation for each target."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.functional import inverse_softplus
from lightning_vi.likelihoods.base import Missing
from lightning_vi.likelihoods.location_scale import (
    GaussianNoise,
    diagonal_factor,
    gaussian_log_prob,
    one_for_each_target,
)
from lightning_vi.likelihoods.prediction import Prediction


class Gaussian(GaussianNoise):
    r"""Homoscedastic Gaussian noise, :math:`y_d \sim \mathcal{N}(f_d, \sigma_d^2)`.

    Args:
        noise_std: Standard deviation of the noise in the units that the network predicts (standardized units where
            the datamodule standardizes the target): a number, one number for each target, or None to learn one for
            each target.
        num_targets: D, the width of the network's output.
        initial_noise_std: Initial value of a learned standard deviation.
        scale_targets: Whether a fit on plain dataloaders, or on a datamodule without `target_mean` and `target_std`,
            standardizes the targets by the training data, unless they are of order one. No effect where `noise_std` is
            given, so that it is in the units of such targets.
        missing: ``"ignore"`` if NaN stands for targets that were not observed: they have no part in losses, metrics,
            calibrations and curvature. By default NaN is an error.

    Raises:
        ValueError: If a standard deviation is not positive, or there is not one for each target, or `missing` is
            unknown.

    Example:
        >>> import torch
        >>> likelihood = Gaussian(noise_std=0.5)
        >>> likelihood.log_prob(torch.zeros(1, 2, 1), torch.zeros(2, 1))
        tensor([[-0.2258, -0.2258]])
    """

    has_gaussian_noise = True
    noise_std_given: Tensor | None

    def __init__(
        self,
        noise_std: float | Sequence[float] | None = None,
        num_targets: int = 1,
        initial_noise_std: float = 0.5,
        scale_targets: bool = True,
        missing: Missing = "error",
    ) -> None:
        super().__init__(num_targets, missing, scale_targets=scale_targets and noise_std is None)
        label, value = ("initial_noise_std", initial_noise_std) if noise_std is None else ("noise_std", noise_std)
        std = one_for_each_target(label, value, num_targets)
        self.noise_rho = nn.Parameter(inverse_softplus(std)) if noise_std is None else None
        self.register_buffer("noise_std_given", None if noise_std is None else std)

    @property
    def noise_std(self) -> Tensor:
        """Standard deviation of the noise in the network's units, shape [D]."""
        if self.noise_rho is not None:
            return F.softplus(self.noise_rho)
        return self.get_buffer("noise_std_given")

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return self.num_targets

    def standardized_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return outputs, self.noise_std.to(outputs.dtype)

    def information_factor(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return diagonal_factor((1 / self.noise_std).expand_as(outputs))

    def elementwise_expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        r"""Exact, :math:`\ln \mathcal{N}(y_d \mid m_d, \sigma_d^2) - v_d / 2 \sigma_d^2`.

        Args:
            mean: Means m of the network's outputs, shape [B, ..., D].
            variance: Their variances v, the shape of `mean`.
            target: Targets, shape [B, ..., D].

        Returns:
            Nats, the shape of `target`.
        """
        return self.elementwise_log_prob(mean, target) - 0.5 * variance / self.noise_std.square()

    def gaussian_prediction(self, mean: Tensor, std: Tensor, **extras: Any) -> Prediction:  # noqa: D102
        means, noise_variance = self.predictive_moments(mean)
        epistemic = (std * self.target_std).square()
        return Prediction(means, epistemic, noise_variance, epistemic + noise_variance, **extras)

    def gaussian_metric_inputs(self, mean: Tensor, std: Tensor, target: Tensor) -> dict[str, Any]:  # noqa: D102
        prediction = self.gaussian_prediction(mean, std)
        total_std = prediction.total_var.sqrt()
        log_prob = gaussian_log_prob((self.fill(target) - prediction.mean) / total_std, total_std).unsqueeze(0)
        return {
            "preds": prediction.mean,
            "means": prediction.mean.unsqueeze(0),
            "stds": total_std.unsqueeze(0),
            "log_prob": self._sums(log_prob, target),
            "target": target,
        }
