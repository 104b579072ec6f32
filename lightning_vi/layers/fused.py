"""Local reparameterization of a fully connected layer as one operation with its gradient written out."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class _LocallyReparameterizedLinear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor,
        weight_mu: Tensor,
        weight_rho: Tensor,
        bias_mu: Tensor | None,
        bias_rho: Tensor | None,
        noise: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weight_std = F.softplus(weight_rho)
        mean = F.linear(x, weight_mu, bias_mu)
        variance = F.linear(
            x.square(), weight_std.square(), None if bias_rho is None else F.softplus(bias_rho).square()
        )
        std = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
        return torch.addcmul(mean, std, noise), std, weight_std

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
        x, weight_mu, _, _, bias_rho, noise = inputs
        _, std, weight_std = output
        ctx.mark_non_differentiable(std, weight_std)
        ctx.save_for_backward(x, weight_mu, weight_std, bias_rho, std, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        grad = grad_outputs[0]
        x, weight_mu, weight_std, bias_rho, std, noise = ctx.saved_tensors
        grad_std = grad * noise
        if noise.dim() > std.dim():
            grad, grad_std = grad.sum(0), grad_std.sum(0)
        rows = grad.reshape(-1, grad.shape[-1])
        variance_rows = (0.5 * grad_std / std).reshape(-1, grad.shape[-1])
        x_rows = x.reshape(-1, x.shape[-1])
        grad_x = None
        if ctx.needs_input_grad[0]:
            through_variance = variance_rows @ weight_std.square()
            grad_x = torch.addcmul(rows @ weight_mu, through_variance, x_rows, value=2.0).reshape(x.shape)
        grad_weight_rho = (variance_rows.T @ x_rows.square()) * _std_square_slope(weight_std)
        grad_bias_mu = grad_bias_rho = None
        if bias_rho is not None:
            grad_bias_mu = rows.sum(0)
            grad_bias_rho = variance_rows.sum(0) * _std_square_slope(F.softplus(bias_rho))
        return grad_x, rows.T @ x_rows, grad_weight_rho, grad_bias_mu, grad_bias_rho, None


def _std_square_slope(std: Tensor) -> Tensor:
    """Derivative of softplus(rho)^2 with respect to rho, from the value of softplus alone."""
    return -2.0 * std * torch.expm1(-std)


def locally_reparameterized_linear(
    x: Tensor,
    weight_mu: Tensor,
    weight_rho: Tensor,
    bias_mu: Tensor | None,
    bias_rho: Tensor | None,
    num_samples: int | None = None,
) -> Tensor:
    r"""Draws the outputs of a fully connected layer with independent Gaussian weights.

    .. math:: a = x \mu^\top + \mu_b + \sqrt{x^2 (\sigma^2)^\top + \sigma_b^2}\; \epsilon, \qquad
        \sigma = \ln(1 + e^\rho)

    Args:
        x: Input, shape [..., in].
        weight_mu: Means, shape [out, in].
        weight_rho: Unconstrained scales, shape [out, in].
        bias_mu: Means, shape [out], or None.
        bias_rho: Unconstrained scales, shape [out]; None exactly if `bias_mu` is.
        num_samples: S draws, or None for one without the extra dimension.

    Returns:
        Shape [..., out] or [S, ..., out]. It is differentiable once.
    """
    shape = (*x.shape[:-1], weight_mu.shape[0])
    noise = torch.randn(shape if num_samples is None else (num_samples, *shape), dtype=x.dtype, device=x.device)
    draws: Tensor
    draws, _, _ = _LocallyReparameterizedLinear.apply(  # type: ignore[no-untyped-call]
        x, weight_mu, weight_rho, bias_mu, bias_rho, noise
    )
    return draws
