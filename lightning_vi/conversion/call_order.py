"""Order in which a network calls its layers."""

import copy
import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from lightning_vi.backbones import SelectOutput
from lightning_vi.conversion.layers import named_layers
from lightning_vi.locks import filtered_warnings
from lightning_vi.sampling import NetworkInput, trial, unroll

MAX_TRIALS = 12
"""Number of inputs to try, at most."""
SIZES = (32, 28, 64, 224)
"""Lengths of a side of an image to try."""
_NORMALIZATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm)


def called_last(layers: dict[str, nn.Module], order: dict[str, None], expected: str | None = None) -> str:
    """Finds the layer that is called last, not counting normalizations and others without a matrix of weights.

    Args:
        layers: The `named_layers` of a network.
        order: Their names in the order of their last calls.
        expected: Layer that may be it; by default the one defined last.

    Returns:
        Name of the layer. It is the expected one if that is a part of the layer called last, or a container such as
        `nn.ParameterList`, which is never called.
    """
    expected = next(reversed(layers)) if expected is None else expected
    called = next((name for name in reversed(order) if _has_matrix(layers[name])), next(reversed(order), expected))
    is_container = type(layers[expected]).forward is nn.Module.forward
    is_part = expected.startswith(f"{called}.") or (not called and expected not in order)
    return expected if is_container or is_part else called


def _has_matrix(layer: nn.Module) -> bool:
    """False for layers that scale and shift features, such as normalizations."""
    return not isinstance(layer, _NORMALIZATIONS) and any(parameter.dim() > 1 for parameter in layer.parameters())


def call_order(network: nn.Module, x: NetworkInput) -> dict[str, None]:
    """Runs a network once, in evaluation mode and on private random numbers.

    Args:
        network: The network.
        x: Its input.

    Returns:
        Names of its layers in the order of their last calls.
    """
    order: dict[str, None] = {}
    _record_calls(network, x, order)
    return order


def _record_calls(network: nn.Module, x: NetworkInput, order: dict[str, None]) -> None:
    def record(name: str, *_: Any) -> None:
        order.pop(name, None)
        order[name] = None

    handles = [layer.register_forward_pre_hook(partial(record, name)) for name, layer in named_layers(network).items()]
    try:
        with torch.no_grad():
            trial(network, x)
    finally:
        for handle in handles:
            handle.remove()


@torch.compiler.disable  # type: ignore[untyped-decorator]
def guessed_call_order(network: nn.Module) -> dict[str, None] | None:
    """Finds the order in which a network calls its layers before any input is known.

    A chain of modules needs no pass. Of other networks, a copy is run on zeros, in the shapes that the first layers
    take. The copy shares the parameters, and its linear layers compute nothing, so that any length of a flattened image
    fits.

    Args:
        network: Any network.

    Returns:
        Names of its layers in the order of their last calls; None if the network takes none of the inputs.

    Example:
        >>> list(guessed_call_order(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))))
        ['0', '2']
    """
    layers = named_layers(network)
    chain = unroll(network)
    if all(not part._modules for part in chain):
        names = {id(layer): name for name, layer in layers.items()}
        called = [names[id(part)] for part in chain if id(part) in names]
        return dict.fromkeys(reversed(dict.fromkeys(reversed(called))))
    try:
        with filtered_warnings("ignore", ""):
            return _first_order_found(_sketch(network))
    except Exception:  # whatever the network raises, the order is unknown
        return None


def _sketch(network: nn.Module) -> nn.Module:
    """A copy that shares its parameters, with linear layers that return zeros."""
    network = copy.deepcopy(network, {id(parameter): parameter for parameter in network.parameters()})
    for module in network.modules():
        is_linear = isinstance(module, nn.Linear) and type(module).forward is nn.Linear.forward
        if is_linear and not module._modules:  # parametrizations are called
            module.forward = partial(_zeros, cast(int, module.out_features), next(module.parameters()).dtype)
    return network


def _zeros(width: int, dtype: torch.dtype, x: Tensor) -> Tensor:
    return torch.zeros(*x.shape[:-1], width, dtype=dtype, device=x.device)


def _first_order_found(network: nn.Module) -> dict[str, None] | None:
    layers = named_layers(network)
    num_inputs = _num_inputs(network)
    waiting, tried, num_trials = list(layers), set[str](), 0
    while waiting:
        name = waiting.pop(0)
        if name in tried:
            continue
        tried.add(name)
        order: dict[str, None] = {}
        for x in _inputs_of(layers[name]):
            num_trials += 1
            if num_trials > MAX_TRIALS:
                return None
            order.clear()
            try:
                _record_calls(network, x if num_inputs == 1 else (x,) * num_inputs, order)
            except Exception:  # the network does not take this input
                continue
            return order
        waiting = [*order, *waiting]
    return None


def _num_inputs(network: nn.Module) -> int:
    """Number of arguments that a network cannot do without."""
    while isinstance(network, SelectOutput):
        network = network.network
    required = [
        parameter
        for parameter in inspect.signature(network.forward).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    return max(1, len(required))


def _inputs_of(layer: nn.Module) -> Iterator[Tensor]:
    """Zeros that a layer takes as its input; none for unknown kinds of layers."""
    parameter = next(layer.parameters(recurse=False))
    zeros = partial(torch.zeros, dtype=parameter.dtype, device=parameter.device)
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        yield torch.zeros(2, 8, dtype=torch.long, device=parameter.device)
    elif isinstance(layer, _ConvNd):
        for size in SIZES:
            yield zeros(2, layer.in_channels, *[size] * len(layer.kernel_size))
    elif isinstance(layer, nn.LayerNorm):
        yield zeros(2, *layer.normalized_shape)
        yield zeros(2, 8, *layer.normalized_shape)
    elif isinstance(layer, nn.Linear):
        yield zeros(2, layer.in_features)
        yield zeros(2, 8, layer.in_features)
    elif isinstance(layer, nn.RNNBase):
        yield zeros(2, 8, layer.input_size)
    elif isinstance(layer, nn.MultiheadAttention):
        yield zeros(2, 8, layer.embed_dim)
    elif isinstance(layer, _NormBase):
        yield zeros(2, layer.num_features)
        for size in SIZES:
            yield zeros(2, layer.num_features, size, size)
