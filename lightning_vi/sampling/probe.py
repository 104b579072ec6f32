"""Trial passes that record how a network uses its layers."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lightning_vi.layers import VariationalLayer, stochastic_parameters
from lightning_vi.sampling.attention import UnfusedAttention
from lightning_vi.sampling.network import NetworkInput, batch_size, call, evaluating, few_rows, map_tensors, tensors
from lightning_vi.sampling.private_draws import PrivateDraws


@dataclass(frozen=True)
class Probe:
    """Use of the variational layers in one forward pass.

    Attributes:
        num_calls: Number of calls of each layer.
        read: Layers whose weight was read outside of their calls.
        several_rows: Linear layers whose rows are not those of the network's output: their input has more rows, such as
            the tokens of a datum, or others; and their output is not the network's.
        mixed: Linear layers behind which an output row depends on several rows, as after messages between the nodes
            of a graph.
        last: The layer whose output is the network's, if it was called once.
        width: Elements of the widest module output for one datum, from the first stochastic module on.
        num_rows: First dimension of the output.
    """

    num_calls: Mapping[VariationalLayer, int]
    read: frozenset[VariationalLayer]
    several_rows: frozenset[VariationalLayer]
    mixed: frozenset[VariationalLayer]
    last: VariationalLayer | None
    width: int
    num_rows: int


MAX_ROWS = 64


@torch.compiler.disable  # type: ignore[untyped-decorator]
def probe(network: nn.Module, layers: Mapping[str, VariationalLayer], x: NetworkInput) -> Probe:
    """Runs a network once or twice, in evaluation mode and on private random numbers, and records the calls of layers.

    Args:
        network: The network, with weights in its slots.
        layers: The layers to record, by name.
        x: Its input; only the first rows of a tensor are used.

    Returns:
        The record.
    """
    x = few_rows(x, MAX_ROWS) if isinstance(x, Tensor) else x
    num_inputs = batch_size(x)
    calls: list[tuple[VariationalLayer, torch.Size, Tensor]] = []
    widths: list[int] = []
    reads = _ReadWatch(layers.values())

    def measure(module: nn.Module, _: object, output: object) -> None:
        if isinstance(output, Tensor) and (widths or stochastic_parameters(module) is not None):
            widths.append(output.numel() // num_inputs)

    def watch(layer: VariationalLayer, _: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0].shape if inputs else torch.Size(), output))

    handles = [module.register_forward_hook(measure) for module in network.modules()]
    handles += [layer.register_forward_hook(partial(watch, layer)) for layer in layers.values()]
    try:
        with torch.no_grad(), reads:
            output = trial(network, x)
    finally:
        for handle in handles:
            handle.remove()
    num_calls = Counter(layer for layer, _, _ in calls)
    ends = {layer for layer, _, result in calls if result is output and num_calls[layer] == 1}
    inner = [(layer, shape) for layer, shape, _ in calls if isinstance(layer, nn.Linear) and layer not in ends]
    num_rows = len(output) if output.dim() else 1
    several = frozenset(layer for layer, shape in inner if len(shape) != 2 or shape[0] != num_rows)
    candidates = [
        layer for layer, _ in inner if layer not in several and layer not in reads.read and num_calls[layer] == 1
    ]
    width = max(widths, default=output.numel() // num_inputs)
    mixed = rows_mixed_behind(network, candidates, x)
    return Probe(num_calls, frozenset(reads.read), several, mixed, next(iter(ends), None), width, num_rows)


def trial(network: nn.Module, x: NetworkInput) -> Tensor:
    """Output of a network in evaluation mode, on a private random state and without fused attention.

    Args:
        network: The network.
        x: Its input.

    Returns:
        Shape [B, ...].
    """
    with evaluating(network), UnfusedAttention(), PrivateDraws(0):
        return call(network, x)


class _ReadWatch(TorchFunctionMode):
    """Records layers whose weights are arguments of operations outside of the layers' calls."""

    def __init__(self, layers: Iterable[VariationalLayer]) -> None:
        super().__init__()
        self.read: set[VariationalLayer] = set()
        self._running: list[VariationalLayer] = []
        self._owners = {id(layer._stochastic.mu(name)): layer for layer in layers for name in layer.stochastic_names}
        self._stack = ExitStack()

    def __enter__(self) -> Any:
        for layer in set(self._owners.values()):
            self._stack.callback(layer.register_forward_pre_hook(partial(self._start, layer)).remove)
            self._stack.callback(layer.register_forward_hook(partial(self._stop, layer)).remove)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._stack.close()

    def _start(self, layer: VariationalLayer, *_: Any) -> None:
        self._running.append(layer)

    def _stop(self, layer: VariationalLayer, *_: Any) -> None:
        self._running.remove(layer)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if not isinstance(
            result, torch.Size | torch.dtype | torch.device | int | str
        ):  # shapes and types are no values
            for argument in [*args, *(kwargs or {}).values()]:
                for part in argument if isinstance(argument, tuple | list) else (argument,):
                    owner = self._owners.get(id(part))
                    if owner is not None and owner not in self._running:
                        self.read.add(owner)
        return result


