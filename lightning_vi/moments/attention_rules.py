"""Rules of the softmax and of attention, which are linearized in their logits."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_vi.moments.gaussian_tensor import make_gaussian, mean_of, variance_of
from lightning_vi.moments.linear_rules import attend, matrix_product, total
from lightning_vi.moments.propagation import NoRuleError, rule


@rule("softmax")
def softmax(func: Callable[..., Any], input: Tensor, dim: int | None = None, *args: Any, **options: Any) -> Tensor:  # noqa: A002
    r"""Softmax, linearized: :math:`\mathrm{Var}[p_c] \approx p_c^2 ((1 - 2 p_c) v_c + \sum_k p_k^2 v_k)`."""
    dim = options.pop("dim", dim)
    if dim is None:
        raise NoRuleError("softmax(dim=None)")
    variance = input.variance  # type: ignore[attr-defined]
    probs = func(mean_of(input), dim, *args, **options)
    shared = (probs.square() * variance).sum(dim, keepdim=True)
    spread = probs.square() * ((1 - 2 * probs) * variance + shared)
    is_last = dim in (-1, probs.dim() - 1)
    return make_gaussian(probs, spread.clamp_min(0), variance if is_last else None)


@rule("log_softmax")
def log_softmax(func: Callable[..., Any], input: Tensor, dim: int, *args: Any, **options: Any) -> Tensor:  # noqa: A002
    """Logarithm of the softmax, linearized."""
    variance = input.variance  # type: ignore[attr-defined]
    result = func(mean_of(input), dim, *args, **options)
    probs = result.exp()
    spread = (1 - 2 * probs) * variance + (probs.square() * variance).sum(dim, keepdim=True)
    return make_gaussian(result, spread.clamp_min(0))


@rule("scaled_dot_product_attention")
def attention(
    func: Callable[..., Any],  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention with independent scores, linearized in them."""
    if dropout_p or enable_gqa:
        raise NoRuleError("scaled_dot_product_attention with dropout" if dropout_p else "grouped attention")
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    turned = make_gaussian(mean_of(key).mT, None if (v := variance_of(key)) is None else v.mT)
    products = matrix_product(torch.matmul, query, turned)
    scores, variance = factor * mean_of(products), variance_of(products)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = mean_of(total(torch.add, scores, attn_mask))
    return attend(scores.softmax(-1), None if variance is None else factor**2 * variance, value)
