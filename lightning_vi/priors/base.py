"""What every prior answers."""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable

from torch import Tensor, nn


class Prior(nn.Module, ABC):
    """A prior p(w) over the elements of one parameter tensor."""

    @abstractmethod
    def for_parameter(self, name: str, parameter: Tensor, num_inputs: int) -> "Prior":
        """The prior of one parameter, with everything that depends on its shape settled.

        Args:
            name: The parameter's name within its module, such as ``"weight"`` or ``"bias"``.
            parameter: Its value, any shape.
            num_inputs: How many inputs each output of the module sums over.

        Returns:
            A new prior; this one stays as it is.
        """

    def load_hyperparameter(self, name: str, value: Tensor) -> bool:
        """Gives the prior a tensor of a state dictionary in place of a number of its own.

        Args:
            name: The number's name.
            value: The tensor.

        Returns:
            Whether there was such a number.
        """
        if not isinstance(getattr(self, name, None), float | int):
            return False
        delattr(self, name)
        self.register_buffer(name, value.detach().clone())
        return True

    @property
    def elementwise_key(self) -> Hashable:
        """Equal for priors that treat each element alike and in the same way; None for priors that do not.

        Tensors whose priors have one key may be joined before their divergence is computed.
        """
        return None

    @property
    def needs_moments_alone(self) -> bool:
        """Whether the expected log density depends on a posterior's means and variances alone."""
        return False

    @abstractmethod
    def kl_from_gaussian(self, mean: Tensor, std: Tensor) -> Tensor:
        """KL divergence from a diagonal Gaussian to this prior, summed over the elements.

        Args:
            mean: Posterior means, the parameter's shape.
            std: Posterior standard deviations, the parameter's shape.

        Returns:
            Nats, a scalar tensor.
        """

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of each element.

        Args:
            value: The parameter's shape, with any leading dimensions.

        Returns:
            Nats, the shape of `value`.
        """


def check_number(name: str, value: float, *, positive: bool = False) -> float:
    """Refuses a number that cannot describe a prior.

    Args:
        name: The argument's name.
        value: Its value.
        positive: Whether it must be positive.

    Returns:
        The value.

    Raises:
        ValueError: If it is not finite, or not positive where it must be.
    """
    if not math.isfinite(value) or (positive and value <= 0):
        raise ValueError(f"{name} must be {'positive and ' if positive else ''}finite, got {value}")
    return value
