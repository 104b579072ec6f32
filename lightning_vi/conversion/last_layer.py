"""Finding and replacing the last layer of a network."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from lightning_vi.conversion.layers import named_layers, reading_parent
from lightning_vi.conversion.selection import ModuleSelector, select_layers
from lightning_vi.errors import InputValueError
from lightning_vi.sampling import NetworkInput, few_rows, trial


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


class LastLayerCheck:
    """Checks at the first batch that the layer defined last, which the index -1 selects, is the one called last.

    Args:
        network: The network, which may be converted.
        name: Dotted name of the layer.
        selectors: The user's selectors; other ones than the index -1 need no check.
    """

    def __init__(self, network: nn.Module, name: str, selectors: Sequence[ModuleSelector] | None) -> None:
        self._network = network
        self._name = name
        self._is_done = selectors is None or not any(type(each) is int and each == -1 for each in selectors)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, x: NetworkInput) -> None:
        """Runs the network once, in evaluation mode, if it has not been checked yet.

        Args:
            x: Input of the network.

        Raises:
            ValueError: If another layer is called last; the error names both.
        """
        if self._is_done:
            return
        order = self._call_order(x)
        chosen = self._network.get_submodule(self._name)
        last = next(reversed(order), self._name)
        is_container = type(chosen).forward is nn.Module.forward  # as of a list of parameters
        is_part = self._name.startswith(f"{last}.") or (not last and self._name not in order)
        if last != self._name and not is_container and not is_part:
            used = "after it" if self._name in order else "and the selected one is not called"
            raise InputValueError(
                f"stochastic_module_names: -1 selects the layer defined last, {self._name!r} "
                f"({type(chosen).__name__}), but {last!r} ({type(self._network.get_submodule(last)).__name__}) is "
                f"called last, {used}: select the layer by its name, such as stochastic_module_names=[{last!r}]"
            )
        self._is_done = True

    def _call_order(self, x: NetworkInput) -> dict[str, None]:
        """Names of the layers with parameters in the order of their last calls."""
        order: dict[str, None] = {}

        def record(name: str, *_: Any) -> None:
            order.pop(name, None)
            order[name] = None

        layers = named_layers(self._network)
        handles = [layer.register_forward_pre_hook(partial(record, name)) for name, layer in layers.items()]
        try:
            with torch.no_grad():
                trial(self._network, few_rows(x, 1))
        finally:
            for handle in handles:
                handle.remove()
        return order


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
