r"""Moments of functions of one Gaussian variable.

Each function takes means m and variances v, and returns the mean and the variance of :math:`f(x)` for
:math:`x \sim \mathcal{N}(m, v)`.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_vi.functional.quadrature import gauss_hermite

Moments = tuple[Tensor, Tensor]
NUM_NODES = 9
"""Nodes of `by_quadrature`. Errors of mean and standard deviation of a tanh are below 0.4% of the standard deviation of
its argument where that is at most 1, and below 2.5% where it is 2."""


def std_of(variance: Tensor) -> Tensor:
    """Standard deviations with a finite gradient at zero.

    Args:
        variance: Any shape.

    Returns:
        The shape of `variance`, positive.
    """
    return variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()


def by_quadrature(function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor) -> Moments:
    """Moments of any elementwise function, by Gauss-Hermite quadrature.

    Args:
        function: An elementwise function.
        mean: m, any shape.
        variance: v, the shape of `mean`.

    Returns:
        Mean and variance, each of the shape of `mean`.

    Example:
        >>> mean, variance = by_quadrature(torch.square, torch.tensor(0.0), torch.tensor(1.0))
        >>> round(mean.item(), 4), round(variance.item(), 4)
        (1.0, 2.0)
    """
    nodes, weights = (part.to(mean) for part in gauss_hermite(NUM_NODES))
    outer = torch.cat([nodes[: NUM_NODES // 2], nodes[NUM_NODES // 2 + 1 :]])  # the node in the middle is zero
    outer_weights = torch.cat([weights[: NUM_NODES // 2], weights[NUM_NODES // 2 + 1 :]])
    center = function(mean)
    shifts = function(mean + std_of(variance) * outer.view(-1, *[1] * mean.dim())) - center
    shift = torch.tensordot(outer_weights, shifts, 1)
    return center + shift, (torch.tensordot(outer_weights, shifts.square(), 1) - shift.square()).clamp_min(0)


def leaky_relu_moments(mean: Tensor, variance: Tensor, negative_slope: float | Tensor = 0.0) -> Moments:
    r"""Moments of :math:`\max(x, 0) + a \min(x, 0)` in closed form, a ReLU for a = 0.

    With :math:`\alpha = m / \sqrt v` and the standard normal density and distribution function,

    .. math:: \mathrm{E}[\max(x, 0)] = \sqrt v\, (\alpha \Phi + \phi), \qquad
        \mathrm{Var}[\max(x, 0)] = v\, \big(\Phi + \alpha^2 \Phi (1 - \Phi) + \alpha \phi (1 - 2 \Phi) - \phi^2\big)

    Args:
        mean: m, any shape.
        variance: v, the shape of `mean`.
        negative_slope: a, a number or a tensor that broadcasts to `mean`.

    Returns:
        Mean and variance, each of the shape of `mean`.

    Example:
        >>> mean, variance = leaky_relu_moments(torch.tensor(0.0), torch.tensor(1.0))
        >>> round(mean.item(), 4), round(variance.item(), 4)
        (0.3989, 0.3408)
    """
    std = std_of(variance)
    ratio = mean / std
    below = torch.special.ndtr(ratio)
    density = torch.exp(-0.5 * ratio.square()) * _DENSITY_AT_ZERO
    positive = ratio * below + density
    shared = ratio.square() * below * (1 - below) + ratio * density * (1 - 2 * below) - density.square()
    spread = (below + shared).clamp_min(0)
    if isinstance(negative_slope, float | int) and negative_slope == 0:
        return std * positive, variance * spread
    negative = positive - ratio
    opposite = (1 - below + shared).clamp_min(0)
    spread = spread + negative_slope**2 * opposite + 2 * negative_slope * positive * negative
    return std * (positive - negative_slope * negative), variance * spread


def clamp_moments(mean: Tensor, variance: Tensor, low: float, high: float) -> Moments:
    r"""Moments of :math:`\min(\max(x, a), b)` in closed form.

    It is :math:`a + \max(x - a, 0) - \max(x - b, 0)`, and the covariance of the last two is
    :math:`\mathrm{E}[\max(x - b, 0)^2] + (b - a)\, \mathrm{E}[\max(x - b, 0)]` minus the product of their means.

    Args:
        mean: m, any shape.
        variance: v, the shape of `mean`.
        low: a, may be infinite.
        high: b, larger than a, may be infinite.

    Returns:
        Mean and variance, each of the shape of `mean`.
    """
    if low == -math.inf:
        mirrored, spread = clamp_moments(-mean, variance, -high, math.inf)
        return -mirrored, spread
    above_low, low_spread = leaky_relu_moments(mean - low, variance)
    if high == math.inf:
        return low + above_low, low_spread
    above_high, high_spread = leaky_relu_moments(mean - high, variance)
    covariance = high_spread + above_high.square() + (high - low) * above_high - above_low * above_high
    return low + above_low - above_high, (low_spread + high_spread - 2 * covariance).clamp_min(0)


def maximum_moments(first: Moments, second: Moments) -> Moments:
    """Moments of the larger one of two independent Gaussian variables (Clark, 1961).

    Args:
        first: Mean and variance of one.
        second: Mean and variance of the other.

    Returns:
        Mean and variance.
    """
    positive, spread = leaky_relu_moments(first[0] - second[0], first[1] + second[1])
    share = torch.special.ndtr((first[0] - second[0]) / std_of(first[1] + second[1]))
    # max(a, b) = b + max(a - b, 0), whose covariance is -Var[b] P(a > b) by Stein's lemma.
    return second[0] + positive, (second[1] + spread - 2 * second[1] * share).clamp_min(0)


_DENSITY_AT_ZERO = 1 / math.sqrt(2 * math.pi)
