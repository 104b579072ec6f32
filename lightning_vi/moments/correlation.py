r"""Correlation between positions, such as pixels and tokens, whose values are computed with the same weights.

Elements of a `GaussianTensor` count as independent, except for its positions: the average over them,
:math:`\bar y = \frac1T \sum_t y_t`, has a variance of its own, the *shared variance*. It passes through linear maps as
the variance of an average input does, and is kept as an average correlation
:math:`\mathrm{Var}[\bar y] / \frac1T \sum_t \mathrm{Var}[y_t]` through functions of single elements.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lightning_vi.moments.gaussian_tensor import GaussianTensor, make_gaussian, variance_of


def positions(x: Tensor) -> tuple[int, ...]:
    """Dimensions of a tensor whose elements are correlated.

    Args:
        x: Any tensor.

    Returns:
        The dimensions; empty for constants and independent elements.
    """
    correlation = x.correlation if isinstance(x, GaussianTensor) else None
    return () if correlation is None else zero_strides(correlation)


def zero_strides(correlation: Tensor) -> tuple[int, ...]:
    """Dimensions along which a tensor was expanded.

    Args:
        correlation: Any tensor.

    Returns:
        The dimensions.
    """
    pairs = zip(correlation.shape, correlation.stride(), strict=True)
    return tuple(dim for dim, (size, stride) in enumerate(pairs) if stride == 0 and size > 1)


def shared_variance(x: Tensor, dims: Sequence[int], num_dims: int | None = None) -> Tensor:
    """Variance of the average over some dimensions.

    Args:
        x: Random variables.
        dims: The dimensions, not negative.
        num_dims: Number of dimensions of the result, of which missing ones come first.

    Returns:
        The shape of `x` with ones in the place of `dims`.
    """
    variance = variance_of(x)
    if variance is None:
        raise ValueError("constants have no variance")
    missing = 0 if num_dims is None else num_dims - variance.dim()
    correlated = [dim + missing for dim in positions(x) if dim + missing in dims]
    correlation = x.correlation if isinstance(x, GaussianTensor) else None
    if missing:
        variance = variance[(None,) * missing]
    independent = [dim for dim in dims if dim not in correlated and variance.shape[dim] > 1]
    if independent:
        count = 1
        for dim in independent:
            count *= variance.shape[dim]
        variance = variance.mean(independent, keepdim=True) / count
    if correlated and correlation is not None:
        correlation = correlation[(None,) * missing] if missing else correlation
        for dim in correlated:
            correlation = correlation.narrow(dim, 0, 1)
        if independent:
            correlation = correlation.mean(independent, keepdim=True)
        variance = correlation * variance.mean(correlated, keepdim=True)
    return variance


def with_shared(x: Tensor, shared: Tensor | None, dims: Sequence[int]) -> Tensor:
    """Gives a tensor a shared variance.

    Args:
        x: Random variables, or constants.
        shared: Variance of the average over some dimensions, with ones in their place; None for independent elements.
        dims: The dimensions, not negative.

    Returns:
        The tensor with its correlation.
    """
    variance = variance_of(x)
    dims = [dim for dim in dims if x.shape[dim] > 1]
    if variance is None or shared is None or not dims:
        return x
    total = variance.mean(dims, keepdim=True).clamp_min(torch.finfo(variance.dtype).tiny)
    correlation = (shared / total).clamp(0, 1).expand_as(variance)
    return make_gaussian(x.mean_values, variance, correlation=correlation)  # type: ignore[attr-defined]
