"""Rules of functions of single elements."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lightning_vi.moments.activations import (
    by_quadrature,
    clamp_moments,
    fast_tanh,
    gelu_moments,
    leaky_relu_moments,
    maximum_moments,
)
from lightning_vi.moments.gaussian_tensor import GaussianTensor, defer, make_gaussian, mean_of, variance_of
from lightning_vi.moments.linear_rules import elementwise_product
from lightning_vi.moments.propagation import NoRuleError, rule

_SMOOTH = (
    *("gelu", "silu", "mish", "tanh", "sigmoid", "logsigmoid", "softplus", "softsign", "tanhshrink", "elu", "celu"),
    *("selu", "hardswish", "exp", "expm1", "log", "log1p", "sqrt", "rsqrt", "sin", "cos", "erf", "abs", "atan"),
    *("reciprocal", "softshrink", "hardshrink", "sinh", "cosh", "asinh", "special_expit", "log_sigmoid"),
)


@rule(*_SMOOTH, keeps_correlation=True)
def by_nodes(func: Callable[..., Any], input: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: A002
    """Any elementwise function, by quadrature."""
    options.pop("inplace", None)
    takes_place = args and isinstance(args[-1], bool)
    rest = args[:-1] if takes_place else args
    fast = _FAST.get(func.__name__) if not rest else None
    if func.__name__ == "gelu" and options.get("approximate", "none") == "none":
        return make_gaussian(*gelu_moments(mean_of(input), input.variance))  # type: ignore[attr-defined]
    function = fast or partial(_first_of, func, rest, options)
    return make_gaussian(*by_quadrature(function, mean_of(input), input.variance))  # type: ignore[attr-defined]


def _first_of(func: Callable[..., Any], rest: tuple[Any, ...], options: dict[str, Any], x: Tensor) -> Tensor:
    result: Tensor = func(x, *rest, **options)
    return result


_FAST: dict[str, Callable[[Tensor], Tensor]] = {"tanh": fast_tanh}


@rule("relu", keeps_correlation=True)
def relu(func: Callable[..., Any], input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002, ARG001
    """ReLU, in closed form, which max pooling computes for the elements that it takes alone."""
    return defer(leaky_relu_moments, mean_of(input), input.variance)  # type: ignore[attr-defined]


@rule("leaky_relu", keeps_correlation=True)
def leaky_relu(
    func: Callable[..., Any],  # noqa: ARG001
    input: Tensor,  # noqa: A002
    negative_slope: float = 0.01,
    inplace: bool = False,  # noqa: ARG001
) -> Tensor:
    """Leaky ReLU, in closed form."""
    return make_gaussian(*leaky_relu_moments(mean_of(input), input.variance, negative_slope))  # type: ignore[attr-defined]


@rule("prelu", keeps_correlation=True)
def prelu(func: Callable[..., Any], input: Tensor, weight: Tensor) -> Tensor:  # noqa: A002, ARG001
    """Leaky ReLU whose slope may be random too, in closed form."""
    shape = [1, -1, *[1] * (input.dim() - 2)] if input.dim() > 1 else [-1]
    slope, slope_variance = mean_of(weight).view(shape), variance_of(weight)
    mean, variance = mean_of(input), variance_of(input)
    if variance is None:
        return make_gaussian(
            torch.where(mean > 0, mean, slope * mean),
            mean.clamp_max(0).square() * slope_variance.view(shape),  # type: ignore[union-attr]
        )
    result, spread = leaky_relu_moments(mean, variance, slope)
    if slope_variance is not None:
        negative, negative_spread = leaky_relu_moments(-mean, variance)
        spread = spread + slope_variance.view(shape) * (negative.square() + negative_spread)
    return make_gaussian(result, spread)


@rule("clamp", "clip", "hardtanh", "relu6", "clamp_min", "clamp_max", keeps_correlation=True)
def clamp(
    func: Callable[..., Any],
    input: Tensor,  # noqa: A002
    *bounds: Any,
    min: float | None = None,  # noqa: A002
    max: float | None = None,  # noqa: A002
    **options: Any,
) -> Tensor:
    """Functions that are constant outside of an interval, in closed form."""
    name = func.__name__.rstrip("_")
    inf = float("inf")
    low, high = {"hardtanh": (-1.0, 1.0), "relu6": (0.0, 6.0)}.get(name, (min, max))
    numbers = [bound for bound in bounds if not isinstance(bound, bool)]
    if name == "hardtanh":
        low, high = options.get("min_val", low), options.get("max_val", high)
    if name == "clamp_max" and numbers:
        high = numbers[0]
    elif numbers:
        low, high = numbers[0], numbers[1] if len(numbers) > 1 else high
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        raise NoRuleError(name)
    low, high = -inf if low is None else float(low), inf if high is None else float(high)
    return make_gaussian(*clamp_moments(mean_of(input), input.variance, low, high))  # type: ignore[attr-defined]


@rule("hardsigmoid", keeps_correlation=True)
def hardsigmoid(func: Callable[..., Any], input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002, ARG001
    """Hard sigmoid, in closed form."""
    return make_gaussian(*clamp_moments(mean_of(input) / 6 + 0.5, input.variance / 36, 0.0, 1.0))  # type: ignore[attr-defined]


@rule("maximum", "minimum")
def maximum(func: Callable[..., Any], input: Tensor, other: Tensor) -> Tensor:  # noqa: A002
    """The larger or the smaller one of two tensors, as for independent ones."""
    sign = 1 if func.__name__ == "maximum" else -1
    shape = torch.broadcast_shapes(input.shape, other.shape)  # type: ignore[no-untyped-call]
    parts = []
    for x in (input, other):
        variance = variance_of(x)
        spread = mean_of(x).new_zeros(()) if variance is None else variance
        parts.append((sign * mean_of(x).expand(shape), spread.expand(shape)))
    mean, spread = maximum_moments(*parts)
    return make_gaussian(sign * mean, spread)


@rule("square", keeps_correlation=True)
def square(func: Callable[..., Any], input: Tensor) -> Tensor:  # noqa: A002, ARG001
    """Square, in closed form."""
    mean, variance = mean_of(input), input.variance  # type: ignore[attr-defined]
    return make_gaussian(mean.square() + variance, 4 * variance * mean.square() + 2 * variance.square())


@rule("pow", "__pow__", keeps_correlation=True)
def power(func: Callable[..., Any], input: Any, exponent: Any) -> Tensor:  # noqa: A002
    """Power with a constant exponent."""
    if isinstance(exponent, GaussianTensor) or not isinstance(input, GaussianTensor):
        raise NoRuleError("pow")
    if exponent == 2:
        return square(func, input)
    return make_gaussian(*by_quadrature(partial(torch.pow, exponent=exponent), mean_of(input), input.variance))


@rule("glu")
def glu(func: Callable[..., Any], input: Tensor, dim: int = -1) -> Tensor:  # noqa: A002, ARG001
    """Gated linear unit with independent halves."""
    halves = zip(mean_of(input).chunk(2, dim), input.variance.chunk(2, dim), strict=True)  # type: ignore[attr-defined]
    first, second = (make_gaussian(*half) for half in halves)
    return elementwise_product(torch.mul, first, by_nodes(torch.sigmoid, second))
