"""A first look at where a network drops units, and at which of its activations' dimensions are rows."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lightning_vi.noise import private_random_state
from lightning_vi.sampling.dropout_calls import DROPOUT_FUNCTIONS, DropoutKind, DropoutMode, as_written
from lightning_vi.sampling.dropout_layers import dropout_layers
from lightning_vi.sampling.network import NetworkInput, call, device_of, map_tensors

Layout = tuple[int, int]
"""The dimension in which a batch of B rows has B k entries, row after row, and k."""


@dataclass(frozen=True)
class DropoutSurvey:
    """How one forward pass in evaluation mode drops units.

    Attributes:
        start: Position of the first part of the network that drops any; the number of parts if none does.
        layouts: For each dropout in the order of the pass, where its input's rows are; None where no dimension grows
            with the batch.
        width: The most numbers that any operation from there on makes of one row.
        functional: What drops units outside of a layer, in words.
    """

    start: int
    layouts: tuple[Layout | None, ...]
    width: int
    functional: frozenset[str]


def survey(parts: Sequence[nn.Module], x: NetworkInput) -> DropoutSurvey:
    """Runs copies of one row through a network, on a random state of its own; nothing is changed or dropped.

    Args:
        parts: Modules that make up the network when one is called on the output of the one before, in evaluation mode.
        x: Its input, each tensor of shape [B, ...].

    Returns:
        What was seen.
    """
    network = nn.ModuleList(parts)
    with torch.no_grad(), private_random_state(0, device_of(x)), as_written(network):
        two, three = _look(network, x, 2), _look(network, x, 3)
    layouts: Iterator[Layout | None] = (
        _layout(*shapes) if len(two.shapes) == len(three.shapes) else None
        for shapes in zip(two.shapes, three.shapes, strict=False)
    )
    start = min(two.positions, default=len(parts))
    widths = [
        large - small
        for (position, small), (_, large) in zip(two.sizes, three.sizes, strict=False)
        if position >= start
    ]
    return DropoutSurvey(start, tuple(layouts), max(widths, default=1), frozenset(two.functional))


@contextmanager
def watch_functional_dropout(network: nn.Module) -> Iterator[set[str]]:
    """Notes what drops units outside of a layer, and lets it.

    Args:
        network: Any network.

    Yields:
        What has been seen so far, in words, as in `DropoutSurvey.functional`.
    """
    with as_written(network), _running(network) as stack, _Watch(stack) as watch:
        yield watch.functional


def _look(network: nn.ModuleList, x: NetworkInput, num_rows: int) -> "_Look":
    hidden = map_tensors(lambda tensor: tensor[:1].repeat(num_rows, *[1] * (tensor.dim() - 1)), x)
    with _running(network) as stack:
        look = _Look(stack)
        with look:
            for look.position, part in enumerate(network):
                hidden = call(part, hidden)
    return look


def _layout(two: Sequence[int], three: Sequence[int]) -> Layout | None:
    """Where an activation's rows are, from its shapes with two rows and with three."""
    changed = [axis for axis, sizes in enumerate(zip(two, three, strict=False)) if sizes[0] != sizes[1]]
    if len(two) != len(three) or len(changed) != 1 or three[changed[0]] * 2 != two[changed[0]] * 3:
        return None
    return changed[0], two[changed[0]] // 2


@contextmanager
def _running(network: nn.Module) -> Iterator[list[nn.Module]]:
    """Keeps a list of the modules that are running, the innermost one last."""
    stack: list[nn.Module] = []
    handles = []

    def enter(module: nn.Module, _: object) -> None:
        stack.append(module)

    def leave(module: nn.Module, *_: object) -> None:
        while stack and stack.pop() is not module:  # what raised an error did not leave
            pass

    for module in {*network.modules(), *dropout_layers(network)}:
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()


def _functional(func: Callable[..., Any], args: Sequence[Any], options: Mapping[str, Any], stack: Sequence[Any]) -> str:
    """What drops units outside of a layer, in words; empty if nothing does."""
    name, position = ("dropout_p", 4) if func is F.scaled_dot_product_attention else ("p", 1)
    if func is not F.scaled_dot_product_attention and func not in DROPOUT_FUNCTIONS:
        return ""
    rate = options.get(name, args[position] if len(args) > position else 0.0)
    if rate == 0 or not stack or stack[-1] in dropout_layers(stack[-1]):
        return ""
    return f"{func.__name__} in the forward of {type(stack[-1]).__name__}"


class _Watch(TorchFunctionMode):
    def __init__(self, stack: Sequence[nn.Module]) -> None:
        super().__init__()
        self.functional: set[str] = set()
        self._stack = stack

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.functional |= {_functional(func, args, kwargs or {}, self._stack)} - {""}
        return func(*args, **(kwargs or {}))


class _Look(DropoutMode):
    """Notes what is dropped where, and drops nothing."""

    def __init__(self, stack: Sequence[nn.Module]) -> None:
        super().__init__()
        self.position = 0
        self.positions: list[int] = []
        self.shapes: list[tuple[int, ...]] = []
        self.sizes: list[tuple[int, int]] = []
        self.functional: set[str] = set()
        self._stack = stack

    def drop(self, x: Tensor, p: float, kind: DropoutKind) -> Tensor:  # noqa: ARG002
        self.positions.append(self.position)
        self.shapes.append(tuple(x.shape))
        return x

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.functional |= {_functional(func, args, kwargs or {}, self._stack)} - {""}
        result = super().__torch_function__(func, types, args, kwargs)
        if isinstance(result, Tensor):
            self.sizes.append((self.position, result.numel()))
        return result
