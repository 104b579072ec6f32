"""Standard deviations that an optimizer has computed, for the next training step."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SMALL = 2**14
"""Number of elements up to which a tensor is not kept."""


class KnownStds:
    """Keeps the softplus of scales, for as long as the scales have the same values.

    Sums of values are compared, because not every update increments a tensor's version. Copies and pickles keep
    nothing. Small tensors are not kept, and none on other devices than the CPU, because a comparison waits for the
    device.

    Gradients stop at the standard deviations: those that reach a scale are the derivatives by its standard deviation,
    which `PosteriorIVON` needs, so that nobody multiplies by the softplus's derivative and divides by it again.

    Example:
        >>> known, rho = KnownStds(), torch.nn.Parameter(torch.full((2**15,), -3.0))
        >>> known.keep(rho, F.softplus(rho.detach()))
        >>> std = known.std(rho)
        >>> std.sum().backward()
        >>> std[0].item(), rho.grad[0].item()
        (0.04858735203742981, 1.0)
    """

    def __init__(self) -> None:
        self._kept: dict[Tensor, tuple[tuple[float, int], Tensor]] = {}

    def __reduce__(self) -> tuple[type["KnownStds"], tuple[()]]:
        return KnownStds, ()

    def can_keep(self, rho: Tensor) -> bool:
        """Returns True if it is worth while to keep the softplus of a tensor.

        Args:
            rho: Unconstrained scales, any shape.
        """
        return rho.device.type == "cpu" and rho.numel() > MAX_SMALL

    def keep(self, rho: Tensor, std: Tensor) -> None:
        """Keeps standard deviations.

        Args:
            rho: Unconstrained scales, any shape.
            std: Their softplus, the same shape; not copied.
        """
        self._kept[rho] = _mark(rho), std

    def kept(self, rho: Tensor) -> Tensor | None:
        """Standard deviations that are kept.

        Args:
            rho: Unconstrained scales, any shape.

        Returns:
            Their softplus; None if it is not kept.
        """
        if rho not in self._kept:
            return None
        mark, std = self._kept[rho]
        if (std.device, std.dtype) == (rho.device, rho.dtype) and mark == _mark(rho):
            return std
        del self._kept[rho]
        return None

    def std(self, rho: Tensor) -> Tensor:
        """Standard deviations, whose gradients become those of the scales.

        Args:
            rho: Unconstrained scales, any shape.

        Returns:
            The softplus of `rho`.
        """
        if torch.compiler.is_compiling():
            return F.softplus(rho).detach() + (rho - rho.detach())
        std = self.kept(rho)
        known: Tensor = _Std.apply(rho, F.softplus(rho.detach()) if std is None else std)  # type: ignore[no-untyped-call]
        return known


def _mark(rho: Tensor) -> tuple[float, int]:
    """Something that changes with the values of a tensor."""
    return rho.detach().sum().item(), rho._version


class _Std(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rho: Tensor, std: Tensor) -> Tensor:  # noqa: ARG004
        return std.view_as(std)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grad_outputs[0], None
