"""Kullback-Leibler divergences in closed form."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class _MomentSums(torch.autograd.Function):
    """The sums with an explicit gradient, which saves the inputs alone for the backward pass."""

    @staticmethod
    def forward(ctx: Any, mean: Tensor, std: Tensor, sizes: Sequence[int] | None) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(mean, std)
        ctx.sizes = sizes
        if sizes is not None:
            parts = [part for values in (mean, std) for part in torch.split_with_sizes(values, list(sizes))]
            norms = torch.stack(torch._foreach_norm(parts))
            return norms.square().view(2, -1).sum(0), std.log().sum()
        flat_mean, flat_std = mean.reshape(-1), std.reshape(-1)
        return flat_mean.dot(flat_mean) + flat_std.dot(flat_std), std.log().sum()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        mean, std = ctx.saved_tensors
        grad_squares, grad_logs = grad_outputs
        twice = 2 * grad_squares
        if ctx.sizes is not None:
            twice = torch.cat([part.expand(size) for part, size in zip(twice.unbind(), ctx.sizes, strict=True)])
        return mean * twice, torch.addcmul(grad_logs / std, std, twice), None


def moment_sums(mean: Tensor, std: Tensor, sizes: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
    r"""Sum of the second moments of a diagonal Gaussian, and of the logarithms of its standard deviations.

    .. math:: \sum_i \mu_i^2 + \sigma_i^2, \qquad \sum_i \ln \sigma_i

    Divergences from Gaussian priors are functions of them. The sums are in float32 or better, also under mixed
    precision.

    Args:
        mean: Means, any shape.
        std: Standard deviations, the shape of `mean`, positive.
        sizes: Sizes of consecutive parts of one-dimensional `mean` and `std`, whose second moments are summed apart.

    Returns:
        Two scalar tensors, or the first of shape [number of parts], differentiable in `mean` and `std`.

    Example:
        >>> import torch
        >>> moment_sums(torch.tensor([1.0, 0.0]), torch.ones(2))
        (tensor(3.), tensor(0.))
    """
    if mean.dtype in (torch.float16, torch.bfloat16):
        mean, std = mean.float(), std.float()
    sums: tuple[Tensor, Tensor] = _MomentSums.apply(mean, std, sizes)  # type: ignore[no-untyped-call]
    return sums


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
    squares, log_stds = moment_sums(mean, std)
    log_prior_std = prior_std.log() if isinstance(prior_std, Tensor) else math.log(prior_std)
    return squares * (0.5 / prior_std**2) - log_stds + mean.numel() * (log_prior_std - 0.5)
