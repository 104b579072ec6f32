"""Switches for every dropout that a network calls: in layers, functions, attention and recurrent networks."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import DispatchKey
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_vi.errors import InputValueError
from lightning_vi.locks import PROCESS_FLAGS, filtered_warnings
from lightning_vi.sampling.attention import ATTENTION, call_unfused
from lightning_vi.sampling.dropout_layers import is_dropout_layer
from lightning_vi.tracing import is_exporting

FillMask = Callable[[Tensor, float], object]
"""Fills a tensor with a mask, 1 for units that are kept and 0 for others, given the probability that a unit is kept."""

aten = torch.ops.aten
_BERNOULLI, _NATIVE_DROPOUT = aten.bernoulli_.float, aten.native_dropout.default
_COMPOSITE = {
    *(aten.dropout, aten.feature_dropout, aten.alpha_dropout, aten.feature_alpha_dropout),
    *(aten.dropout_, aten.feature_dropout_, aten.alpha_dropout_, aten.feature_alpha_dropout_),
    *(aten.scaled_dot_product_attention, aten._scaled_dot_product_attention_math),
}
_RECURRENT = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}
_TORCH_DROPOUT = {
    *(torch.dropout, torch.feature_dropout, torch.alpha_dropout, torch.feature_alpha_dropout),
    *(torch.dropout_, torch.feature_dropout_, torch.alpha_dropout_, torch.feature_alpha_dropout_),
}
_DROPOUT = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout}
_EXPORTED: dict[Callable[..., Any], int] = {F.dropout: 0, F.dropout1d: 1, F.dropout2d: 2, F.dropout3d: 3}
"""Dropout that can be exported, and the number of last dimensions that share an entry of its mask."""
_RATES: dict[Callable[..., Any], tuple[str, int]] = {
    **dict.fromkeys((*_DROPOUT, *_TORCH_DROPOUT), ("p", 1)),
    F.scaled_dot_product_attention: ("dropout_p", 4),
    F.multi_head_attention_forward: ("dropout_p", 10),
}
"""Name and position of the argument with the probability that a unit is dropped."""


class DropoutMode(TorchFunctionMode):
    """Switches every dropout in its body on or off, whether the network is in training mode or not.

    torch's attention has a fused path for evaluation mode, which skips dropout. It is not taken while any function
    mode is active.

    Args:
        fill_mask: Replaces torch's random masks; None to drop nothing.

    Attributes:
        num_dropouts: Number of dropouts so far.
    """

    def __init__(self, fill_mask: FillMask | None = None) -> None:
        super().__init__()
        self.num_dropouts = 0
        self._is_on = fill_mask is not None
        self._fill_mask = fill_mask or Tensor.fill_
        # A mask filled with the probability drops nothing, because torch divides by it.
        self._masks = _GivenMasks(self._fill_mask)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _RECURRENT:
            return self._recurrent(func, *args)
        if func not in _RATES or _rate(func, args, options) == 0:
            return func(*args, **options)
        self.num_dropouts += 1
        if func in _TORCH_DROPOUT:
            args, options["train"] = args[:2], self._is_on
        elif func is not F.scaled_dot_product_attention:
            options["training"] = self._is_on
        if not self._is_on and func is not F.scaled_dot_product_attention:
            return func(*args, **options)
        if is_exporting():
            return self._exported(func, args[0] if args else options["input"], _rate(func, args, options))
        with self._masks:
            if _may_draw_masks_itself(func, args, options):
                return call_unfused(func, args, options)
            return func(*args, **options)

    def _exported(self, func: Callable[..., Any], x: Tensor, p: float) -> Tensor:
        """Dropout in operations of its own, because an export does not split torch's, and keeps their random masks."""
        if func not in _EXPORTED:
            raise InputValueError(
                "torch.export takes the dropout of nn.Dropout, nn.Dropout1d, nn.Dropout2d and nn.Dropout3d, but not "
                f"that of {func.__name__}: set its rate to 0"
            )
        num_own = x.dim() - _EXPORTED[func]
        mask = torch.empty([*x.shape[:num_own], *[1] * _EXPORTED[func]], dtype=x.dtype, device=x.device)
        self._fill_mask(mask, 1 - p)
        return x * (mask / (1 - p))

    def _recurrent(self, func: Callable[..., Any], *args: Any) -> tuple[Tensor, ...]:
        """Runs one layer after the other with dropout in between, because cuDNN would draw the masks itself."""
        is_packed = not isinstance(args[3], bool)
        data, lengths = args[0], args[1 : 1 + is_packed]
        start, weights, has_biases, num_layers, p, _, bidirectional, *batch_first = args[1 + is_packed :]
        if p == 0 or num_layers == 1:
            return func(*args)  # type: ignore[no-any-return]
        if is_exporting():
            self._exported(func, data, p)
        states = start if isinstance(start, tuple | list) else (start,)
        num_weights = len(weights) // num_layers
        ends: list[list[Tensor]] = []
        warns = data.device.type != "cpu"
        with filtered_warnings("ignore", "RNN module weights are not part of single") if warns else nullcontext():
            for layer in range(num_layers):
                if layer:
                    data = self._drop_between(data, p, *lengths)
                own_states = [state.chunk(num_layers)[layer] for state in states]
                own_weights = weights[layer * num_weights : (layer + 1) * num_weights]
                own = own_states if len(own_states) > 1 else own_states[0], own_weights
                data, *end = func(data, *lengths, *own, has_biases, 1, 0.0, False, bidirectional, *batch_first)
                ends.append(end)
        return (data, *map(torch.cat, zip(*ends, strict=True)))

    def _drop_between(self, data: Tensor, p: float, batch_sizes: Tensor | None = None) -> Tensor:
        """Dropout on a padded sequence, or on a packed one, [sum of lengths, F], with one mask for each time step."""
        with self:
            if batch_sizes is None:
                return F.dropout(data, p)
            factors = F.dropout(data.new_ones(1, len(batch_sizes), data.shape[1]), p)
        return data * factors[0].repeat_interleave(batch_sizes.to(data.device), 0)


