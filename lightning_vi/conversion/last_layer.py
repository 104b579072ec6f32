"""Finding and replacing the last layer of a network."""

from collections.abc import Mapping, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import nn

from lightning_vi.conversion.call_order import call_order, called_last
from lightning_vi.conversion.layers import named_layers, reading_parent
from lightning_vi.conversion.selection import ModuleSelector, last_layer, select_layers
from lightning_vi.errors import InputValueError
from lightning_vi.sampling import NetworkInput, few_rows


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
    last_selected(network, names)
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


def last_selected(network: nn.Module, selectors: Sequence[ModuleSelector] | None) -> str | None:
    """Finds the layer that the index -1 selects, and logs it if it is not the one defined last.

    Args:
        network: The network, before conversion.
        selectors: The user's selectors.

    Returns:
        Dotted name of the layer; None if -1 is not among the selectors.
    """
    if selectors is None or not any(type(each) is int and each == -1 for each in selectors):
        return None
    layers = named_layers(network)
    name, defined = last_layer(network, layers), next(reversed(layers))
    if name != defined:
        rank_zero_info(
            f"the last layer is {_described(layers, name)}, which is called last; {_described(layers, defined)} is "
            "defined last"
        )
    return name


def _described(layers: Mapping[str, nn.Module], name: str) -> str:
    return f"{repr(name) if name else 'the root'} ({type(layers[name]).__name__})"


class LastLayerCheck:
    """Checks at the first batch that the layer that the index -1 selects is the one called last.

    Args:
        network: The network, which may be converted.
        name: Dotted name of the layer; None if there is nothing to check.
    """

    def __init__(self, network: nn.Module, name: str | None) -> None:
        self._network = network
        self._name = name

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, x: NetworkInput) -> None:
        """Runs the network once, in evaluation mode, if it has not been checked yet.

        Args:
            x: Input of the network.

        Raises:
            ValueError: If another layer is called last; the error names both.
        """
        if self._name is None:
            return
        layers, order = named_layers(self._network), call_order(self._network, few_rows(x, 1))
        last = called_last(layers, order, self._name)
        if last != self._name:
            used = "after it" if self._name in order else "and the selected one is not called"
            raise InputValueError(
                f"stochastic_module_names: -1 selects {_described(layers, self._name)}, but "
                f"{_described(layers, last)} is called last, {used}: select the layer by its name, such as "
                f"stochastic_module_names=[{last!r}]"
            )
        self._name = None


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
