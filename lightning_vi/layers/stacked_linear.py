"""Linear layers of several networks, with separate weights and inputs, in one product."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Applies M linear layers to M inputs.

    Args:
        x: Inputs, shape [M, ..., I].
        weight: Shape [M, O, I].
        bias: Shape [M, O], or None.

    Returns:
        Shape [M, ..., O].

    Example:
        >>> stacked_linear(torch.ones(3, 8, 2), torch.ones(3, 1, 2), torch.zeros(3, 1)).shape
        torch.Size([3, 8, 1])
    """
    rows = x.reshape(len(x), -1, x.shape[-1])
    turned = weight.mT
    outputs = torch.bmm(rows, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, turned)
    return outputs.view(*x.shape[:-1], outputs.shape[-1])


def stacked_local_linear(
    x: Tensor,
    mean: Tensor,
    std: Tensor,
    bias: Tensor | None,
    bias_std: Tensor | None,
    noise: Tensor,
    least_variance: float,
) -> Tensor:
    """Noisy outputs of M linear layers with independent Gaussian weights, see `local_linear`.

    Args:
        x: Inputs, shape [M, ..., I].
        mean: Means of the weights, shape [M, O, I].
        std: Standard deviations of the weights, shape [M, O, I].
        bias: Means of the biases, shape [M, O], or None.
        bias_std: Standard deviations of the biases, shape [M, O]; None for deterministic biases.
        noise: Standard normal, shape [M, ..., O], or [M, S, ..., O] for S samples of each row.
        least_variance: Added to the variance, so that its square root has a finite gradient.

    Returns:
        The shape of `noise`.
    """
    rows = x.flatten(1, -2)
    drawn = noise.flatten(-2 - (x.dim() - 3), -2)
    outputs: Tensor = _StackedLocalLinear.apply(rows, mean, std, bias, bias_std, drawn, least_variance)  # type: ignore[no-untyped-call]
    return outputs.view(noise.shape)


class _StackedLocalLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mean: Tensor,
        std: Tensor,
        bias: Tensor | None,
        bias_std: Tensor | None,
        noise: Tensor,
        least_variance: float,
    ) -> Tensor:
        center = stacked_linear(x, mean, bias)
        if bias_std is None:
            spread = stacked_linear(x * x, std * std, None).add_(least_variance).sqrt_()
        else:
            spread = stacked_linear(x * x, std * std, bias_std * bias_std + least_variance).sqrt_()
        ctx.save_for_backward(x, mean, std, bias_std, noise, spread)
        if noise.dim() > x.dim():
            center, spread = center.unsqueeze(1), spread.unsqueeze(1)
        return torch.addcmul(center, spread, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, std, bias_std, noise, spread = ctx.saved_tensors
        (grad,) = grad_outputs
        slope = grad * noise  # of the standard deviations, and then of the variances, times two
        if noise.dim() > x.dim():
            grad, slope = grad.sum(1), slope.sum(1)
        slope = slope.div_(spread)
        needs_x, needs_mean, needs_std, needs_bias, needs_bias_std, *_ = ctx.needs_input_grad
        return (
            torch.bmm(slope, std * std).mul_(x).baddbmm_(grad, mean) if needs_x else None,
            torch.bmm(grad.mT, x) if needs_mean else None,
            torch.bmm(slope.mT, x * x).mul_(std) if needs_std else None,
            grad.sum(1) if needs_bias else None,
            slope.sum(1).mul_(bias_std) if needs_bias_std else None,
            None,
            None,
        )
