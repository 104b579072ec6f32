"""Dropout behind selected modules."""

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from lightning_vi.conversion.layers import named_layers
from lightning_vi.conversion.selection import ModuleSelector, select_modules
from lightning_vi.errors import InputValueError
from lightning_vi.sampling import DropoutBehind, hooks_behind

_NEVER_CALLED = (nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)


def put_dropout_behind(network: nn.Module, wanted: Sequence[ModuleSelector], p: float) -> list[str]:
    """Adds dropout behind modules, active in training mode. Names in the state dictionary stay as they are.

    Args:
        network: The network, which is changed in-place.
        wanted: Names, globs, classes and predicates that select modules, and indices that select among the layers with
            parameters.
        p: Probability that a unit is dropped.

    Returns:
        The names of the modules.

    Raises:
        ValueError: If `wanted` is not a list, or a selector matches no module that is called.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> put_dropout_behind(network, [nn.ReLU], p=0.1)
        ['1']
    """
    modules = {name: module for name, module in network.named_modules() if name and _can_drop(network, name, module)}
    chosen = select_modules(modules, named_layers(network), wanted, "dropout_module_names")
    read = [name for name in chosen if name and name not in modules]
    if read:
        raise InputValueError(
            f"dropout_module_names: {read} are read by their attention and never called: name the attention"
        )
    for module in map(network.get_submodule, chosen):
        if not hooks_behind(module):
            DropoutBehind(module, p)
    return chosen


def _can_drop(network: nn.Module, name: str, module: nn.Module) -> bool:
    """Returns True if a module is called by its parent and is not a dropout layer itself."""
    path = name.split(".")
    ancestors = [network.get_submodule(".".join(path[:depth])) for depth in range(len(path))]
    is_read = any(isinstance(ancestor, nn.MultiheadAttention) for ancestor in ancestors)
    return not is_read and not isinstance(module, (*_NEVER_CALLED, _DropoutNd))
