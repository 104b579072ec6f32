r"""Correlation between positions, such as pixels and tokens, whose values are computed with the same weights.

Elements of a `GaussianTensor` count as independent, except for its positions: the average over them,
:math:`\bar y = \frac1T \sum_t y_t`, has a variance of its own, the *shared variance*. It passes through linear maps as
the variance of an average input does. Through functions of single elements, the average correlation
:math:`\mathrm{Var}[\bar y] / \frac1T \sum_t \mathrm{Var}[y_t]` is kept instead.
"""

from collections.abc import Sequence

from torch import Tensor

from lightning_vi.moments.gaussian_tensor import (
    GaussianTensor,
    first_of,
    mean_over,
    positions,
    variance_of,
    zero_strides,
)


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
    if not missing and isinstance(x, GaussianTensor) and x.shared is not None:
        known = zero_strides(x.shared)
        if set(known) == {dim for dim in dims if variance.shape[dim] > 1}:
            return first_of(x.shared, known)
    correlated = [dim + missing for dim in positions(x) if dim + missing in dims]
    correlation = x.correlation if isinstance(x, GaussianTensor) else None
    if missing:
        variance = variance[(None,) * missing]
    independent = [dim for dim in dims if dim not in correlated and variance.shape[dim] > 1]
    if independent:
        count = 1
        for dim in independent:
            count *= variance.shape[dim]
        variance = mean_over(variance, independent) * (1 / count)
    if correlated and correlation is not None:
        correlation = correlation[(None,) * missing] if missing else correlation
        correlation = first_of(correlation, correlated)
        if independent:
            correlation = mean_over(correlation, independent)
        variance = correlation * mean_over(variance, correlated)
    return variance


def with_shared(x: Tensor, shared: Tensor | None, dims: Sequence[int]) -> Tensor:
    """Gives a tensor a shared variance.

    Args:
        x: Random variables, or constants.
        shared: Variance of the average over some dimensions, with ones in their place; None for independent elements.
        dims: The dimensions, not negative.

    Returns:
        The tensor itself.
    """
    dims = [dim for dim in dims if x.shape[dim] > 1]
    if not isinstance(x, GaussianTensor) or shared is None or not dims:
        return x
    small = [1 if dim in dims else size for dim, size in enumerate(x.shape)]
    # elsewhere, a tensor that was expanded would look like one with more positions
    x.shared = shared.expand(small).contiguous().expand(x.shape)
    x.known_correlation = None
    return x
