"""Kullback-Leibler divergences in closed form."""

import math
from typing import Any

import torch
from torch import Tensor


class _GaussianKL(torch.autograd.Function):
    """The summed divergence with an explicit gradient, which saves the inputs alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, std: Tensor, prior_mean: Tensor | float, prior_std: Tensor | float) -> Tensor:
        offset = _offset(mean, prior_mean)
        ctx.save_for_backward(mean, std, *(p if isinstance(p, Tensor) else None for p in (prior_mean, prior_std)))
        ctx.prior_numbers = tuple(None if isinstance(p, Tensor) else p for p in (prior_mean, prior_std))
        log_prior_std: Tensor | float
        if isinstance(prior_std, Tensor):
            second_moment = ((offset.square() + std.square()) / prior_std.square()).sum()
            log_prior_std = prior_std.log().expand_as(mean).sum()
        else:
            flat_offset, flat_std = offset.reshape(-1), std.reshape(-1)
            second_moment = (flat_offset.dot(flat_offset) + flat_std.dot(flat_std)) / prior_std**2
            log_prior_std = math.log(prior_std) * mean.numel()
        return 0.5 * (second_moment - mean.numel()) + log_prior_std - std.log().sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (grad,) = grad_outputs
        mean, std, *priors = ctx.saved_tensors
        numbers = ctx.prior_numbers
        prior_mean, prior_std = (number if p is None else p for p, number in zip(priors, numbers, strict=True))
        precision = prior_std**-2
        grad_mean = _offset(mean, prior_mean) * (grad * precision)
        grad_std = torch.addcmul(-grad / std, std, grad * precision)
        return grad_mean, grad_std, None, None


def _offset(mean: Tensor, prior_mean: Tensor | float) -> Tensor:
    is_zero = not isinstance(prior_mean, Tensor) and prior_mean == 0
    return mean if is_zero else mean - prior_mean


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
    kl: Tensor = _GaussianKL.apply(mean, std, prior_mean, prior_std)  # type: ignore[no-untyped-call]
    return kl
