"""Standard deviations that an optimizer has computed, for the next training step."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SMALL = 2**14
"""Number of elements up to which a tensor is not kept."""


class KnownStds:
    """Keeps the softplus of scales, for as long as the scales have the same values.

    Values are compared, because not every update increments a tensor's version. Copies and pickles keep nothing. Small
    tensors are not kept, and none on other devices than the CPU, because a comparison waits for the device.

    Example:
        >>> known, rho = KnownStds(), torch.nn.Parameter(torch.full((2**15,), -3.0))
        >>> known.keep(rho, F.softplus(rho.detach()))
        >>> known.std(rho)[:2]
        tensor([0.0486, 0.0486], grad_fn=<SliceBackward0>)
    """

    def __init__(self) -> None:
        self._kept: dict[Tensor, tuple[Tensor, Tensor]] = {}

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
        then = self._kept[rho][0] if rho in self._kept else torch.empty_like(rho, requires_grad=False)
        self._kept[rho] = then.copy_(rho.detach()), std

    def std(self, rho: Tensor) -> Tensor:
        """Standard deviations, differentiable in the scales.

        Args:
            rho: Unconstrained scales, any shape.

        Returns:
            The softplus of `rho`.
        """
        if torch.compiler.is_compiling() or rho not in self._kept:
            return F.softplus(rho)
        then, std = self._kept[rho]
        if (then.device, then.dtype) != (rho.device, rho.dtype) or not torch.equal(then, rho):
            del self._kept[rho]
            return F.softplus(rho)
        known: Tensor = _KnownSoftplus.apply(rho, std)  # type: ignore[no-untyped-call]
        return known


class _KnownSoftplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rho: Tensor, std: Tensor) -> Tensor:
        ctx.save_for_backward(rho)
        return std.view_as(std)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (rho,) = ctx.saved_tensors
        return grad_outputs[0] * rho.sigmoid(), None
