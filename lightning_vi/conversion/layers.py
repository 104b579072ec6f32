"""Layers of a network and their parameters."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_vi.errors import InputValueError
from lightning_vi.layers import VARIATIONAL_COUNTERPART

READS_ITS_CHILDREN = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that read the weights of their children without calling them."""


def named_layers(network: nn.Module) -> dict[str, nn.Module]:
    """Modules that own parameters, by dotted name, in order of definition.

    Args:
        network: Any network.

    Returns:
        Each module once, under its first name.

    Raises:
        ValueError: If the network has uninitialized lazy parameters.
    """
    lazy = [name for name, parameter in network.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise InputValueError(f"the network has uninitialized lazy parameters {lazy}: run a batch through it first")
    return {name: module for name, module in network.named_modules() if any(True for _ in own_parameters(module))}


def own_parameters(layer: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that a module owns directly; tied parameters appear under each of their names."""
    return layer.named_parameters(recurse=False, remove_duplicate=False)


def reused_layers(network: nn.Module, layers: Mapping[str, nn.Module]) -> set[str]:
    """Names of the layers that occur several times in a network or share a parameter with another layer.

    Args:
        network: Any network.
        layers: Its `named_layers`.
    """
    uses = Counter(
        id(parameter)
        for _, module in network.named_modules(remove_duplicate=False)
        for _, parameter in own_parameters(module)
    )
    return {
        name
        for name, layer in layers.items()
        if any(uses[id(parameter)] > 1 for parameter in layer.parameters(recurse=False))
    }


def is_frozen(layer: nn.Module) -> bool:
    """Returns True if a module owns weights and all of them are frozen; integers are no weights.

    Args:
        layer: Any module.
    """
    own = [parameter for _, parameter in own_parameters(layer) if parameter.is_floating_point()]
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def count_elements(parameters: Iterable[Tensor]) -> int:
    """Number of elements of several tensors, counting each tensor once."""
    return sum(parameter.numel() for parameter in {id(each): each for each in parameters}.values())


def affine_parent(layer: nn.Module) -> type[nn.Module] | None:
    """Torch class of a linear layer or convolution, including subclasses that keep its forward pass and parameters.

    Args:
        layer: Any module.

    Returns:
        A key of `VARIATIONAL_COUNTERPART`, or None for other modules.
    """
    parent = next((kind for kind in type(layer).__mro__ if kind in VARIATIONAL_COUNTERPART), None)
    if parent is None or type(layer).forward is not parent.forward:
        return None
    owned = {name for name, parameter in layer._parameters.items() if parameter is not None}
    return parent if "weight" in owned and owned <= {"weight", "bias"} else None


def reading_parent(network: nn.Module, name: str) -> str | None:
    """Class name of the parent module that reads the weight of a layer without calling the layer.

    Args:
        network: Any network.
        name: Dotted name of the layer.

    Returns:
        The class name, or None if there is no such parent.
    """
    path = name.split(".")
    ancestors = [network.get_submodule(".".join(path[:depth])) for depth in range(len(path))] if name else []
    return next((type(module).__name__ for module in ancestors if isinstance(module, READS_ITS_CHILDREN)), None)
