"""Deterministic networks made stochastic, module by module."""

import copy
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lightning_vi.layers import (
    ACTIVATION_SPACE,
    VARIATIONAL_COUNTERPART,
    SharedParameters,
    VariationalLayer,
    resolve_estimator,
)
from lightning_vi.priors import Prior

READS_ITS_CHILDREN = (nn.MultiheadAttention, nn.TransformerEncoderLayer)
"""Modules that use the weights of their children without calling them."""


@dataclass(frozen=True)
class ModuleReport:
    """What became of one module.

    Attributes:
        name: Its dotted name in the network, empty for the network itself.
        kind: The name of its class before conversion.
        num_parameters: Number of weights that it owns itself.
        stochastic: Whether its weights have a posterior now.
        estimator: The gradient estimator, None for a deterministic module.
        reason: Why it is as it is.
    """

    name: str
    kind: str
    num_parameters: int
    stochastic: bool
    estimator: str | None
    reason: str


@dataclass(frozen=True)
class ConversionReport:
    """A row for each module that owns parameters; prints as a table.

    Attributes:
        modules: The rows, in the network's order.
    """

    modules: tuple[ModuleReport, ...]

    @property
    def num_stochastic(self) -> int:
        """Number of weights with a posterior, tied ones counted once for each module."""
        return sum(module.num_parameters for module in self.modules if module.stochastic)

    def __str__(self) -> str:
        header = ("module", "kind", "parameters", "stochastic", "estimator", "why")
        rows = [
            (
                m.name or "(root)",
                m.kind,
                str(m.num_parameters),
                "yes" if m.stochastic else "no",
                m.estimator or "-",
                m.reason,
            )
            for m in self.modules
        ]
        widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]
        ]
        return "\n".join(line.rstrip() for line in lines)


