"""Scales of posteriors that are computed from standard deviations when something reads them."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.functional import put_inverse_softplus

_LOCK = threading.RLock()  # for predictions during a fit


class DeferredScales(nn.Parameter):
    """Unconstrained scales whose values are not computed yet.

    An optimizer that learns standard deviations makes them from a parameter with `defer_scales`. Whatever reads the
    parameter first, such as `state_dict`, a prediction or arithmetic, has its values computed, and it is a plain
    parameter again. Gradients, shapes and types are available without that. What bypasses Python's dispatch sees the
    values from before: `torch.autograd.Function.apply`, collectives that take the parameter itself, and views that were
    made before the optimizer's step.
    """

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func not in _WITHOUT_VALUES:
            _write_all([*args, *given.values()])
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **given)


_WITHOUT_VALUES = {
    *(
        vars(torch._C.TensorBase)[name].__get__
        for name in ("shape", "device", "dtype", "requires_grad", "is_leaf", "layout")
    ),
    vars(torch._C.TensorBase)["grad"].__get__,
    vars(torch._C.TensorBase)["grad"].__set__,
    Tensor.numel,
    Tensor.dim,
    Tensor.size,
    Tensor.is_complex,
    Tensor.is_floating_point,
}


def _write_all(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, DeferredScales):
            _write(value)
        elif isinstance(value, list | tuple):
            _write_all(value)


def _write(scales: DeferredScales) -> None:
    with _LOCK, torch.no_grad(), torch._C.DisableTorchFunctionSubclass():
        std = scales.__dict__.pop("_std", None)
        if std is not None:
            put_inverse_softplus(values := torch.empty_like(std), std)
            scales.copy_(values)
        scales.__class__ = nn.Parameter  # type: ignore[assignment]


def defer_scales(rho: Tensor, std: Tensor) -> None:
    """Makes scales the inverse softplus of standard deviations, which is computed when something reads them.

    Args:
        rho: Unconstrained scales, a parameter of any shape; a tensor of another class is written at once.
        std: Standard deviations, the same shape; not copied.

    Example:
        >>> rho, std = nn.Parameter(torch.zeros(3)), torch.full((3,), 0.1)
        >>> defer_scales(rho, std)
        >>> type(rho).__name__, known_std(rho) is std
        ('DeferredScales', True)
        >>> rho[0].item(), type(rho).__name__, known_std(rho)
        (-2.252168655395508, 'Parameter', None)
    """
    if type(rho) not in (nn.Parameter, DeferredScales):
        put_inverse_softplus(rho, std)
        return
    with _LOCK:
        rho.__dict__["_std"] = std
        rho.__class__ = DeferredScales


def known_std(rho: Tensor) -> Tensor | None:
    """Standard deviations of scales that nothing has read since `defer_scales`.

    Args:
        rho: Unconstrained scales, any shape.

    Returns:
        Their softplus, the tensor itself that was given; None if the scales have values.
    """
    return rho.__dict__.get("_std") if isinstance(rho, DeferredScales) else None


def trained_stds(scales: Sequence[Tensor]) -> list[Tensor]:
    """Standard deviations, whose gradients become those of the scales.

    They are the derivatives that `PosteriorIVON` needs, so that nobody multiplies by the softplus's derivative and
    divides by it again.

    Args:
        scales: Unconstrained scales, any shapes.

    Returns:
        The softplus of each.

    Example:
        >>> rho = nn.Parameter(torch.full((3,), -3.0))
        >>> (std,) = trained_stds([rho])
        >>> std.sum().backward()
        >>> std[0].item(), rho.grad[0].item()
        (0.04858735203742981, 1.0)
    """
    if torch.compiler.is_compiling():
        return [F.softplus(rho).detach() + (rho - rho.detach()) for rho in scales]
    stds = [F.softplus(rho.detach()) if (std := known_std(rho)) is None else std for rho in scales]
    return list(_Stds.apply(stds, *scales))  # type: ignore[no-untyped-call]


class _Stds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stds: Sequence[Tensor], *scales: Tensor) -> tuple[Tensor, ...]:  # noqa: ARG004
        ctx.set_materialize_grads(False)
        return tuple(std.detach() for std in stds)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:  # noqa: ARG004
        return None, *grad_outputs
