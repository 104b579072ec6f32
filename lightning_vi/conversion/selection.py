"""Modules by name, glob, index, type or predicate."""

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

ModuleSelector = str | int | type[nn.Module] | Callable[[str, nn.Module], bool]
"""A dotted name or glob, an index, a class, or a function of a module's name and the module."""


def select_layers(
    network: nn.Module, layers: Mapping[str, nn.Module], wanted: Sequence[ModuleSelector]
) -> list[tuple[ModuleSelector, list[str]]]:
    """The layers that each selector chooses.

    Args:
        network: The network.
        layers: Its modules that own parameters, by name, in order of definition.
        wanted: Selectors. A name, glob, class or predicate stands for the modules that it matches and all below them;
            an index counts the layers, from the end if negative.

    Returns:
        Each selector with the names of its layers, never none.

    Raises:
        ValueError: If `wanted` is no list, or a selector chooses no layer; the message lists what there is.
    """
    _check_list(wanted, "stochastic_module_names")
    return [(selector, _chosen(network, layers, selector)) for selector in wanted]


def select_modules(
    modules: Mapping[str, nn.Module], layers: Mapping[str, nn.Module], wanted: Sequence[ModuleSelector], argument: str
) -> list[str]:
    """The modules that selectors name, and not what lies below them.

    Args:
        modules: What names, globs, classes and predicates are compared with, by name.
        layers: The modules that an index counts, from the end if negative.
        wanted: Selectors.
        argument: What the caller calls them.

    Returns:
        Names, each once, in the order of the selectors.

    Raises:
        ValueError: If `wanted` is no list, or a selector chooses no module; the message lists what there is.
    """
    _check_list(wanted, argument)
    chosen: dict[str, None] = {}
    for selector in wanted:
        _check_selector(selector, argument)
        if isinstance(selector, int):
            found = [_by_index(layers, selector, argument)]
        else:
            found = [name for name, module in modules.items() if _matches(selector, name, module)]
        if not found:
            raise ValueError(f"{argument}: {selector!r} matches none of the modules {list(modules)}")
        chosen |= dict.fromkeys(found)
    return list(chosen)


def _check_list(wanted: Sequence[ModuleSelector], argument: str) -> None:
    if isinstance(wanted, str | type) or not isinstance(wanted, Sequence):
        raise ValueError(
            f"{argument} must be a list of names, globs, indices, classes or predicates, got "
            f"{'the string ' if isinstance(wanted, str) else ''}{wanted!r}"
        )


def _check_selector(selector: ModuleSelector, argument: str) -> None:
    if isinstance(selector, bool) or not (isinstance(selector, int | str) or callable(selector)):
        raise ValueError(f"{argument}: a name, glob, index, class or predicate is expected, got {selector!r}")


def _chosen(network: nn.Module, layers: Mapping[str, nn.Module], selector: ModuleSelector) -> list[str]:
    argument = "stochastic_module_names"
    _check_selector(selector, argument)
    if isinstance(selector, int):
        return [_by_index(layers, selector, argument)]
    everything = dict(network.named_modules(remove_duplicate=False))
    matched = {
        id(part) for name, module in everything.items() if _matches(selector, name, module) for part in module.modules()
    }
    chosen = [name for name, layer in layers.items() if id(layer) in matched]
    if not chosen:
        raise ValueError(
            f"{argument}: {selector!r} matches no module with parameters; the modules are "
            f"{[name for name in everything if name]}"
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
        raise ValueError(
            f"{argument}: index {index} is out of range for the {len(names)} layers with parameters: {names}"
        )
    return names[index]