def convert(
    network: nn.Module,
    stochastic_module_names: Sequence[str | int] | None = None,
    *,
    prior: Prior | None = None,
    estimator: str = "auto",
    init_std: float = 0.05,
) -> tuple[nn.Module, ConversionReport]:
    """A copy of a network with variational layers in place of the selected ones.

    The weights become posterior means, tied weights share one posterior, and layers that are variational
    already stay as they are. The caller's network is not changed.

    Args:
        network: Any network.
        stochastic_module_names: Dotted names, globs or indices. A name stands for the module and all below it;
            an index counts the layers that own parameters, in order of definition, from the end if negative.
            None selects every layer that can be converted.
        prior: The prior of each weight and bias; the standard Gaussian by default.
        estimator: ``"auto"``, ``"reparameterization"``, ``"local_reparameterization"`` or ``"flipout"``.
        init_std: Initial posterior standard deviation.

    Returns:
        The converted copy and a report of what became of each module.

    Raises:
        ValueError: If a name, glob or index matches nothing (the message lists the names there are), if it
            selects no layer that can be converted, or if nothing in the network is stochastic at the end.

    Example:
        >>> from torch import nn
        >>> network, report = convert(nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)), [-1])
        >>> print(report)
        module  kind    parameters  stochastic  estimator                 why
        0       Linear  16          no          -                         not selected
        2       Linear  9           yes         local_reparameterization  selected
    """
    _refuse_lazy(network)
    resolve_estimator(estimator)
    network = copy.deepcopy(network)
    layers = dict(_layers(network))
    obstacles = {name: _obstacle(network, name, layer) for name, layer in layers.items()}
    selected = _select(network, layers, obstacles, stochastic_module_names)
    for name, partner in _broken_ties(layers, selected).items():
        obstacles[name] = f"tied to {partner}, which stays deterministic"
        if stochastic_module_names is not None:
            raise ValueError(f"stochastic_module_names: {name!r} is {obstacles[name]}: select both or neither")
        selected.discard(name)
    reused = _reused(network, layers)
    shared: SharedParameters = {}
    rows = []
    for name, layer in layers.items():
        kind = type(layer).__name__
        count = sum(parameter.numel() for parameter in layer.parameters(recurse=False))
        if isinstance(layer, VariationalLayer):
            rows.append(ModuleReport(name, kind, count // 2, True, layer.estimator, "built by hand"))
        elif name in selected:
            reason, chosen = "selected", estimator
            if name in reused:
                reason, chosen = "selected; its weight is used in several places", _for_reused(name, estimator)
            converted = _counterpart(layer).adopt(
                layer, prior=prior, estimator=chosen, init_std=init_std, shared=shared
            )
            rows.append(ModuleReport(name, kind, count, True, converted.estimator, reason))
        else:
            rows.append(ModuleReport(name, kind, count, False, None, obstacles[name] or "not selected"))
    if not any(row.stochastic for row in rows):
        raise ValueError(
            f"stochastic_module_names={stochastic_module_names!r} leaves nothing stochastic in the network:\n"
            + str(ConversionReport(tuple(rows)))
        )
    return network, ConversionReport(tuple(rows))


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in network.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            yield name, module


def _refuse_lazy(network: nn.Module) -> None:
    lazy = [name for name, parameter in network.named_parameters() if is_lazy(parameter)]
    if lazy:
        raise ValueError(f"the network has uninitialised lazy parameters {lazy}: run a batch through it first")


def _counterpart(layer: nn.Module) -> type[VariationalLayer]:
    return next(VARIATIONAL_COUNTERPART[kind] for kind in type(layer).__mro__ if kind in VARIATIONAL_COUNTERPART)


def _obstacle(network: nn.Module, name: str, layer: nn.Module) -> str | None:
    """Why a layer cannot be converted, None if it can."""
    parents = [kind for kind in type(layer).__mro__ if kind in VARIATIONAL_COUNTERPART]
    if not parents:
        return f"{type(layer).__name__} has no variational counterpart"
    if type(layer).forward is not parents[0].forward or not isinstance(layer._parameters.get("weight"), Tensor):
        return f"{type(layer).__name__} changes how {parents[0].__name__} uses its weight"
    path = name.split(".")
    for depth in range(len(path)):
        ancestor = network.get_submodule(".".join(path[:depth]))
        if ancestor is not layer and isinstance(ancestor, READS_ITS_CHILDREN):
            return f"its parent {type(ancestor).__name__} reads its weight directly"
    return None


def _select(
    network: nn.Module,
    layers: dict[str, nn.Module],
    obstacles: dict[str, str | None],
    wanted: Sequence[str | int] | None,
) -> set[str]:
    convertible = {
        name for name, layer in layers.items() if obstacles[name] is None and not isinstance(layer, VariationalLayer)
    }
    if wanted is None:
        return convertible
    if isinstance(wanted, str):
        raise ValueError(
            f"stochastic_module_names must be a list of names, globs or indices, got the string {wanted!r}"
        )
    selected: set[str] = set()
    for item in wanted:
        chosen = _layers_by_index(layers, item) if isinstance(item, int) else _layers_by_name(network, layers, item)
        usable = {name for name in chosen if name in convertible or isinstance(layers[name], VariationalLayer)}
        if not usable:
            reasons = ", ".join(f"{name or '(root)'}: {obstacles[name]}" for name in chosen)
            raise ValueError(f"stochastic_module_names: {item!r} selects no layer that can be converted ({reasons})")
        selected |= usable
    return selected


def _broken_ties(layers: dict[str, nn.Module], selected: set[str]) -> dict[str, str]:
    """Selected layers that share a parameter with a deterministic one, each with that parameter's name."""
    kept = {
        id(parameter): f"{name}.{label}".lstrip(".")
        for name, layer in layers.items()
        if name not in selected
        for label, parameter in layer.named_parameters(recurse=False)
    }
    return {
        name: kept[id(parameter)]
        for name in layers
        if name in selected
        for parameter in layers[name].parameters(recurse=False)
        if id(parameter) in kept
    }


def _reused(network: nn.Module, layers: dict[str, nn.Module]) -> set[str]:
    """Layers that stand in several places of the network, or share a parameter with another."""
    uses = Counter(
        id(parameter)
        for _, module in network.named_modules(remove_duplicate=False)
        for parameter in module.parameters(recurse=False)
    )
    return {
        name
        for name, layer in layers.items()
        if any(uses[id(parameter)] > 1 for parameter in layer.parameters(recurse=False))
    }


def _for_reused(name: str, estimator: str) -> str:
    """The estimator of a layer whose weight must be one draw wherever it is used."""
    if estimator in ACTIVATION_SPACE:
        raise ValueError(
            f"estimator={estimator!r} draws the outputs of {name!r} independently wherever its weight is used, but "
            "that is one weight in several places: use 'auto' or 'reparameterization'"
        )
    return "reparameterization"


def _layers_by_index(layers: dict[str, nn.Module], index: int) -> list[str]:
    names = list(layers)
    if not -len(names) <= index < len(names):
        raise ValueError(
            f"stochastic_module_names: index {index} is out of range for the {len(names)} layers with "
            f"parameters: {names}"
        )
    return [names[index]]


def _layers_by_name(network: nn.Module, layers: dict[str, nn.Module], pattern: str) -> list[str]:
    everything = dict(network.named_modules(remove_duplicate=False))
    matched = {
        id(part)
        for name, module in everything.items()
        if name == pattern or fnmatchcase(name, pattern)
        for part in module.modules()
    }
    chosen = [name for name, layer in layers.items() if id(layer) in matched]
    if not chosen:
        raise ValueError(
            f"stochastic_module_names: {pattern!r} matches no module with parameters; the modules are "
            f"{[name for name in everything if name]}"
        )
    return chosen
