"""Rules of the softmax and of attention, which are linearized in their logits."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.moments.attended import attend, attention_by_parts, probabilities
from lightning_vi.moments.correlation import with_shared
from lightning_vi.moments.gaussian_tensor import make_gaussian, mean_of, variance_of
from lightning_vi.moments.linear_rules import linear
from lightning_vi.moments.propagation import NoRuleError, rule
from lightning_vi.moments.reduction_rules import summed
from lightning_vi.moments.shape_rules import move


@rule("softmax")
def softmax(func: Callable[..., Any], input: Tensor, dim: int | None = None, *args: Any, **options: Any) -> Tensor:  # noqa: A002
    r"""Softmax, linearized: :math:`\mathrm{Var}[p_c] \approx p_c^2 ((1 - 2 p_c) v_c + \sum_k p_k^2 v_k)`."""
    dim = options.pop("dim", dim)
    if dim is None:
        raise NoRuleError("softmax(dim=None)")
    variance = input.variance  # type: ignore[attr-defined]
    probs = func(mean_of(input), dim, *args, **options)
    is_last = dim in (-1, probs.dim() - 1)
    return make_gaussian(probs, _softmax_variance(probs, variance, dim), variance if is_last else None)


def _softmax_variance(probs: Tensor, variance: Tensor, dim: int) -> Tensor:
    shared = (probs.square() * variance).sum(dim, keepdim=True)
    return (probs.square() * ((1 - 2 * probs) * variance + shared)).clamp_min(0)


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
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -math.inf)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    mean, variance, shared = attention_by_parts(query, key, value, attn_mask, factor)
    return with_shared(make_gaussian(mean, variance), shared, (mean.dim() - 2,))


@rule("multi_head_attention_forward")
def multi_head_attention(  # the arguments are torch's
    func: Callable[..., Any],  # noqa: ARG001
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,  # noqa: ARG001
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    static_k: Tensor | None = None,
    static_v: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Attention of several heads between linear maps."""
    if bias_k is not None or bias_v is not None or add_zero_attn or static_k is not None or static_v is not None:
        raise NoRuleError("multi_head_attention_forward with additional keys")
    if training and dropout_p:
        raise NoRuleError("multi_head_attention_forward with dropout")
    is_batched = query.dim() == 3

    def project(x: Tensor, weight: Any, bias: Any) -> Tensor:
        rows = _moved(torch.transpose, x, 0, 1) if is_batched else _moved(torch.unsqueeze, x, 0)
        return linear(F.linear, rows, weight, bias)

    if query is key and key is value and not use_separate_proj_weight:
        first, second, third = _heads(project(query, in_proj_weight, in_proj_bias), 3, num_heads)
    else:
        weights: Any = [q_proj_weight, k_proj_weight, v_proj_weight]
        if not use_separate_proj_weight:
            weights = _moved(torch.chunk, in_proj_weight, 3)
        biases: Any = [None] * 3 if in_proj_bias is None else _moved(torch.chunk, in_proj_bias, 3)
        projected = map(project, (query, key, value), weights, biases)
        first, second, third = (_heads(part, 1, num_heads)[0] for part in projected)
    mask = _joint_mask(first, attn_mask, key_padding_mask, num_heads, is_causal and attn_mask is None)
    factor = 1 / math.sqrt(first.shape[-1])
    probs = None
    if need_weights:
        probs, scores = probabilities(first, second, mask, factor)
        joined = _moved(_without_heads, attend(probs, scores, third))
        if scores is not None:
            probs = make_gaussian(probs, _softmax_variance(probs, scores, -1))
            probs = summed(torch.mean, probs, 1) if average_attn_weights else probs
        probs = probs if is_batched else _moved(torch.squeeze, probs, 0)
    else:
        parts = attention_by_parts(first, second, third, mask, factor, _heads_second)
        mean, variance, shared = (None if part is None else part.flatten(2) for part in parts)
        joined = with_shared(make_gaussian(mean, variance), shared, (1,))  # type: ignore[arg-type]
    output = linear(F.linear, joined, out_proj_weight, out_proj_bias)
    return _moved(torch.transpose, output, 0, 1) if is_batched else _moved(torch.squeeze, output, 0), probs


def _heads(x: Tensor, count: int, num_heads: int) -> Any:
    """Splits features [B, T, count * H * F] into heads, `count` times [B, H, T, F]."""

    def split(x: Tensor) -> tuple[Tensor, ...]:
        parts = x.view(*x.shape[:2], count, num_heads, -1)
        return parts.permute(2, 0, 3, 1, 4).unbind(0)

    return _moved(split, x)


def _heads_second(x: Tensor) -> Tensor:
    return x.transpose(1, 2)


def _without_heads(x: Tensor) -> Tensor:
    """Joins heads [B, H, T, F] to features [B, T, H * F]."""
    return x.transpose(1, 2).flatten(2)


def _moved(func: Callable[..., Any], x: Any, *args: Any) -> Any:
    return func(x, *args) if variance_of(x) is None else move(func, x, *args)


def _joint_mask(
    query: Tensor, mask: Tensor | None, padding: Tensor | None, num_heads: int, is_causal: bool
) -> Tensor | None:
    """Mask to be added to the scores [B, H, T, J]."""
    if is_causal:
        raise NoRuleError("multi_head_attention_forward with is_causal and no mask")
    parts = []
    for part, is_padding in ((mask, False), (padding, True)):
        if part is None:
            continue
        if part.dtype == torch.bool:
            part = torch.zeros_like(part, dtype=query.dtype).masked_fill(part, -math.inf)
        if is_padding:
            parts.append(part[:, None, None, :] if part.dim() == 2 else part)
        else:
            parts.append(part.view(-1, num_heads, *part.shape[1:]) if part.dim() == 3 else part)
    return sum(parts[1:], parts[0]) if parts else None
