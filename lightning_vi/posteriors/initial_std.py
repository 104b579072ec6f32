"""Initial posterior standard deviations."""

import math

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError


class ProportionalStd:
    r"""Initial posterior standard deviations proportional to each weight, :math:`\sigma_i = \delta |w_i|`.

    With a prior centered at the same weights it is the warm start MOPED (Krishnan et al., "Specifying weight priors in
    Bayesian deep neural networks with empirical Bayes", AAAI 2020).

    Args:
        delta: :math:`\delta`, the relative width.
        min_std: The smallest standard deviation, for weights at or near zero.

    Raises:
        ValueError: If a number is not positive and finite.

    Example:
        >>> import torch
        >>> ProportionalStd(delta=0.1, min_std=0.01)(torch.tensor([2.0, -1.0, 0.0]))
        tensor([0.2000, 0.1000, 0.0100])
    """

    def __init__(self, delta: float = 0.1, min_std: float = 1e-3) -> None:
        for name, value in (("delta", delta), ("min_std", min_std)):
            if not (value > 0 and math.isfinite(value)):
                raise InputValueError(f"{name} must be positive and finite, got {value}")
        self.delta = delta
        self.min_std = min_std

    def __call__(self, parameter: Tensor) -> Tensor:
        """Standard deviations for the elements of a parameter.

        Args:
            parameter: Any shape.

        Returns:
            The shape of `parameter`.
        """
        return (self.delta * parameter.abs()).clamp_min(self.min_std)

    def __repr__(self) -> str:
        return f"ProportionalStd(delta={self.delta}, min_std={self.min_std})"


InitialStd = float | ProportionalStd

DEFAULT_STD = 0.0067
"""Initial standard deviation, small enough for the means to fit the data before the noise matters."""


def initial_rho(init_std: InitialStd, parameter: Tensor) -> Tensor:
    """Unconstrained scales of a parameter's initial posterior.

    Args:
        init_std: One standard deviation for all elements, or `ProportionalStd`.
        parameter: The posterior means, any shape.

    Returns:
        The shape of `parameter`.

    Raises:
        ValueError: If the standard deviation is not positive and finite.
    """
    if isinstance(init_std, ProportionalStd):
        std = init_std(parameter.detach())
        return std + torch.log(-torch.expm1(-std))
    if not (init_std > 0 and math.isfinite(init_std)):
        raise InputValueError(f"init_std must be positive and finite, got {init_std}")
    return torch.full_like(parameter, inverse_softplus(init_std), requires_grad=False)


def inverse_softplus(value: float) -> float:
    """The number whose softplus is `value`.

    Args:
        value: Positive.

    Returns:
        ``log(exp(value) - 1)`` without overflow or cancellation.

    Raises:
        ValueError: If `value` is not positive and finite.

    Example:
        >>> round(inverse_softplus(0.6931471805599453), 9)
        0.0
    """
    if not (value > 0 and math.isfinite(value)):
        raise InputValueError(f"value must be positive and finite, got {value}")
    return value + math.log(-math.expm1(-value))