class _GivenMasks(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Replaces the two operations with which torch draws the masks of any dropout."""

    def __init__(self, fill_mask: FillMask) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._fill_mask = fill_mask

    def __torch_dispatch__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is _BERNOULLI:
            mask, kept = (*args, 0.5)[:2]  # default values are left out
            self._fill_mask(mask, kept)
            return mask
        if func is _NATIVE_DROPOUT:
            x, p, _ = args
            mask = torch.empty_like(x)
            self._fill_mask(mask, 1 - p)
            return x * (mask / (1 - p)), mask.bool()
        if func.overloadpacket in _COMPOSITE and torch.is_inference_mode_enabled():
            with self:  # only in inference mode, torch has not yet split the operation into its parts
                return func._op_dk(DispatchKey.CompositeImplicitAutograd, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _rate(func: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> float:
    """Probability that a unit is dropped in a call."""
    name, position = _RATES[func]
    return float(args[position] if len(args) > position else options.get(name, 0.0))


def _may_draw_masks_itself(func: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Returns True for attention whose kernel may draw its masks itself; on a CPU there is none with dropout."""
    return func in ATTENTION and (args[0] if args else options["query"]).device.type != "cpu"


class FunctionalWatch(TorchFunctionMode):
    """Records functional dropout, without changing anything.

    Attributes:
        functional: Functions that drop units outside a dropout layer and the modules that call them, in words.
        sizes: Number of elements of each result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.functional: set[str] = set()
        self.sizes: list[int] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        options = dict(kwargs or {})
        if func in _RATES and _rate(func, args, options) > 0:
            caller = running_module()
            if caller is not None and not is_dropout_layer(caller):
                self.functional.add(f"{func.__name__} in the forward of {type(caller).__name__}")
        result = func(*args, **options)
        if isinstance(result, Tensor):
            self.sizes.append(result.numel())
        return result


def running_module() -> nn.Module | None:
    """Innermost module in the call stack."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if isinstance(module := frame.f_locals.get("self"), nn.Module):
            return module
        frame = frame.f_back
    return None


@contextmanager
def as_written(network: nn.Module) -> Iterator[None]:
    """Runs the compiled parts of a network as their Python code, because modes do not see compiled code.

    Args:
        network: Any network.
    """
    with ExitStack() as stack:
        if any(hasattr(module, "_orig_mod") or module._compiled_call_impl for module in network.modules()):
            stack.enter_context(PROCESS_FLAGS)
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextmanager
def without_dropout(network: nn.Module) -> Iterator[None]:
    """Switches off every dropout of a network in its body, functional dropout too.

    Args:
        network: Any network.
    """
    with as_written(network), DropoutMode():
        yield


@contextmanager
def watch_functional_dropout(network: nn.Module) -> Iterator[set[str]]:
    """Records functional dropout in its body, without changing anything.

    Args:
        network: Any network.

    Yields:
        Functions that drop units outside a dropout layer and the modules that call them, in words.
    """
    with as_written(network), FunctionalWatch() as watch:
        yield watch.functional
