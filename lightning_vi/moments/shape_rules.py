"""Rules of functions that move elements, and select or repeat them."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.moments.gaussian_tensor import (
    GaussianTensor,
    make_gaussian,
    mean_of,
    positions,
    variance_of,
    zero_strides,
)
from lightning_vi.moments.propagation import NoRuleError, rule

_MOVES = (
    *("reshape", "view", "view_as", "reshape_as", "flatten", "unflatten", "ravel", "transpose", "swapaxes", "swapdims"),
    *("permute", "movedim", "moveaxis", "adjoint", "T", "mT", "H", "mH", "t", "squeeze", "unsqueeze", "expand"),
    *("expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile", "contiguous", "clone", "detach", "chunk"),
    *("split", "split_with_sizes", "tensor_split", "unsafe_chunk", "unsafe_split", "unsafe_split_with_sizes"),
    *("unbind", "select", "narrow", "__getitem__", "index_select", "gather", "take_along_dim", "roll", "flip", "rot90"),
    *("cat", "concat", "concatenate", "stack", "hstack", "vstack", "to", "type_as", "float", "double", "half"),
    *("bfloat16", "cpu", "cuda", "unfold", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "diagonal", "tril"),
    *("triu", "broadcast_tensors", "native_channel_shuffle", "alias", "real", "data", "__iter__", "meshgrid"),
)


@rule(*_MOVES)
def move(func: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Moves means and variances alike; a constant has zero variance."""
    result = _paired(
        func(*_replaced(args, mean_of), **_replaced(options, mean_of)),
        func(*_replaced(args, _spread_of), **_replaced(options, _spread_of)),
    )
    if args and positions(args[0]):
        _move_correlation(func, args, options, result)
    return result


def _move_correlation(func: Callable[..., Any], args: Any, options: Any, result: Any) -> None:
    """Moves correlations or shared variances, unless positions and other dimensions are merged."""
    first = args[0]
    if func.__name__ in _COPIES:
        result.shared, result.known_correlation = first.shared, first.known_correlation
        return
    if first.shared is not None and _moved_positions(func, first.shared, args, options, result, "shared"):
        return
    _moved_positions(func, first.correlation, args, options, result, "known_correlation")


def _moved_positions(
    func: Callable[..., Any], known: Tensor, args: Any, options: Any, result: Any, attribute: str
) -> bool:
    """Moves one of them, shared variances only if all positions are still there."""
    try:
        moved = func(known, *args[1:], **options)
    except RuntimeError:  # a view of a tensor that was expanded
        return True
    count = _number(known)
    pairs = [(result, moved)] if isinstance(result, Tensor) else list(zip(result, moved, strict=True))
    if attribute == "shared" and any(_number(own) != count for _, own in pairs):
        return False
    for part, own in pairs:
        if isinstance(part, GaussianTensor) and own.shape == part.shape and zero_strides(own):
            setattr(part, attribute, own)
    return True


def _number(known: Tensor) -> int:
    return math.prod(known.shape[dim] for dim in zero_strides(known))


_COPIES = frozenset({"contiguous", "clone", "to", "float", "double", "half", "bfloat16", "cpu", "cuda", "detach"})


def _spread_of(x: Any) -> Any:
    if isinstance(x, GaussianTensor):
        return x.variance
    return torch.zeros_like(x) if isinstance(x, Tensor) and x.is_floating_point() else x


def _replaced(values: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(values, dict):
        return {name: _replaced(value, function) for name, value in values.items()}
    if type(values) in (list, tuple):
        return type(values)(_replaced(value, function) for value in values)
    return function(values)


def _paired(mean: Any, variance: Any) -> Any:
    if isinstance(mean, Tensor):
        return make_gaussian(mean, variance)
    pairs = [make_gaussian(*pair) for pair in zip(mean, variance, strict=True)]
    return pairs if isinstance(mean, list) else tuple(pairs)


@rule("embedding")
def embedding(
    func: Callable[..., Any],  # noqa: ARG001
    input: Tensor,  # noqa: A002
    weight: Tensor,
    *args: Any,
    **options: Any,
) -> Tensor:
    """Rows of a random weight."""
    if isinstance(input, GaussianTensor) or options.get("max_norm") is not None or (len(args) > 1 and args[1]):
        raise NoRuleError("embedding")
    return make_gaussian(F.embedding(input, mean_of(weight)), F.embedding(input, weight.variance))  # type: ignore[attr-defined]


@rule("embedding_bag")
def embedding_bag(
    func: Callable[..., Any],
    input: Tensor,  # noqa: A002
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2,  # noqa: ARG001
    scale_grad_by_freq: bool = False,  # noqa: ARG001
    mode: str = "mean",
    sparse: bool = False,  # noqa: ARG001
    per_sample_weights: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """Sums of different rows of a random weight."""
    if mode != "sum" or max_norm is not None:
        raise NoRuleError("embedding_bag")
    factors = per_sample_weights
    mean = func(input, mean_of(weight), offsets, mode="sum", per_sample_weights=factors, **options)
    squares = None if factors is None else factors.square()
    variance = func(input, weight.variance, offsets, mode="sum", per_sample_weights=squares, **options)  # type: ignore[attr-defined]
    return make_gaussian(mean, variance)


@rule("pad")
def pad(
    func: Callable[..., Any],
    input: Tensor,  # noqa: A002
    pad: Any,
    mode: str = "constant",
    value: float | None = None,
) -> Tensor:
    """Padding, of which constants have zero variance."""
    return make_gaussian(func(mean_of(input), pad, mode, value), func(input.variance, pad, mode))  # type: ignore[attr-defined]


@rule("masked_fill", keeps_correlation=True)
def masked_fill(func: Callable[..., Any], input: Tensor, mask: Tensor, value: Any) -> Tensor:  # noqa: A002
    """Replaces elements by a constant."""
    if isinstance(value, GaussianTensor):
        raise NoRuleError("masked_fill")
    return make_gaussian(func(mean_of(input), mask, value), input.variance.masked_fill(mask, 0))  # type: ignore[attr-defined]


@rule("where")
def where(func: Callable[..., Any], condition: Tensor, input: Any, other: Any) -> Tensor:  # noqa: A002
    """Elements of two tensors."""
    if isinstance(condition, GaussianTensor):
        raise NoRuleError("where")
    mean = func(condition, mean_of(input), mean_of(other))
    variances = (mean.new_zeros(()) if (v := variance_of(x)) is None else v for x in (input, other))
    return make_gaussian(mean, func(condition, *variances))


@rule("interpolate", "upsample")
def interpolate(func: Callable[..., Any], input: Tensor, *args: Any, **options: Any) -> Tensor:  # noqa: A002
    """Upsampling to the nearest neighbor."""
    mode = options.get("mode", args[2] if len(args) > 2 else "nearest")
    if mode not in ("nearest", "nearest-exact"):
        raise NoRuleError(f"interpolate(mode={mode!r})")
    return move(func, input, *args, **options)  # type: ignore[no-any-return]


@rule("masked_select", "index_put", "scatter", "scatter_add", "__setitem__")
def refused(func: Callable[..., Any], *args: Any, **options: Any) -> Tensor:  # noqa: ARG001
    """Functions that would need the variances of what they replace."""
    raise NoRuleError(func.__name__)
