"""Scale-mixture prior."""

import math
from collections.abc import Hashable

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.priors.base import Prior, check_number


class ScaleMixturePrior(Prior):
    r"""Mixture prior of two Gaussians, :math:`\pi \mathcal{N}(0, s_1^2) + (1 - \pi) \mathcal{N}(0, s_2^2)`.

    The narrow component shrinks most weights to zero, the wide one allows large weights (Blundell et al., "Weight
    uncertainty in neural networks", ICML 2015). The KL divergence has no closed form. It is estimated without bias: the
    entropy is exact, and the expected log density of the prior is averaged over antithetic pairs of reparameterized
    samples :math:`\mu \pm \sigma \epsilon`.

    Args:
        mixing_weight: Weight :math:`\pi` of the wide component, between 0 and 1.
        wide_std: Standard deviation :math:`s_1` of the wide component.
        narrow_std: Standard deviation :math:`s_2` of the narrow component.
        num_pairs: Number of pairs of samples.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> import torch
        >>> ScaleMixturePrior(0.5, wide_std=1.0, narrow_std=0.1).log_prob(torch.zeros(1))
        tensor([0.7858])
    """

    def __init__(
        self, mixing_weight: float = 0.5, wide_std: float = 1.0, narrow_std: float = 0.1, num_pairs: int = 1
    ) -> None:
        super().__init__()
        self.mixing_weight = check_number("mixing_weight", mixing_weight, positive=True)
        if not mixing_weight < 1:
            raise InputValueError(f"mixing_weight must lie strictly between 0 and 1, got {mixing_weight}")
        self.wide_std = check_number("wide_std", wide_std, positive=True)
        self.narrow_std = check_number("narrow_std", narrow_std, positive=True)
        if num_pairs < 1:
            raise InputValueError(f"num_pairs must be positive, got {num_pairs}")
        self.num_pairs = num_pairs

    def for_parameter(self, name: str, parameter: Tensor, num_inputs: int) -> "ScaleMixturePrior":  # noqa: ARG002, D102
        return ScaleMixturePrior(self.mixing_weight, self.wide_std, self.narrow_std, self.num_pairs)

    @property
    def joint_key(self) -> Hashable:  # noqa: D102
        return ScaleMixturePrior, self.mixing_weight, self.wide_std, self.narrow_std, self.num_pairs

    def kl_from_gaussian(self, mean: Tensor, std: Tensor) -> Tensor:  # noqa: D102
        deviation = std * torch.randn(self.num_pairs, *mean.shape, dtype=mean.dtype, device=mean.device)
        expected = (self.log_prob(mean + deviation) + self.log_prob(mean - deviation)).sum() / (2 * self.num_pairs)
        return -std.log().sum() - 0.5 * math.log(2 * math.pi * math.e) * mean.numel() - expected

    def std_for(self, mean: Tensor, std: Tensor) -> float:  # noqa: ARG002, D102
        return math.sqrt(self.mixing_weight * self.wide_std**2 + (1 - self.mixing_weight) * self.narrow_std**2)

    def log_prob(self, value: Tensor) -> Tensor:  # noqa: D102
        squares = value * value
        wide = squares * (-0.5 / self.wide_std**2) + math.log(self.mixing_weight / self.wide_std)
        narrow = squares * (-0.5 / self.narrow_std**2) + math.log((1 - self.mixing_weight) / self.narrow_std)
        return torch.logaddexp(wide, narrow) - 0.5 * math.log(2 * math.pi)

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"mixing_weight={self.mixing_weight}, wide_std={self.wide_std}, narrow_std={self.narrow_std}, "
            f"num_pairs={self.num_pairs}"
        )
