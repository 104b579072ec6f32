"""The layers of a network, and which of them may be made stochastic."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_vi.conversion.selection import ModuleSelector, select_layers
from lightning_vi.layers import VARIATIONAL_COUNTERPART, stochastic_parameters

READS_ITS_CHILDREN = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that use the weights of their children without calling them."""


def named_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that own parameters, by dotted names, in order of definition.

    Args:
        network: Any network.

    Returns:
        Each module once.

    Raises:
        ValueError: If a parameter has no value yet.
    """
    lazy = [name for name, parameter in network.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ValueError(f"the network has uninitialised lazy parameters {lazy}: run a batch through it first")
    return {name: module for name, module in network.named_modules() if any(True for _ in own_parameters(module))}


def own_parameters(layer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """A module's own parameters, not its children's, with their names; tied ones under each of their names.

    Args:
        layer: Any module.

    Returns:
        Pairs of name and parameter.
    """
    return layer.named_parameters(recurse=False, remove_duplicate=False)


def count_elements(parameters: Iterable[Tensor]) -> int:
    """The number of weights in several tensors, each tensor once.

    Args:
        parameters: Any tensors.

    Returns:
        The number.
    """
    return sum(parameter.numel() for parameter in {id(each): each for each in parameters}.values())


def affine_parent(layer: nn.Module) -> type[nn.Module] | None:
    """The torch layer that `layer` computes as, if that is linear in its weight and bias and these are all it owns.

    Args:
        layer: Any module.

    Returns:
        A linear layer or convolution of torch, None if there is none.
    """
    parent = next((kind for kind in type(layer).__mro__ if kind in VARIATIONAL_COUNTERPART), None)
    if parent is None or type(layer).forward is not parent.forward:
        return None
    owned = {name for name, parameter in layer._parameters.items() if parameter is not None}
    return parent if "weight" in owned and owned <= {"weight", "bias"} else None


def reading_parent(network: nn.Module, name: str) -> str | None:
    """The module that reads a layer's weight without calling the layer.

    Args:
        network: Any network.
        name: The layer's dotted name in it.

    Returns:
        The name of that module's class, None if there is none.
    """
    path = name.split(".")
    ancestors = [network.get_submodule(".".join(path[:depth])) for depth in range(len(path))] if name else []
    return next((type(module).__name__ for module in ancestors if isinstance(module, READS_ITS_CHILDREN)), None)


def selected_layers(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    obstacles: Mapping[str, str | None],
    wanted: Sequence[ModuleSelector] | None,
) -> set[str]:
    """Names of the layers to convert.

    Args:
        network: The network.
        layers: Its `named_layers`.
        obstacles: For each of them, why it cannot become stochastic, None if it can.
        wanted: Selectors; None for all that can.

    Returns:
        Names of layers that can become stochastic or are.

    Raises:
        ValueError: If a selector matches nothing, or nothing that can be stochastic.
    """
    possible = {name for name in layers if obstacles[name] is None and stochastic_parameters(layers[name]) is None}
    if wanted is None:
        return possible
    selected: set[str] = set()
    for selector, chosen in select_layers(network, layers, wanted):
        usable = {name for name in chosen if name in possible or stochastic_parameters(layers[name]) is not None}
        if not usable:
            reasons = ", ".join(f"{name or '(root)'}: {obstacles[name]}" for name in chosen)
            raise ValueError(
                f"stochastic_module_names: {selector!r} selects nothing that can be stochastic ({reasons})"
            )
        selected |= usable
    return selected
