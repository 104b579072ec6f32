"""Deterministic networks made stochastic, module by module."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.jit import ScriptModule

from lightning_vi.conversion.layers import (
    affine_parent,
    count_elements,
    named_layers,
    own_parameters,
    reading_parent,
    selected_layers,
)
from lightning_vi.conversion.named_priors import choose_priors
from lightning_vi.conversion.report import ConversionReport, ModuleReport
from lightning_vi.conversion.selection import ModuleSelector
from lightning_vi.layers import (
    VARIATIONAL_COUNTERPART,
    SharedParameters,
    VariationalLayer,
    VariationalModule,
    check_estimator,
    make_variational,
    num_inputs_of,
    stochastic_parameters,
)
from lightning_vi.posteriors import InitialStd
from lightning_vi.priors import GaussianPrior, Prior

WEIGHT_SPACE = "reparameterization"


def convert(
    network: nn.Module,
    stochastic_module_names: Sequence[ModuleSelector] | None = None,
    *,
    prior: Prior | Mapping[str, Prior] | None = None,
    estimator: str = "auto",
    init_std: InitialStd = 0.05,
    stochastic_biases: bool = True,
) -> tuple[nn.Module, ConversionReport]:
    """A copy of a network in which the parameters of the selected modules have posteriors.

    Any parameter of any module can have one. The weights become posterior means, tied weights share one posterior,
    and layers that are variational already stay as they are. The caller's network is not changed.

    Args:
        network: Any network.
        stochastic_module_names: Dotted names, globs, indices, classes, or predicates of a module's name and the
            module. All but an index stand for the modules that they match and all below them; an index counts the
            layers that own parameters, in order of definition, from the end if negative. None selects every layer.
        prior: The prior of each parameter; or several, by dotted names or globs of parameters and modules, of which the
            first that matches counts. The standard Gaussian where there is none.
        estimator: ``"auto"``, ``"reparameterization"``, ``"local_reparameterization"`` or ``"flipout"``. The last two
            need a layer that is linear in its weights and that is used once.
        init_std: Initial posterior standard deviation.
        stochastic_biases: Whether biases have posteriors too.

    Returns:
        The converted copy and a report of what became of each module.

    Raises:
        ValueError: If a selector matches nothing (the message lists the names there are) or nothing that can be
            stochastic, if the estimator cannot serve a selected module, or if nothing in the network is stochastic
            at the end.

    Example:
        >>> from torch import nn
        >>> network, report = convert(nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1)), [-1])
        >>> print(report)
        module  kind    parameters  stochastic  estimator                 why
        0       Linear  16          no          -                         not selected
        2       Linear  9           yes         local_reparameterization  selected
        total           25          9
    """
    check_estimator(estimator)
    network = copy.deepcopy(network)
    layers = named_layers(network)
    names = {name: _stochastic_names(layer, stochastic_biases) for name, layer in layers.items()}
    obstacles = {name: _obstacle(layer, names[name]) for name, layer in layers.items()}
    selected = selected_layers(network, layers, obstacles, stochastic_module_names)
    for name, partner in _broken_ties(layers, names, selected).items():
        obstacles[name] = f"tied to {partner}, which stays deterministic"
        if stochastic_module_names is not None:
            raise ValueError(f"stochastic_module_names: {name!r} is {obstacles[name]}: select both or neither")
        selected.discard(name)
    limits = _limits(network, layers)
    priors = choose_priors({name: names[name] for name in layers if name in selected}, prior, GaussianPrior())
    _refuse_impossible(estimator, {name: limits[name] for name in limits if name in selected})
    shared: SharedParameters = {}
    rows = []
    weights, random_weights = list[Tensor](), list[Tensor]()
    for name, layer in layers.items():
        kind = type(layer).__name__
        own, own_random = _weights(layer, names[name] if name in selected else [])
        weights += own
        random_weights += own_random
        count, total = count_elements(own), count_elements(own_random)
        built = stochastic_parameters(layer)
        if built is not None:
            rows.append(ModuleReport(name, kind, count, total, built.estimator, "built by hand"))
        elif name in selected:
            chosen = _convert_layer(
                layer, names[name], priors[name], WEIGHT_SPACE if name in limits else estimator, init_std, shared
            )
            reasons = ["selected", *([limits[name]] if name in limits else [])]
            if total < count:
                reasons.append(f"only {', '.join(names[name])}")
            rows.append(ModuleReport(name, kind, count, total, chosen, "; ".join(reasons)))
        else:
            rows.append(ModuleReport(name, kind, count, 0, None, obstacles[name] or "not selected"))
    report = ConversionReport(tuple(rows), count_elements(weights), count_elements(random_weights))
    if not report.num_stochastic:
        raise ValueError(
            f"stochastic_module_names={stochastic_module_names!r} leaves nothing stochastic in the network:\n{report}"
        )
    return network, report


def _weights(layer: nn.Module, selected: Sequence[str]) -> tuple[list[Tensor], list[Tensor]]:
    """A layer's own weights, and those of them that have a posterior or are selected for one."""
    built = stochastic_parameters(layer)
    if built is None:
        return list(layer.parameters(recurse=False)), [layer.get_parameter(name) for name in selected]
    means = [built.mu(name) for name in built.names]
    variational = {f"{name}_{kind}" for name in built.names for kind in ("mu", "rho")}
    return means + [each for name, each in own_parameters(layer) if name not in variational], means


