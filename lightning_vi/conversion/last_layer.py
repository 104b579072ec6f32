"""Finding and replacing the last layer of a network."""

from collections.abc import Mapping, Sequence

from torch import nn

from lightning_vi.conversion.layers import reading_parent
from lightning_vi.conversion.selection import ModuleSelector, select_layers
from lightning_vi.errors import InputValueError


def find_last_layer(network: nn.Module, layers: Mapping[str, nn.Module], names: Sequence[ModuleSelector]) -> str:
    """Finds the selected last layer, which must be called by the network and must not share weights.

    Args:
        network: Any network.
        layers: Its `named_layers`.
        names: Selectors of one layer, such as [-1].

    Returns:
        Dotted name of the layer, empty for the network itself.

    Raises:
        ValueError: If the selectors do not select exactly one layer, its parent reads its weight without calling it,
            or its weights are tied.
    """
    chosen = sorted({name for _, found in select_layers(network, layers, names) for name in found})
    if len(chosen) != 1:
        raise InputValueError(
            f"stochastic_module_names={names!r} must select one layer, the last, but selects {chosen}"
        )
    (name,) = chosen
    label = repr(name) if name else "the root"
    reader = reading_parent(network, name)
    if reader is not None:
        raise InputValueError(
            f"the last layer must be called, but {label} is not: its parent {reader} reads its weight"
        )
    own = {id(parameter) for parameter in layers[name].parameters()}
    tied = [
        other
        for other, module in layers.items()
        if module is not layers[name] and any(id(parameter) in own for parameter in module.parameters(recurse=False))
    ]
    if tied:
        raise InputValueError(f"the last layer must have weights of its own, but {label} shares them with {tied}")
    return name


def replace_layer(network: nn.Module, layer: nn.Module, replacement: nn.Module) -> nn.Module:
    """Replaces each occurrence of a layer in a network in place.

    Args:
        network: Any network.
        layer: A module of the network, or the network itself.
        replacement: The new module.

    Returns:
        The network, or `replacement` if `layer` is the network itself.
    """
    if network is layer:
        return replacement
    places = [(parent, label) for parent in network.modules() for label, m in parent._modules.items() if m is layer]
    for parent, label in places:
        setattr(parent, label, replacement)
    return network
