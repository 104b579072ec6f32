r"""Rules of normalizations.

Batch normalization in evaluation mode is affine. The others divide by statistics of their input, and are linearized at
its means: with n elements, :math:`y = (x - \bar x) / \sigma`, and independent :math:`x_i` of variance :math:`v_i`,

.. math:: \mathrm{Var}[y_i] \approx \frac1{\sigma^2} \Big(v_i \Big(1 - \frac{2 (1 + y_i^2)}n\Big)
    + \frac1{n^2} \sum_j (1 + y_i y_j)^2 v_j\Big), \qquad
    \sigma^2 = \frac1n \sum_j (x_j - \bar x)^2 + v_j
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.moments.activations import reused, std_of
from lightning_vi.moments.correlation import with_shared
from lightning_vi.moments.gaussian_tensor import (
    correlation_of,
    make_gaussian,
    mean_of,
    mean_over,
    mean_square_of,
    positions,
    second_moment_of,
    variance_of,
)
from lightning_vi.moments.linear_rules import joint_positions, position_mean, product_variance, total
from lightning_vi.moments.propagation import rule

NO_EPS = 1e-38
"""Vanishes beside a variance of 1; some versions of torch refuse 0."""


@rule("batch_norm")
def batch_norm(
    func: Callable[..., Any],  # noqa: ARG001
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,  # noqa: ARG001
    eps: float = 1e-5,
) -> Tensor:
    r"""Batch normalization by running statistics, or by those of the means.

    With the normalized mean :math:`\bar x` and the scale s, the variance is
    :math:`\mathrm{Var}[x]\, \mathrm{E}[w^2] / s^2 + \bar x^2\, \mathrm{Var}[w] + \mathrm{Var}[b]`.
    """
    mean, variance = mean_of(input), variance_of(input)
    if training or running_mean is None or running_var is None:
        others = [dim for dim in range(mean.dim()) if dim != 1]
        running_var, running_mean = torch.var_mean(mean, others, correction=0)
    known_mean, known_var = running_mean, running_var

    def normalized(x: Tensor, factor: Tensor | None, shift: Tensor | None) -> Tensor:
        return F.batch_norm(x, known_mean, known_var, factor, shift, False, 0.0, eps)

    result = normalized(mean, mean_of(weight), mean_of(bias))
    spread, shift = variance_of(weight), variance_of(bias)
    if variance is None and spread is None and shift is None:
        return result
    std = None if spread is None else std_of(spread)
    scale = 1 / (known_var + eps) if weight is None else second_moment_of(weight) / (known_var + eps)
    none, one = torch.zeros_like(known_mean), torch.ones_like(known_var)

    def spread_of(mean: Tensor, variance: Tensor | None) -> Tensor:
        variance = torch.zeros_like(mean) if variance is None else variance
        total = F.batch_norm(variance, none, one, scale, shift, False, 0.0, NO_EPS)
        if std is None:
            return total
        part = normalized(mean, std, None)
        return torch.addcmul(total, part, part, out=reused(total))

    result = make_gaussian(result, spread_of(mean, variance))
    dims = range(2, mean.dim())
    if not positions(input) and spread is None and shift is None:
        return result
    average = position_mean(input, dims)
    return with_shared(result, spread_of(mean_of(average), variance_of(average)), dims)


@rule("layer_norm")
def layer_norm(
    func: Callable[..., Any],  # noqa: ARG001
    input: Tensor,  # noqa: A002
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Layer normalization, linearized."""
    size = math.prod(normalized_shape)
    shape = input.shape
    rows = shape[: len(shape) - len(normalized_shape)]
    return _affine(_normalized(input, (*rows, size), eps), weight, bias)


