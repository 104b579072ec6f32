"""Posteriors of several tensors in one vector."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors
from torch.nn import functional as F

from lightning_vi.posteriors.mean_field import MeanFieldGaussian


def join_posteriors(posteriors: Sequence[MeanFieldGaussian]) -> tuple[MeanFieldGaussian, Sequence[Tensor]]:
    """Joins the posteriors of several tensors, with their standard deviations computed, in one node.

    Args:
        posteriors: Two or more, of one type and device.

    Returns:
        The posterior of all elements, of shape [number of elements], and the standard deviations of each tensor, of its
        shape.

    Example:
        >>> joint, stds = join_posteriors([MeanFieldGaussian(torch.zeros(2), torch.zeros(2)) for _ in range(2)])
        >>> joint.std.shape, stds[0]
        (torch.Size([4]), tensor([0.6931, 0.6931]))
    """
    means, scales = [posterior.mu for posterior in posteriors], [posterior.rho for posterior in posteriors]
    given = [posterior.std for posterior in posteriors if posterior.has_std]
    if given or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        stds = [posterior.std for posterior in posteriors]
        mean, scale, std = (torch.cat([part.flatten() for part in parts]) for parts in (means, scales, stds))
        return MeanFieldGaussian(mean, scale, std), stds
    mean, scale, std, *stds = _Joined.apply(len(means), *means, *scales)  # type: ignore[no-untyped-call]
    return MeanFieldGaussian(mean, scale, std), stds


class _Joined(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, num: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors[num:])
        mean, scale = _flatten_dense_tensors(tensors[:num]), _flatten_dense_tensors(tensors[num:])
        std = F.softplus(scale)
        ctx.scale = scale
        ctx.mark_non_differentiable(scale)
        return mean, scale, std, *_unflatten_dense_tensors(std, tensors[num:])

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        of_mean, _, of_std, *of_stds = grad_outputs
        scales = ctx.saved_tensors
        if any(gradient is not None for gradient in of_stds):
            pairs = zip(of_stds, scales, strict=True)
            filled = [torch.zeros_like(scale) if gradient is None else gradient for gradient, scale in pairs]
            flat = _flatten_dense_tensors(filled)
            of_std = flat if of_std is None else of_std + flat
        scale = _flatten_dense_tensors(scales) if torch.is_grad_enabled() else ctx.scale  # for second derivatives
        of_scale = None if of_std is None else of_std * torch.sigmoid(scale)
        parts = (
            [None] * len(scales) if each is None else _unflatten_dense_tensors(each, scales)
            for each in (of_mean, of_scale)
        )
        return None, *(gradient for part in parts for gradient in cast(Sequence[Tensor | None], part))
