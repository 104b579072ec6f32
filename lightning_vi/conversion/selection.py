"""Selection of modules by name, glob, index, class or predicate."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from lightning_vi.conversion.call_order import called_last, guessed_call_order
from lightning_vi.errors import InputValueError
from lightning_vi.layers import stochastic_parameters

ModuleSelector = str | int | type[nn.Module] | Callable[[str, nn.Module], bool]
"""A dotted name or glob, an index, a class, or a predicate of the name and the module."""

ARGUMENT = "stochastic_module_names"
"""Name of the argument with selectors of most methods."""


def select_layers(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    selectors: Sequence[ModuleSelector],
    argument: str = ARGUMENT,
) -> list[tuple[ModuleSelector, list[str]]]:
    """Finds the layers that each selector matches.

    Args:
        network: The network.
        layers: Its modules that own parameters, by name, in order of definition.
        selectors: Names, globs, classes and predicates match modules with all their submodules; an index refers to
            `layers`, and -1 to the layer that is called last, see `last_layer`.
        argument: Argument name for error messages.

    Returns:
        Each selector with the names of its layers, at least one.

    Raises:
        ValueError: If `selectors` is not a list, or a selector matches no layer.
    """
    _check_list(selectors, argument)
    return [(selector, _matching_layers(network, layers, selector, argument)) for selector in selectors]


def select_convertible(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    obstacles: Mapping[str, str | None],
    selectors: Sequence[ModuleSelector] | None,
) -> set[str]:
    """Selects the layers to convert.

    Args:
        network: The network.
        layers: Its `named_layers`.
        obstacles: Reason why each layer cannot become stochastic, None if it can.
        selectors: Selectors of layers; None selects all that can become stochastic.

    Returns:
        Names of selected layers that can become, or already are, stochastic.

    Raises:
        ValueError: If a selector matches no layer, or none that can be stochastic.
    """
    if selectors is None:
        return {name for name in layers if obstacles[name] is None and stochastic_parameters(layers[name]) is None}
    present = {name for name, layer in layers.items() if stochastic_parameters(layer) is not None}
    remaining = {name: None if name in present else obstacle for name, obstacle in obstacles.items()}
    return select_possible(network, layers, remaining, selectors)


def select_possible(
    network: nn.Module,
    layers: Mapping[str, nn.Module],
    obstacles: Mapping[str, str | None],
    selectors: Sequence[ModuleSelector] | None,
    argument: str = ARGUMENT,
    purpose: str = "be stochastic",
) -> set[str]:
    """Selects layers among those that allow something.

    Args:
        network: The network.
        layers: Its `named_layers`.
        obstacles: Reason why each layer does not allow it, None if it does.
        selectors: Selectors of layers; None selects all that allow it.
        argument: Argument name for error messages.
        purpose: What a layer could do, for error messages.

    Returns:
        Names of selected layers that allow it.

    Raises:
        ValueError: If a selector matches no layer, or none that allows it.
    """
    possible = {name for name in layers if obstacles[name] is None}
    if selectors is None:
        return possible
    selected: set[str] = set()
    for selector, chosen in select_layers(network, layers, selectors, argument):
        usable = possible.intersection(chosen)
        if not usable:
            reasons = ", ".join(f"{name or '(root)'}: {obstacles[name]}" for name in chosen)
            raise InputValueError(f"{argument}: {selector!r} selects nothing that can {purpose} ({reasons})")
        selected |= usable
    return selected


def select_modules(
    modules: Mapping[str, nn.Module],
    layers: Mapping[str, nn.Module],
    selectors: Sequence[ModuleSelector],
    argument: str,
) -> list[str]:
    """Finds the modules that selectors match, without their submodules.

    Args:
        modules: Modules by name, to which names, globs, classes and predicates refer.
        layers: Modules to which an index refers.
        selectors: Selectors of modules.
        argument: Argument name for error messages.

    Returns:
        Names in the order of the selectors, without duplicates.

    Raises:
        ValueError: If `selectors` is not a list, or a selector matches no module.
    """
    _check_list(selectors, argument)
    chosen: dict[str, None] = {}
    for selector in selectors:
        _check_selector(selector, argument)
        if isinstance(selector, int):
            found = [_by_index(layers, selector, argument)]
        else:
            found = [name for name, module in modules.items() if _matches(selector, name, module)]
        if not found:
            raise InputValueError(f"{argument}: {selector!r} matches none of the modules {list(modules)}")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def last_layer(network: nn.Module, layers: dict[str, nn.Module]) -> str:
    """Finds the layer that a network calls last.

    Args:
        network: Any network.
        layers: Its `named_layers`, at least one.

    Returns:
        Name of the layer, which is no normalization unless all layers are; of the one defined last if the order of the
        calls cannot be found before there is an input.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1), nn.LayerNorm(1))
        >>> last_layer(network, dict(network.named_children()))
        '1'
    """
    order = guessed_call_order(network) if len(layers) > 1 else None
    return next(reversed(layers)) if order is None else called_last(layers, order)


def _check_list(selectors: Sequence[ModuleSelector], argument: str) -> None:
    if isinstance(selectors, str | type) or not isinstance(selectors, Sequence):
        raise InputValueError(
            f"{argument} must be a list of names, globs, indices, classes or predicates, got "
            f"{'the string ' if isinstance(selectors, str) else ''}{selectors!r}"
        )


def _check_selector(selector: ModuleSelector, argument: str) -> None:
    if isinstance(selector, bool) or not (isinstance(selector, int | str) or callable(selector)):
        raise InputValueError(f"{argument}: a name, glob, index, class or predicate is expected, got {selector!r}")


def _matching_layers(
    network: nn.Module, layers: Mapping[str, nn.Module], selector: ModuleSelector, argument: str
) -> list[str]:
    _check_selector(selector, argument)
    if selector == -1 and layers:
        return [last_layer(network, dict(layers))]
    if isinstance(selector, int):
        return [_by_index(layers, selector, argument)]
    modules = dict(network.named_modules(remove_duplicate=False))
    matched = {
        id(part) for name, module in modules.items() if _matches(selector, name, module) for part in module.modules()
    }
    chosen = [name for name, layer in layers.items() if id(layer) in matched]
    if not chosen:
        raise InputValueError(
            f"{argument}: {selector!r} matches no module with parameters; the modules are "
            f"{[name for name in modules if name]}"
        )
    return chosen


def _matches(selector: str | type[nn.Module] | Callable[[str, nn.Module], bool], name: str, module: nn.Module) -> bool:
    if isinstance(selector, str):
        return name == selector or fnmatchcase(name, selector)
    if isinstance(selector, type):
        return isinstance(module, selector)
    return bool(selector(name, module))


def _by_index(layers: Mapping[str, nn.Module], index: int, argument: str) -> str:
    names = list(layers)
    if not -len(names) <= index < len(names):
        raise InputValueError(
            f"{argument}: index {index} is out of range for the {len(names)} layers with parameters: {names}"
        )
    return names[index]