def _stochastic_names(layer: nn.Module, stochastic_biases: bool) -> list[str]:
    return [
        name
        for name, parameter in own_parameters(layer)
        if parameter.is_floating_point() and (stochastic_biases or not _is_bias(name))
    ]


def _is_bias(name: str) -> bool:
    return name == "bias" or name.startswith("bias_") or name.endswith("_bias")


def _obstacle(layer: nn.Module, names: Sequence[str]) -> str | None:
    """Why a layer cannot become stochastic, None if it can."""
    if isinstance(layer, ScriptModule):
        return "a compiled ScriptModule cannot be changed"
    if not names:
        return "it has no weight that could be stochastic"
    taken = [f"{name}_{kind}" for name in names for kind in ("mu", "rho") if hasattr(layer, f"{name}_{kind}")]
    return f"it has an attribute {taken[0]!r} already" if taken else None


def _limits(network: nn.Module, layers: Mapping[str, nn.Module]) -> dict[str, str]:
    """Why whole weights must be drawn for a layer, where noise on its outputs will not do."""
    reused, limits = _reused(network, layers), dict[str, str]()
    for name, layer in layers.items():
        if stochastic_parameters(layer) is not None:
            continue
        reader = reading_parent(network, name)
        if affine_parent(layer) is None:
            limits[name] = f"{type(layer).__name__} is drawn in weight space"
        elif name in reused:
            limits[name] = "its weight is used in several places"
        elif reader is not None:
            limits[name] = f"its parent {reader} reads its weight directly"
    return limits


def _reused(network: nn.Module, layers: Mapping[str, nn.Module]) -> set[str]:
    """Layers that stand in several places of the network, or share a parameter with another."""
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


def _refuse_impossible(estimator: str, limits: Mapping[str, str]) -> None:
    if estimator in ("auto", WEIGHT_SPACE) or not limits:
        return
    reasons = ", ".join(f"{name or '(root)'}: {limit}" for name, limit in limits.items())
    raise ValueError(
        f"estimator={estimator!r} draws a layer's outputs and cannot serve {reasons}. Use 'auto' or "
        f"{WEIGHT_SPACE!r}, or select other modules by stochastic_module_names"
    )


def _convert_layer(
    layer: nn.Module,
    names: Sequence[str],
    prior: Mapping[str, Prior],
    estimator: str,
    init_std: InitialStd,
    shared: SharedParameters,
) -> str:
    """Makes one layer of the copy variational, and returns its estimator."""
    parent = affine_parent(layer)
    if parent is not None:
        converted: VariationalLayer = VARIATIONAL_COUNTERPART[parent].convert_in_place(
            layer,
            prior=prior,
            estimator=estimator,
            init_std=init_std,
            stochastic_bias="bias" in names,
            shared=shared,
        )
        return converted.estimator
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        layer.sparse = False
    sizes = {name: num_inputs_of(layer.get_parameter(name)) for name in names}
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        sizes = dict.fromkeys(names, 1)
    make_variational(layer, VariationalModule, names, num_inputs=sizes, prior=prior, init_std=init_std, shared=shared)
    return WEIGHT_SPACE


def _broken_ties(
    layers: Mapping[str, nn.Module], names: Mapping[str, Sequence[str]], selected: set[str]
) -> dict[str, str]:
    """Selected layers that share a parameter with a deterministic one, each with that parameter's name."""
    stochastic = {(name, label) for name in selected for label in names[name]}
    kept: dict[int, str] = {
        id(parameter): f"{name}.{label}".lstrip(".")
        for name, layer in layers.items()
        for label, parameter in own_parameters(layer)
        if (name, label) not in stochastic
    }
    return {
        name: kept[id(parameter)]
        for name, label in sorted(stochastic)
        for parameter in [layers[name].get_parameter(label)]
        if id(parameter) in kept
    }