def rows_mixed_behind(
    network: nn.Module, layers: Collection[VariationalLayer], x: NetworkInput
) -> frozenset[VariationalLayer]:
    """Finds layers behind which an output row depends on other rows of the layer than its own.

    Each output row i is weighted by a number c_i. If rows stay apart, this multiplies the gradient of row i of the
    layer's output by c_i.

    Args:
        network: The network, with weights in its slots.
        layers: Layers that are called once and have as many rows as the network's output.
        x: Its input.

    Returns:
        The layers, and those that have no gradient because an operation is not differentiable twice over.
    """
    if not layers:
        return frozenset()
    shifts: dict[VariationalLayer, Tensor] = {}

    def shift(layer: VariationalLayer, _: nn.Module, __: object, output: Tensor) -> Tensor:
        shifts[layer] = torch.zeros_like(output, requires_grad=True)
        return output + shifts[layer]

    handles = [layer.register_forward_hook(partial(shift, layer)) for layer in layers]
    try:
        with torch.inference_mode(False), torch.enable_grad():
            output = trial(network, map_tensors(torch.clone, x))
            if not output.requires_grad:
                return frozenset()
            factors = torch.linspace(1, 2, len(output), device=output.device).to(output.dtype)
            factors = factors.view(-1, *[1] * (output.dim() - 1))
            direction = torch.linspace(1, 3, output.numel(), device=output.device).to(output.dtype).cos()
            direction = direction.view_as(output)
            plain, weighted = (
                torch.autograd.grad(output, list(shifts.values()), each, retain_graph=True, materialize_grads=True)
                for each in (direction, factors * direction)
            )
    except RuntimeError:
        return frozenset(layers)
    finally:
        for handle in handles:
            handle.remove()
    tolerance = 1e-3 if torch.finfo(output.dtype).eps < 1e-4 else 5e-2
    column = factors.flatten().unsqueeze(-1)
    return frozenset(
        layer
        for layer, before, after in zip(shifts, plain, weighted, strict=True)
        if not bool((after - column.to(before) * before).abs().max() <= tolerance * after.abs().max())
    )


def copies_stay_apart(network: nn.Module, x: NetworkInput, num_rows: int) -> bool:
    """Returns True if the output for two copies of the batch, one after the other, is two copies of the output.

    It is not if a tensor of the input has another first dimension than the output, as the edges of a graph have, or
    if the network computes a sum over the batch.

    Args:
        network: The network, with weights in its slots.
        x: Its input.
        num_rows: First dimension of the output.

    Returns:
        Whether copies of the batch can be run in one pass.
    """
    x = few_rows(x, MAX_ROWS) if isinstance(x, Tensor) else x
    if any(tensor.dim() == 0 or len(tensor) != num_rows for tensor in tensors(x)):
        return False
    try:
        with torch.no_grad():
            one, two = trial(network, x), trial(network, map_tensors(lambda tensor: torch.cat([tensor, tensor]), x))
    except (RuntimeError, IndexError, ValueError):
        return False
    return two.shape[1:] == one.shape[1:] and len(two) == 2 * len(one) and agrees(two, torch.cat([one, one]))


def agrees(value: Tensor, expected: Tensor) -> bool:
    """Returns True if two outputs are equal up to rounding, relative to the largest one.

    Args:
        value: Any shape.
        expected: The same shape.

    Returns:
        Whether they are.
    """
    value, expected = value.detach(), expected.detach()
    if not (value.is_floating_point() or value.is_complex()):
        return torch.equal(value, expected)
    tolerance = max(1e-3 if torch.finfo(each.dtype).eps < 1e-4 else 5e-2 for each in (value, expected))
    scale = float(expected.abs().max().nan_to_num(0.0, 0.0)) if expected.numel() else 0.0
    value, expected = (each if each.is_complex() else each.double() for each in (value.cpu(), expected.cpu()))
    return torch.allclose(value, expected, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
