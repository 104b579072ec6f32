"""Base class of priors."""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence

from torch import Tensor, nn

from lightning_vi.errors import InputValueError
from lightning_vi.functional.divergence import OfMoments


class Prior(nn.Module, ABC):
    """Base class of priors p(w) over the elements of a parameter tensor."""

    @abstractmethod
    def for_parameter(self, name: str, parameter: Tensor, num_inputs: int) -> "Prior":
        """Returns a new prior, resolved for the shape of one parameter.

        Args:
            name: Name of the parameter in its module, such as ``"weight"`` or ``"bias"``.
            parameter: Value of the parameter, any shape.
            num_inputs: Number of inputs that each output of the module sums over (fan-in).

        Returns:
            The prior of the parameter.
        """

    def load_hyperparameter(self, name: str, value: Tensor) -> bool:
        """Replaces a numeric hyperparameter by a buffer with the value from a state dictionary.

        Args:
            name: Name of the hyperparameter.
            value: Its new value.

        Returns:
            True if the prior has a numeric hyperparameter of this name.
        """
        if not isinstance(getattr(self, name, None), float | int):
            return False
        delattr(self, name)
        self.register_buffer(name, value.detach().clone())
        return True

    @property
    def joint_key(self) -> Hashable:
        """Key shared by equal priors whose parameters may be concatenated, see `joint_kl`; None for other priors."""
        return None

    @property
    def depends_on_moments_only(self) -> bool:
        """True if the expected log density depends only on the means and variances of the posterior."""
        return False

    def std_for(self, mean: Tensor, std: Tensor) -> Tensor | float | None:  # noqa: ARG002
        """Prior standard deviation of the elements, to compare the posterior with.

        Args:
            mean: Posterior means, shape of the parameter.
            std: Posterior standard deviations, shape of the parameter.

        Returns:
            A number, or a tensor that broadcasts to `std`; None, the default, if it is not known.
        """
        return None

    @abstractmethod
    def kl_from_gaussian(self, mean: Tensor, std: Tensor) -> Tensor:
        """KL divergence from a diagonal Gaussian posterior to this prior, summed over the elements.

        Args:
            mean: Posterior means, shape of the parameter.
            std: Posterior standard deviations, shape of the parameter.

        Returns:
            KL divergence in nats, a scalar tensor.
        """

    def joint_kl(self, mean: Tensor, std: Tensor, sizes: Sequence[int]) -> Tensor:  # noqa: ARG002
        """KL divergence of several concatenated parameters whose priors have the same `joint_key`.

        Args:
            mean: Posterior means of all parameters, shape [sum of `sizes`].
            std: Posterior standard deviations, shape [sum of `sizes`].
            sizes: Number of elements of each parameter.

        Returns:
            KL divergence in nats, a scalar tensor; that of `kl_from_gaussian` for priors of single elements.
        """
        return self.kl_from_gaussian(mean, std)

    def of_moments(self, sizes: Sequence[int]) -> OfMoments | None:  # noqa: ARG002
        """KL divergence of several parameters as a function of their second moments, see `moment_divergence`.

        Args:
            sizes: Number of elements of each parameter.

        Returns:
            None, the default, if it is no such function.
        """
        return None

    @abstractmethod
    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of each element.

        Args:
            value: Shape of the parameter, with any leading dimensions.

        Returns:
            Log density in nats, the shape of `value`.
        """


def check_number(name: str, value: float, *, positive: bool = False) -> float:
    """Checks a numeric argument and returns it.

    Args:
        name: Name of the argument.
        value: Value of the argument.
        positive: If True, the value must be positive.

    Returns:
        The value.

    Raises:
        ValueError: If the value is not finite, or not positive although required.
    """
    if not math.isfinite(value) or (positive and value <= 0):
        raise InputValueError(f"{name} must be {'positive and ' if positive else ''}finite, got {value}")
    return value
