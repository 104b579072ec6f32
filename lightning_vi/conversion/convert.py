"""Conversion of the selected modules of a network to variational modules."""

import copy
from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.jit import ScriptModule

from lightning_vi.conversion.layers import (
    affine_parent,
    count_elements,
    is_frozen,
    named_layers,
    own_parameters,
    reading_parent,
    reused_layers,
)
from lightning_vi.conversion.named_priors import choose_priors
from lightning_vi.conversion.report import ConversionReport, ModuleReport
from lightning_vi.conversion.selection import ModuleSelector, select_convertible
from lightning_vi.conversion.state import check_state_dict
from lightning_vi.errors import InputValueError
from lightning_vi.layers import (
    VARIATIONAL_COUNTERPART,
    SharedParameters,
    VariationalModule,
    check_estimator,
    make_variational,
    num_inputs_of,
    stochastic_parameters,
)
from lightning_vi.posteriors import DEFAULT_STD, InitialStd
from lightning_vi.priors import EmpiricalBayesPrior, Prior

WEIGHT_SPACE = "reparameterization"


def convert(
    network: nn.Module,
    stochastic_module_names: Sequence[ModuleSelector] | None = None,
    *,
    prior: Prior | Mapping[str, Prior] | None = None,
    estimator: str = "auto",
    init_std: InitialStd = DEFAULT_STD,
    stochastic_biases: bool = True,
) -> tuple[nn.Module, ConversionReport]:
    """Returns a copy of a network with posteriors over the parameters of the selected modules.

    Parameters of any module can be stochastic, except frozen ones (``requires_grad=False``), which stay as they are.
    The weights become posterior means, tied weights share one posterior, and variational layers are kept. The network
    itself is not changed.

    Args:
        network: Any network.
        stochastic_module_names: Dotted names, globs, indices, classes, or predicates of the name and the module. A
            name, glob, class or predicate selects the matching modules with all their submodules. An index selects
            from the layers that own parameters, in order of definition, and -1 the layer that is called last. None
            selects all layers.
        prior: Prior of all parameters, or a mapping from dotted names or globs of parameters and modules to priors, of
            which the first match is used. Default: `EmpiricalBayesPrior`.
        estimator: ``"auto"``, ``"reparameterization"``, ``"local_reparameterization"`` or ``"flipout"``. The last two
            require layers that are linear in their weights and called once per forward pass.
        init_std: Initial posterior standard deviation.
        stochastic_biases: If False, biases stay deterministic.

    Returns:
        The converted copy and a report on each module.

    Raises:
        ValueError: If a selector matches no module or none that can be stochastic, the estimator does not support a
            selected module, or nothing in the converted network is stochastic.

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
    selected = select_convertible(network, layers, obstacles, stochastic_module_names)
    for name, partner in _broken_ties(layers, names, selected).items():
        obstacles[name] = f"tied to {partner}, which stays deterministic"
        if stochastic_module_names is not None:
            raise InputValueError(f"stochastic_module_names: {name!r} is {obstacles[name]}: select both or neither")
        selected.discard(name)
    weight_space = _weight_space_reasons(network, layers, names)
    priors = choose_priors({name: names[name] for name in layers if name in selected}, prior, EmpiricalBayesPrior())
    _check_support(estimator, {name: reason for name, reason in weight_space.items() if name in selected})
    shared: SharedParameters = {}
    rows = []
    weights, stochastic_weights = list[Tensor](), list[Tensor]()
    for name, layer in layers.items():
        kind, is_variational = type(layer).__name__, stochastic_parameters(layer) is not None
        if name in selected and not is_variational:
            chosen = WEIGHT_SPACE if name in weight_space else estimator
            _convert_layer(layer, names[name], priors[name], chosen, init_std, shared)
        own, own_stochastic = _weights(layer)
        weights += own
        stochastic_weights += own_stochastic
        count, num_stochastic = count_elements(own), count_elements(own_stochastic)
        if is_variational:
            reason = "already variational"
        elif name in selected:
            reasons = ["selected", *([weight_space[name]] if name in weight_space else [])]
            reasons += [f"only {', '.join(names[name])}"] if num_stochastic < count else []
            reason = "; ".join(reasons)
        else:
            reason = obstacles[name] or "not selected"
        stochastic = stochastic_parameters(layer)
        used = None if stochastic is None else stochastic.estimator
        rows.append(ModuleReport(name, kind, count, num_stochastic, used, reason))
    report = ConversionReport(tuple(rows), count_elements(weights), count_elements(stochastic_weights))
    if not report.num_stochastic:
        raise InputValueError(
            f"stochastic_module_names={stochastic_module_names!r} leaves nothing stochastic in the network:\n{report}"
        )
    check_state_dict(network)
    return network, report


def _weights(layer: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Weights that a layer owns directly, represented by posterior means, and the stochastic ones among them."""
    stochastic = stochastic_parameters(layer)
    if stochastic is None:
        return list(layer.parameters(recurse=False)), []
    means = [stochastic.mu(name) for name in stochastic.names]
    variational = {f"{name}_{kind}" for name in stochastic.names for kind in ("mu", "rho")}
    return means + [each for name, each in own_parameters(layer) if name not in variational], means


