"""Laplace prior."""

import math
from collections.abc import Hashable

import torch
from torch import Tensor

from lightning_vi.priors.base import Prior, check_number


class LaplacePrior(Prior):
    r"""Independent Laplace prior, :math:`p(w) = \prod_i \frac{1}{2b} e^{-|w_i - m| / b}`.

    The peak at the mean and the heavy tails favor sparse weights. With :math:`d = \mu - m` the KL divergence from a
    Gaussian has a closed form,

    .. math:: \mathrm{KL} = \sum_i \ln 2b + \frac{1}{b} \Big(\sigma \sqrt{2 / \pi}\, e^{-d^2 / 2 \sigma^2}
        + d\, \mathrm{erf}\frac{d}{\sqrt 2 \sigma}\Big) - \frac12 \ln 2 \pi e \sigma^2 .

    See Williams, "Bayesian regularization and pruning using a Laplace prior", Neural Computation 1995.

    Args:
        mean: Prior mean m.
        std: Prior standard deviation, :math:`\sqrt 2 b`.

    Raises:
        ValueError: If `mean` is not finite, or `std` is not positive and finite.

    Example:
        >>> import torch
        >>> LaplacePrior(std=1.0).log_prob(torch.zeros(1))
        tensor([-0.3466])
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        super().__init__()
        self.mean = check_number("mean", mean)
        self.std = check_number("std", std, positive=True)

    @property
    def scale(self) -> float:
        """Scale parameter b."""
        return self.std / math.sqrt(2.0)

    def for_parameter(self, name: str, parameter: Tensor, num_inputs: int) -> "LaplacePrior":  # noqa: ARG002, D102
        return LaplacePrior(self.mean, self.std)

    @property
    def joint_key(self) -> Hashable:  # noqa: D102
        return LaplacePrior, self.mean, self.std

    def kl_from_gaussian(self, mean: Tensor, std: Tensor) -> Tensor:  # noqa: D102
        offset = mean - self.mean
        ratio = offset / std
        distance = std * math.sqrt(2 / math.pi) * torch.exp(-0.5 * ratio * ratio)
        distance = distance + offset * torch.erf(ratio / math.sqrt(2.0))
        constant = math.log(2 * self.scale) - 0.5 * math.log(2 * math.pi * math.e)
        return (distance / self.scale - std.log()).sum() + constant * mean.numel()

    def std_for(self, mean: Tensor, std: Tensor) -> float:  # noqa: ARG002, D102
        return self.std

    def log_prob(self, value: Tensor) -> Tensor:  # noqa: D102
        return -(value - self.mean).abs() / self.scale - math.log(2 * self.scale)

    def extra_repr(self) -> str:  # noqa: D102
        return f"mean={self.mean}, std={self.std}"
