"""The last layer of a network, and another in its place."""

from collections.abc import Mapping, Sequence

from torch import nn

from lightning_vi.conversion.layers import reading_parent
from lightning_vi.conversion.selection import ModuleSelector, select_layers


def find_last_layer(network: nn.Module, layers: Mapping[str, nn.Module], names: Sequence[ModuleSelector]) -> str:
    """The one layer that is selected, called by the network and has weights of its own.

    Args:
        network: Any network.
        layers: Its `named_layers`.
        names: Selectors, such as [-1].

    Returns:
        Its dotted name, empty for the network itself.

    Raises:
        ValueError: If not one layer is selected, or it is not such a layer.
    """
    chosen = sorted({name for _, found in select_layers(network, layers, names) for name in found})
    if len(chosen) != 1:
        raise ValueError(f"stochastic_module_names={names!r} must select one layer, the last, but selects {chosen}")
    (name,) = chosen
    label = repr(name) if name else "the root"
    reader = reading_parent(network, name)
    if reader is not None:
        raise ValueError(f"the last layer must be called, but {label} is not: its parent {reader} reads its weight")
    own = {id(parameter) for parameter in layers[name].parameters()}
    tied = [
        other
        for other, module in layers.items()
        if module is not layers[name] and any(id(parameter) in own for parameter in module.parameters(recurse=False))
    ]
    if tied:
        raise ValueError(f"the last layer must have weights of its own, but {label} shares them with {tied}")
    return name


def replace_layer(network: nn.Module, layer: nn.Module, replacement: nn.Module) -> nn.Module:
    """The network with another module in each place of a layer, changed in place.

    Args:
        network: Any network.
        layer: A module of it.
        replacement: What comes in its place.

    Returns:
        The network, or the replacement where the layer is all of it.
    """
    if network is layer:
        return replacement
    places = [(parent, label) for parent in network.modules() for label, m in parent._modules.items() if m is layer]
    for parent, label in places:
        setattr(parent, label, replacement)
    return network
