"""Rules of sums, averages and maxima over dimensions, and of pooling."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.moments.gaussian_tensor import make_gaussian, mean_of
from lightning_vi.moments.propagation import NoRuleError, rule


@rule("sum", "mean")
def summed(func: Callable[..., Any], input: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: A002
    """Sum or mean of independent elements."""
    mean = func(mean_of(input), *args, **options)
    variance = func(input.variance, *args, **options)  # type: ignore[attr-defined]
    if func.__name__ == "mean":
        variance = variance * (mean.numel() / input.numel())
    return make_gaussian(mean, variance)


@rule("cumsum")
def accumulated(func: Callable[..., Any], input: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: A002
    """Partial sums of independent elements."""
    return make_gaussian(func(mean_of(input), *args, **options), func(input.variance, *args, **options))  # type: ignore[attr-defined]


@rule("avg_pool1d", "avg_pool2d", "avg_pool3d")
def average_pool(
    func: Callable[..., Any],
    input: Tensor,  # noqa: A002
    kernel_size: Any,
    *args: Any,
    **options: Any,
) -> Tensor:
    """Average over windows of independent elements; windows at the edge count as whole ones."""
    dims = int(func.__name__[-2])
    size = kernel_size**dims if isinstance(kernel_size, int) else math.prod(kernel_size * (dims // len(kernel_size)))
    mean = func(mean_of(input), kernel_size, *args, **options)
    return make_gaussian(mean, func(input.variance, kernel_size, *args, **options) / size)  # type: ignore[attr-defined]


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def adaptive_average_pool(func: Callable[..., Any], input: Tensor, output_size: Any) -> Tensor:  # noqa: A002
    """Average over windows of independent elements; windows that differ count with their mean size."""
    mean = func(mean_of(input), output_size)
    return make_gaussian(mean, func(input.variance, output_size) * (mean.numel() / input.numel()))  # type: ignore[attr-defined]


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(func: Callable[..., Any], input: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: A002
    """Maximum over windows: the element with the largest mean."""
    options.pop("return_indices", None)
    with_indices = getattr(F, f"{func.__name__}_with_indices")
    mean, indices = with_indices(mean_of(input), *args[:5], **options)
    return make_gaussian(mean, _selected(input.variance, indices))  # type: ignore[attr-defined]


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(func: Callable[..., Any], input: Tensor, output_size: Any, *_: Any, **__: Any) -> Tensor:  # noqa: A002
    """Maximum over windows: the element with the largest mean."""
    mean, indices = getattr(F, f"{func.__name__}_with_indices")(mean_of(input), output_size)
    return make_gaussian(mean, _selected(input.variance, indices))  # type: ignore[attr-defined]


def _selected(variance: Tensor, indices: Tensor) -> Tensor:
    """Elements of a variance [B, C, ...] by their indices among the flattened positions."""
    return variance.flatten(2).gather(2, indices.flatten(2)).view_as(indices)


@rule("amax", "amin", "max", "min")
def extreme(func: Callable[..., Any], input: Tensor, *args: Any, **options: Any) -> Any:  # noqa: A002
    """Maximum over a dimension: the element with the largest mean."""
    dim = options.pop("dim", args[0] if args else None)
    if not isinstance(dim, int):
        raise NoRuleError(func.__name__)
    is_max = func.__name__ in ("amax", "max")
    keepdim = options.get("keepdim", args[1] if len(args) > 1 else False)
    mean = mean_of(input)
    index = (mean.argmax if is_max else mean.argmin)(dim, keepdim=True)
    pair = (part.gather(dim, index) for part in (mean, input.variance))  # type: ignore[attr-defined]
    value, spread = (part if keepdim else part.squeeze(dim) for part in pair)
    result = make_gaussian(value, spread)
    if func.__name__ in ("amax", "amin"):
        return result
    kind = getattr(torch.return_types, func.__name__)
    return kind((result, index if keepdim else index.squeeze(dim)))