@rule("rms_norm")
def rms_norm(
    func: Callable[..., Any],  # noqa: ARG001
    input: Tensor,  # noqa: A002
    normalized_shape: Any,
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """Normalization by the root of the mean square, linearized."""
    rows = input.shape[: input.dim() - len(normalized_shape)]
    small = torch.finfo(input.dtype).eps if eps is None else eps
    return _affine(_normalized(input, (*rows, math.prod(normalized_shape)), small, centered=False), weight, None)


@rule("group_norm")
def group_norm(
    func: Callable[..., Any],  # noqa: ARG001
    input: Tensor,  # noqa: A002
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalization of groups of channels, linearized."""
    shape = [1, -1, *[1] * (input.dim() - 2)]
    normalized = _normalized(input, (input.shape[0], num_groups, -1), eps)
    return _affine(normalized, *(_viewed(part, shape) for part in (weight, bias)))


@rule("instance_norm")
def instance_norm(
    func: Callable[..., Any],  # noqa: ARG001
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalization of each channel, linearized."""
    if not use_input_stats:
        return batch_norm(F.batch_norm, input, running_mean, running_var, weight, bias, False, momentum, eps)
    return group_norm(F.group_norm, input, input.shape[1], weight, bias, eps)


def _normalized(input: Tensor, shape: tuple[int, ...], eps: float, *, centered: bool = True) -> Tensor:  # noqa: A002
    """Normalizes the last dimension of a view of the input."""
    mean, variance = mean_of(input).reshape(shape), variance_of(input)
    size = mean.shape[-1]
    shifted = mean - mean_over(mean, (-1,)) if centered else mean
    power = mean_over(shifted.square(), (-1,))
    if variance is None:
        return (shifted * (power + eps).rsqrt()).view(input.shape)
    one = 1.0 if centered else 0.0
    spread = variance.reshape(shape)
    average = mean_over(spread, (-1,))
    scale = (power + average * (1 - one / size) + eps).rsqrt()
    result = torch.mul(shifted, scale, out=reused(shifted) if centered else None)
    # v (1 - 2 (1 + y^2) / n) + (sum of (1 + y y_j)^2 v_j) / n^2, multiplied out
    first = result * spread
    second = result * first
    crossed, squared = (mean_over(part, (-1,)) for part in (first, second))
    own = torch.mul(result, squared, out=reused(first)) + 2 * one * crossed
    own = torch.addcmul(one * average, own, result, out=reused(own))
    own = torch.add(own, second, alpha=-2, out=reused(own))
    own = torch.add(own, spread, alpha=size - 2 * one, out=reused(own))
    own = torch.mul(own, scale.square() / size, out=reused(own))
    own = torch.clamp_min(own, 0, out=reused(own))
    return make_gaussian(result.view(input.shape), own.view(input.shape), correlation=correlation_of(input))


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """Product with a weight plus a bias, each of which is one for several positions."""
    if weight is None:
        return x if bias is None else total(torch.add, x, bias)
    spread, weight_variance, bias_variance = map(variance_of, (x, weight, bias))
    mean = mean_of(x) * mean_of(weight)
    mean = mean if bias is None else torch.add(mean, mean_of(bias), out=reused(mean))
    if spread is None and weight_variance is None and bias_variance is None:
        return mean
    variance = _affine_variance(x, weight, bias_variance)
    result = make_gaussian(mean, None if variance is None else variance.expand_as(mean))
    if dims := joint_positions(result, x, weight):
        shared = product_variance(torch.mul, position_mean(x, dims), weight, bias_variance)
        result = with_shared(result, shared, dims)
    return result


def _affine_variance(x: Tensor, weight: Tensor, extra: Tensor | None) -> Tensor | None:
    """`product_variance` of elementwise products, in few operations."""
    spread, other = variance_of(x), variance_of(weight)
    if spread is None or other is None:
        return product_variance(torch.mul, x, weight, extra)
    total = spread * second_moment_of(weight)
    total = torch.addcmul(total, mean_square_of(x), other, out=reused(total))
    return total if extra is None else torch.add(total, extra, out=reused(total))


def _viewed(x: Tensor | None, shape: list[int]) -> Tensor | None:
    if x is None:
        return None
    variance = variance_of(x)
    return make_gaussian(mean_of(x).view(shape), None if variance is None else variance.view(shape))
