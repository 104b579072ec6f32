"""Dropout caught where a network calls it: in layers, in functions, and inside attention and recurrent networks."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class DropoutKind:
    """What is dropped.

    Attributes:
        whole_channels: Whether entries of a channel are dropped together.
        keeps_moments: Whether dropped units take the negative saturation of SELU, and the result is rescaled to the
            mean and variance of its input (Klambauer et al., 2017).
    """

    whole_channels: bool = False
    keeps_moments: bool = False


UNITS = DropoutKind()
_CHANNELS = DropoutKind(whole_channels=True)
_ALPHA = DropoutKind(keeps_moments=True)
_FEATURE_ALPHA = DropoutKind(whole_channels=True, keeps_moments=True)

DROPOUT_FUNCTIONS: dict[Callable[..., Any], DropoutKind] = {
    **dict.fromkeys((F.dropout, torch.dropout, torch.dropout_), UNITS),
    **dict.fromkeys((F.dropout1d, F.dropout2d, F.dropout3d, torch.feature_dropout, torch.feature_dropout_), _CHANNELS),
    **dict.fromkeys((F.alpha_dropout, torch.alpha_dropout, torch.alpha_dropout_), _ALPHA),
    **dict.fromkeys(
        (F.feature_alpha_dropout, torch.feature_alpha_dropout, torch.feature_alpha_dropout_), _FEATURE_ALPHA
    ),
}
_IN_PLACE = {torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_}
_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}


class DropoutMode(TorchFunctionMode, ABC):
    """Hands each dropout in its body to `drop`, whether the network is in training mode or not.

    torch's attention takes no fused path, which would skip its dropout, while any such mode is in force.
    """

    @abstractmethod
    def drop(self, x: Tensor, p: float, kind: DropoutKind) -> Tensor:
        """Takes the place of a dropout.

        Args:
            x: Any shape.
            p: Probability that a unit is dropped.
            kind: What is dropped.

        Returns:
            The shape of `x`.
        """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in DROPOUT_FUNCTIONS:
            return self._dropout(func, *args, **options)
        if func is F.multi_head_attention_forward:
            return self._multi_head_attention(func, args, options)
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **options)
        if func in _RECURRENT:
            return self._recurrent(func, args)
        return func(*args, **options)

    def _dropout(
        self,
        func: Callable[..., Any],
        input: Tensor,  # noqa: A002
        p: float = 0.5,
        training: bool = True,  # noqa: ARG002
        inplace: bool = False,
        train: bool = True,  # noqa: ARG002
    ) -> Tensor:
        output = self.drop(input, p, DROPOUT_FUNCTIONS[func])
        return input.copy_(output) if inplace or func in _IN_PLACE else output

    def _multi_head_attention(self, func: Any, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Runs torch's function with its two calls of dropout replaced."""
        own = {"dropout": self._attention_dropout, "scaled_dot_product_attention": self._attention}
        body = FunctionType(func.__code__, func.__globals__ | own, func.__name__, func.__defaults__)
        body.__kwdefaults__ = func.__kwdefaults__
        return body(*args, **(options | {"training": True}))

    def _attention_dropout(self, weights: Tensor, p: float) -> Tensor:
        return self.drop(weights, p, UNITS)

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        if dropout_p == 0:
            return F.scaled_dot_product_attention(query, key, value, attn_mask, 0.0, is_causal, **options)
        identity = torch.eye(key.shape[-2], dtype=value.dtype, device=value.device)
        weights = F.scaled_dot_product_attention(
            query, key, identity.expand(*key.shape[:-1], -1), attn_mask, 0.0, is_causal, **options
        )
        if options.get("enable_gqa"):
            value = value.repeat_interleave(query.shape[-3] // value.shape[-3], -3)
        return self.drop(weights, dropout_p, UNITS) @ value

    def _recurrent(self, func: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Tensor, ...]:
        """Runs one layer after the other, with dropout in between."""
        is_packed = not isinstance(args[3], bool)
        data, batch_sizes = args[0], args[1 : 1 + is_packed]
        start, weights, has_biases, num_layers, p, _, bidirectional, *rest = args[1 + is_packed :]
        if p == 0 or num_layers == 1:
            return func(*args)  # type: ignore[no-any-return]
        states = start if isinstance(start, tuple | list) else (start,)
        num_weights, num_states = len(weights) // num_layers, 1 + bidirectional
        ends: list[list[Tensor]] = []
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk")
            for layer in range(num_layers):
                if layer:
                    data = self._drop_packed(data, batch_sizes[0], p) if is_packed else self.drop(data, p, UNITS)
                own = tuple(state[layer * num_states : (layer + 1) * num_states] for state in states)
                data, *end = func(
                    data,
                    *batch_sizes,
                    own if len(own) > 1 else own[0],
                    weights[layer * num_weights : (layer + 1) * num_weights],
                    *(has_biases, 1, 0.0, False, bidirectional, *rest),
                )
                ends.append(end)
        return (data, *(torch.cat(parts) for parts in zip(*ends, strict=True)))

    def _drop_packed(self, data: Tensor, batch_sizes: Tensor, p: float) -> Tensor:
        """Dropout on a packed sequence, [sum of lengths, F]: the same units of each row at one time."""
        factors = self.drop(data.new_ones(1, len(batch_sizes), data.shape[1]), p, UNITS)
        return data * factors[0].repeat_interleave(batch_sizes.to(data.device), 0)


@contextmanager
def as_written(network: nn.Module) -> Iterator[None]:
    """Runs the compiled parts of a network as their Python code, the only form that a mode can see.

    Args:
        network: Any network.
    """
    is_compiled = any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in network.modules())
    with torch.compiler.set_stance("force_eager") if is_compiled else nullcontext():
        yield


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Switches off each dropout of a network in its body, functional dropout too.

    Args:
        network: Any network.
    """
    with as_written(network), _WithoutDropout():
        yield


class _WithoutDropout(DropoutMode):
    def drop(self, x: Tensor, p: float, kind: DropoutKind) -> Tensor:  # noqa: ARG002
        return x
