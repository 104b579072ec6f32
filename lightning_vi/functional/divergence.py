"""Kullback-Leibler divergences in closed form."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_vi.functional.parts import spread_over_parts, sums_of_parts

OfMoments = Callable[[Tensor], tuple[Tensor, Tensor | float]]
"""Maps second moments to a scalar tensor, and to twice its derivative: the precision of a Gaussian prior with the same
gradient, a number or of the shape of the second moments."""


def moment_divergence(mean: Tensor, std: Tensor, of_moments: OfMoments, sizes: Sequence[int] | None = None) -> Tensor:
    r"""A function of the second moments of a diagonal Gaussian, minus the logarithms of its standard deviations.

    .. math:: f(m) - \sum_i \ln \sigma_i, \qquad m = \sum_i \mu_i^2 + \sigma_i^2

    Divergences from Gaussian priors with mean zero have this form. The result is in float32 or better, also under mixed
    precision.

    Args:
        mean: Means, any shape.
        std: Standard deviations, the shape of `mean`, positive.
        of_moments: f and twice its derivative. Their argument is m, a scalar tensor, or of shape [number of parts].
        sizes: Sizes of consecutive parts of one-dimensional `mean` and `std`, whose second moments are summed apart.

    Returns:
        A scalar tensor, differentiable in `mean` and `std`.

    Example:
        >>> import torch
        >>> moment_divergence(torch.tensor([1.0, 0.0]), torch.ones(2), lambda moment: (0.5 * moment, 1.0))
        tensor(1.5000)
    """
    if mean.dtype in (torch.float16, torch.bfloat16):
        mean, std = mean.float(), std.float()
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return _moment_divergence(mean, std, of_moments, sizes)[0]
    value: Tensor = _MomentDivergence.apply(mean, std, of_moments, sizes)  # type: ignore[no-untyped-call]
    return value


def _moment_divergence(
    mean: Tensor, std: Tensor, of_moments: OfMoments, sizes: Sequence[int] | None
) -> tuple[Tensor, Tensor | float]:
    """The divergence, and twice the derivative of f."""
    if sizes is None:
        flat_mean, flat_std = mean.reshape(-1), std.reshape(-1)
        moments = flat_mean.dot(flat_mean) + flat_std.dot(flat_std)
    else:
        moments = sums_of_parts(torch.addcmul(mean * mean, std, std), sizes)
    value, precision = of_moments(moments)
    return value - std.log().sum(), precision


class _MomentDivergence(torch.autograd.Function):
    """The divergence with an explicit gradient, which saves the inputs alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, std: Tensor, of_moments: OfMoments, sizes: Sequence[int] | None) -> Tensor:
        value, ctx.precision = _moment_divergence(mean, std, of_moments, sizes)
        ctx.save_for_backward(mean, std)
        ctx.of_moments, ctx.sizes = of_moments, sizes
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        mean, std = ctx.saved_tensors
        (grad,) = grad_outputs
        if torch.is_grad_enabled():  # second derivatives are asked for
            value, _ = _moment_divergence(mean, std, ctx.of_moments, ctx.sizes)
            return *torch.autograd.grad(value, (mean, std), grad, create_graph=True), None, None
        factor = grad * ctx.precision
        if ctx.sizes is not None and factor.dim():
            factor = spread_over_parts(factor, ctx.sizes)
        return mean * factor, torch.addcdiv(std * factor, grad, std, value=-1), None, None


def gaussian_kl(mean: Tensor, std: Tensor, prior_mean: Tensor | float = 0.0, prior_std: Tensor | float = 1.0) -> Tensor:
    r"""KL divergence between two diagonal Gaussians, summed over all elements.

    .. math:: \mathrm{KL} = \sum_i \ln\frac{s_i}{\sigma_i}
        + \frac{\sigma_i^2 + (\mu_i - m_i)^2}{2 s_i^2} - \frac12

    The sum is in float32 or better, also under mixed precision. Gradients flow to `mean` and `std`.

    Args:
        mean: Posterior means, any shape.
        std: Posterior standard deviations, the shape of `mean`, positive.
        prior_mean: Prior mean, a number or a tensor that broadcasts to `mean`.
        prior_std: Prior standard deviation, a positive number or a tensor that broadcasts to `mean`.

    Returns:
        The divergence in nats, a scalar tensor.

    Example:
        >>> import torch
        >>> gaussian_kl(torch.zeros(3), torch.ones(3), prior_mean=1.0, prior_std=1.0)
        tensor(1.5000)
    """
    if mean.dtype in (torch.float16, torch.bfloat16):
        mean, std = mean.float(), std.float()
    if isinstance(prior_mean, Tensor) or prior_mean != 0:
        mean = mean - prior_mean
    if isinstance(prior_std, Tensor) and prior_std.dim():
        mean, std, prior_std = mean / prior_std, std / prior_std, 1.0
    return moment_divergence(mean, std, gaussian_of_moments(mean.numel(), prior_std))


def gaussian_of_moments(size: int, prior_std: Tensor | float) -> OfMoments:
    """KL divergence of diagonal Gaussians from one with mean zero as a function of their second moments.

    Args:
        size: Number of elements.
        prior_std: Prior standard deviation, a positive number or a scalar tensor.

    Returns:
        A function for `moment_divergence`.
    """
    log_prior_std = prior_std.log() if isinstance(prior_std, Tensor) else math.log(prior_std)
    constant, precision = size * (log_prior_std - 0.5), 1 / prior_std**2
    return lambda moments: (moments.sum() * (0.5 * precision) + constant, precision)