def _stochastic_names(layer: nn.Module, stochastic_biases: bool) -> list[str]:
    return [
        name
        for name, parameter in own_parameters(layer)
        if parameter.is_floating_point() and parameter.requires_grad and (stochastic_biases or not _is_bias(name))
    ]


def _is_bias(name: str) -> bool:
    return name == "bias" or name.startswith("bias_") or name.endswith("_bias")


def _obstacle(layer: nn.Module, names: Sequence[str]) -> str | None:
    """Reason why a layer cannot become stochastic, None if it can."""
    if isinstance(layer, ScriptModule):
        return "a compiled ScriptModule cannot be changed"
    if not names:
        return "frozen (requires_grad=False)" if is_frozen(layer) else "it has no weight that could be stochastic"
    taken = [f"{name}_{kind}" for name in names for kind in ("mu", "rho") if hasattr(layer, f"{name}_{kind}")]
    return f"it has an attribute {taken[0]!r} already" if taken else None


def _weight_space_reasons(
    network: nn.Module, layers: Mapping[str, nn.Module], names: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    """Layers that support only weight-space estimators, with the reason."""
    reused, reasons = reused_layers(network, layers), dict[str, str]()
    for name, layer in layers.items():
        if stochastic_parameters(layer) is not None:
            continue
        reader = reading_parent(network, name)
        if affine_parent(layer) is None:
            reasons[name] = f"{type(layer).__name__} is drawn in weight space"
        elif "weight" not in names[name]:
            reasons[name] = "its weight is frozen"
        elif name in reused:
            reasons[name] = "its weight is used in several places"
        elif reader is not None:
            reasons[name] = f"its parent {reader} reads its weight directly"
    return reasons


def _check_support(estimator: str, reasons: Mapping[str, str]) -> None:
    """Raises if the estimator does not support the modules of `reasons`."""
    if estimator in ("auto", WEIGHT_SPACE) or not reasons:
        return
    listed = ", ".join(f"{name or '(root)'}: {reason}" for name, reason in reasons.items())
    raise InputValueError(
        f"estimator={estimator!r} samples the outputs of a layer and does not support {listed}. Use 'auto' or "
        f"{WEIGHT_SPACE!r}, or select other modules with stochastic_module_names"
    )


def _convert_layer(
    layer: nn.Module,
    names: Sequence[str],
    prior: Mapping[str, Prior],
    estimator: str,
    init_std: InitialStd,
    shared: SharedParameters,
) -> None:
    """Converts a layer in place."""
    parent = affine_parent(layer) if "weight" in names else None
    if parent is not None:
        VARIATIONAL_COUNTERPART[parent].convert_in_place(
            layer,
            prior=prior,
            estimator=estimator,
            init_std=init_std,
            stochastic_bias="bias" in names,
            shared=shared,
        )
        return
    if isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        layer.sparse = False
        sizes = dict.fromkeys(names, 1)
    else:
        sizes = {name: num_inputs_of(layer.get_parameter(name)) for name in names}
    make_variational(layer, VariationalModule, names, num_inputs=sizes, prior=prior, init_std=init_std, shared=shared)


def _broken_ties(
    layers: Mapping[str, nn.Module], names: Mapping[str, Sequence[str]], selected: set[str]
) -> dict[str, str]:
    """Selected layers tied to a deterministic parameter, with the name of that parameter."""
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
