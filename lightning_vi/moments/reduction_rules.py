"""Rules of sums, averages and maxima over dimensions, and of pooling."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.moments.correlation import shared_variance, with_shared
from lightning_vi.moments.gaussian_tensor import defer, first_of, make_gaussian, mean_of, positions
from lightning_vi.moments.propagation import NoRuleError, rule


@rule("sum", "mean")
def summed(
    func: Callable[..., Any],
    input: Tensor,  # noqa: A002
    dim: Any = None,
    keepdim: bool = False,
    **options: Any,
) -> Tensor:
    """Sum or mean; of correlated elements over positions."""
    dim = options.pop("axis", dim)
    dims = range(input.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = [each % input.dim() for each in dims]
    mean = func(mean_of(input), dims, keepdim, **options)
    shared = shared_variance(input, dims)
    if func.__name__ == "sum":
        shared = shared * math.prod(input.shape[each] for each in dims) ** 2
    return make_gaussian(mean, shared.reshape(mean.shape))


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
    """Average over windows; windows at the edge count as whole ones."""
    dims = int(func.__name__[-2])
    size = kernel_size**dims if isinstance(kernel_size, int) else math.prod(kernel_size * (dims // len(kernel_size)))
    return _averaged(lambda x: func(x, kernel_size, *args, **options), input, dims, size)


@rule("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d")
def adaptive_average_pool(func: Callable[..., Any], input: Tensor, output_size: Any) -> Tensor:  # noqa: A002
    """Average over windows; windows that differ count with their mean size."""
    dims = int(func.__name__[-2])
    sizes = [output_size] * dims if isinstance(output_size, int) else list(output_size)
    count = math.prod(old if new is None else new for old, new in zip(input.shape[-dims:], sizes, strict=True))
    return _averaged(lambda x: func(x, output_size), input, dims, math.prod(input.shape[-dims:]) / count)


def _averaged(pool: Callable[[Tensor], Tensor], input: Tensor, num_dims: int, size: float) -> Tensor:  # noqa: A002
    """Average over windows of the last dimensions."""
    mean, variance = pool(mean_of(input)), input.variance  # type: ignore[attr-defined]
    dims = range(input.dim() - num_dims, input.dim())
    shared = shared_variance(input, dims)
    if not set(dims) & set(positions(input)):
        return make_gaussian(mean, pool(variance) / size)
    if mean.shape[-num_dims:].numel() == 1:
        return make_gaussian(mean, shared)
    count = math.prod(input.shape[dim] for dim in dims)
    # The average correlation counts each element with itself.
    correlation = first_of(input.correlation, dims)  # type: ignore[attr-defined]
    between = ((count * correlation - 1) / (count - 1)).clamp(0, 1)
    spread = ((1 - between) / size + between) * pool(variance)
    return with_shared(make_gaussian(mean, spread), shared, dims)


@rule("max_pool1d", "max_pool2d", "max_pool3d")
def max_pool(func: Callable[..., Any], input: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: A002
    """Maximum over windows: the element with the largest mean."""
    options.pop("return_indices", None)
    with_indices = getattr(F, f"{func.__name__}_with_indices")
    return _selected(input, lambda mean: with_indices(mean, *args[:5], **options))


@rule("adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d")
def adaptive_max_pool(func: Callable[..., Any], input: Tensor, output_size: Any, *_: Any, **__: Any) -> Tensor:  # noqa: A002
    """Maximum over windows: the element with the largest mean."""
    with_indices = getattr(F, f"{func.__name__}_with_indices")
    return _selected(input, lambda mean: with_indices(mean, output_size))


def _selected(input: Tensor, pool: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:  # noqa: A002
    """Elements [B, C, ...] of a tensor; the maximum of values of a ReLU is the ReLU of the maximum."""
    deferred = input.deferred  # type: ignore[attr-defined]
    before = (mean_of(input), input.variance) if deferred is None else deferred[1:]  # type: ignore[attr-defined]
    mean, indices = pool(before[0])
    variance = before[1].flatten(2).gather(2, indices.flatten(2)).view_as(indices)
    result = make_gaussian(mean, variance) if deferred is None else defer(deferred[0], mean, variance)
    dims = positions(input)
    if dims == tuple(range(2, input.dim())):
        correlation = first_of(input.correlation, dims)  # type: ignore[attr-defined]
        result.known_correlation = correlation.expand_as(mean)  # type: ignore[attr-defined]
    return result


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
