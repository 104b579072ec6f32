"""Attention without fused kernels, in one thread alone.

torch's switches, `torch.backends.mha.set_fastpath_enabled` and `torch.nn.attention.sdpa_kernel`, act on all threads.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

ATTENTION: frozenset[Callable[..., Any]] = frozenset({F.scaled_dot_product_attention, F.multi_head_attention_forward})
"""Functions that may choose a fused kernel."""


def call_unfused(func: Callable[..., Any], args: tuple[Any, ...], options: Mapping[str, Any]) -> Any:
    """Calls a function of `ATTENTION` so that it computes the weights of attention.

    Args:
        func: The function.
        args: Its arguments.
        options: Its keyword arguments.

    Returns:
        Its result.
    """
    if func is F.multi_head_attention_forward:
        return _multi_head(args, options)
    return _scaled_dot_product(*args, **options)


def _multi_head(args: tuple[Any, ...], options: Mapping[str, Any]) -> tuple[Tensor, Tensor | None]:
    wants_weights = options.get("need_weights", True)
    # The mask is required beside `is_causal`, which is only a hint to the fused kernel.
    outputs, weights = F.multi_head_attention_forward(*args, **{**options, "need_weights": True, "is_causal": False})
    return outputs, weights if wants_weights else None


def _scaled_dot_product(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *args: Any, **options: Any
) -> Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    outputs: Tensor = torch.ops.aten._scaled_dot_product_attention_math(query, key, value, attn_mask, *args, **options)[
        0
    ]
    return outputs


class UnfusedAttention(TorchFunctionMode):
    """Runs its body without fused kernels of attention, which `torch.vmap` cannot trace.

    The fused path of `nn.TransformerEncoder` and `nn.MultiheadAttention` is not taken while any function mode is
    active.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in ATTENTION:
            return call_unfused(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))
