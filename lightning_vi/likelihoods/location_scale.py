"""Base classes of observation models with a location and a scale."""

import copy
import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.mixture import Mixture
from lightning_vi.likelihoods.base import Likelihood, Missing
from lightning_vi.likelihoods.regression import RegressionLikelihood

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


def one_for_each_target(name: str, value: float | Sequence[float], num_targets: int, above: float = 0.0) -> Tensor:
    """Returns a noise parameter for each target.

    Args:
        name: Name of the argument.
        value: One number, or one for each target.
        num_targets: D.
        above: Each number must be larger.

    Returns:
        Shape [D].

    Raises:
        ValueError: If a number is too small or not finite, or there is not one for each target.
    """
    parameter = torch.as_tensor(value, dtype=torch.get_default_dtype())
    if parameter.shape not in (torch.Size(), (num_targets,)):
        raise InputValueError(f"{name} must be one number or {num_targets}, one for each target, got {value}")
    if not ((parameter > above).all() and parameter.isfinite().all()):
        wanted = f"larger than {above:g}" if above else "positive"
        raise InputValueError(f"{name} must be {wanted} and finite, got {parameter.tolist()}")
    return parameter.expand(num_targets).clone()


def diagonal_factor(roots: Tensor) -> Tensor:
    """Square root of a diagonal information matrix.

    Args:
        roots: Square roots of the diagonal, shape [B, ...], with E elements for each datum.

    Returns:
        Shape [B, E, E].
    """
    return torch.diag_embed(roots.flatten(1))


class LocationScaleLikelihood(RegressionLikelihood):
    r"""Base class of distributions with a mean :math:`\mu(f)` and a standard deviation :math:`\sigma(f)`.

    The network predicts in standardized units, :math:`(y - m) / s`, if `set_target_scaling` has set m and s. Targets,
    predictions, densities and metrics are in the original units. A fit on data whose datamodule gives no m and s finds
    them in the training data if `scale_targets` is True.

    Args:
        num_targets: D.
        scale_targets: Whether a fit finds m and s.
        missing: What NaN among the targets is, ``"error"`` or ``"ignore"``.

    Raises:
        ValueError: If `num_targets` is not positive or `missing` is unknown.
    """

    target_mean: Tensor
    target_std: Tensor

    def __init__(self, num_targets: int = 1, missing: Missing = "error", scale_targets: bool = True) -> None:
        super().__init__(num_targets, missing)
        self.scale_targets = scale_targets
        self.register_buffer("target_mean", torch.zeros(num_targets))
        self.register_buffer("target_std", torch.ones(num_targets))

    @abstractmethod
    def standardized_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in the network's units.

        Args:
            outputs: Network outputs, shape [S, B, ..., width].

        Returns:
            Each of a shape that broadcasts to [S, B, ..., D].
        """

    @abstractmethod
    def standardized_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Log density in the network's units.

        Args:
            outputs: Network outputs, shape [S, B, ..., width].
            target: Targets in the network's units, shape [B, ..., D].

        Returns:
            Nats, shape [S, B, ..., D].
        """

    @property
    def is_scaled(self) -> bool:  # noqa: D102
        return bool((self.target_mean != 0).any() or (self.target_std != 1).any())

    def set_target_scaling(self, mean: Tensor, std: Tensor) -> None:  # noqa: D102
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != (self.num_targets,) or not value.isfinite().all():
                raise InputValueError(
                    f"{name} must be finite and of shape ({self.num_targets},), got {value} of {tuple(value.shape)}"
                )
        if not (std > 0).all():
            raise InputValueError(f"std must be positive, got {std}")
        self.target_mean.copy_(mean)
        self.target_std.copy_(std)

    def scaled_as(self, other: Likelihood) -> Likelihood:  # noqa: D102
        other = other.unwrapped
        if self.is_scaled or not isinstance(other, LocationScaleLikelihood) or other.num_targets != self.num_targets:
            return self
        scaled = copy.deepcopy(self)
        scaled.set_target_scaling(other.target_mean, other.target_std)
        return scaled

    def _standardize(self, target: Tensor) -> Tensor:
        return (target - self.target_mean) / self.target_std

    def target_features(self, target: Tensor) -> Tensor:
        """Standardized targets.

        Args:
            target: Shape [B, D].

        Returns:
            Shape [B, D].
        """
        return self._standardize(target)

    def elementwise_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        return self.standardized_log_prob(outputs, self._standardize(target)) - self.target_std.log()

    def elementwise_point_loss(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        mean, _ = self.standardized_moments(outputs)
        return (mean - self._standardize(target)).square()

    def point_prediction(self, outputs: Tensor) -> Tensor:  # noqa: D102
        mean, _ = self.standardized_moments(outputs.mean(0))
        return mean * self.target_std + self.target_mean

    def predictive_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mean, std = self.standardized_moments(outputs)
        return mean * self.target_std + self.target_mean, (std * self.target_std).square().expand_as(mean)


class GaussianNoise(LocationScaleLikelihood):
    r"""Base class of Gaussians :math:`\mathcal{N}(y \mid \mu(f), \sigma(f)^2)` for each of D targets.

    Args:
        num_targets: D.
        scale_targets: Whether a fit finds the scaling of the targets.
        missing: What NaN among the targets is, ``"error"`` or ``"ignore"``.

    Raises:
        ValueError: If `num_targets` is not positive or `missing` is unknown.
    """

    def standardized_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        mean, std = self.standardized_moments(outputs)
        return gaussian_log_prob((target - mean) / std, std)

    def mixture(self, outputs: Tensor) -> Mixture | None:  # noqa: ARG002, D102
        return None
