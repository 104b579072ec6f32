"""Conversion of the selected layers of a network to layers with random rank-one factors."""

import copy
from collections.abc import Mapping, Sequence

from torch import nn

from lightning_vi.conversion.layers import (
    affine_parent,
    count_elements,
    is_frozen,
    named_layers,
    own_parameters,
    reading_parent,
)
from lightning_vi.conversion.named_priors import choose_priors
from lightning_vi.conversion.report import ConversionReport, ModuleReport
from lightning_vi.conversion.selection import ModuleSelector, select_convertible
from lightning_vi.conversion.state import check_state_dict
from lightning_vi.errors import InputValueError
from lightning_vi.layers import SCALES, make_rank_one, stochastic_parameters
from lightning_vi.posteriors import InitialStd
from lightning_vi.priors import GaussianPrior, Prior

DEFAULT_PRIOR = GaussianPrior(mean=1.0, std=0.1)


def convert_to_rank_one(
    network: nn.Module,
    stochastic_module_names: Sequence[ModuleSelector] | None,
    *,
    prior: Prior | Mapping[str, Prior] | None,
    init_std: InitialStd,
    scales_biases: bool,
    num_components: int,
    component_std: float,
) -> tuple[nn.Module, ConversionReport]:
    """Returns a copy of a network with random scales of the inputs and outputs of the selected layers.

    Linear layers and convolutions are supported. Their weights stay deterministic. The network itself is not changed.

    Args:
        network: Any network.
        stochastic_module_names: See `lightning_vi.conversion.convert`; None selects all supported layers.
        prior: Prior of all scales, or a mapping from dotted names or globs to priors. Default: N(1, 0.1^2).
        init_std: Initial posterior standard deviation of the scales.
        scales_biases: If True, the output scale multiplies the bias too.
        num_components: Number of components K of each posterior.
        component_std: Standard deviation of the initial means around 1 if K > 1.

    Returns:
        The converted copy and a report on each module.

    Raises:
        ValueError: If a selector matches no module or none that is supported, or nothing is converted.
    """
    network = copy.deepcopy(network)
    layers = named_layers(network)
    obstacles = {name: _obstacle(network, name, layer) for name, layer in layers.items()}
    selected = select_convertible(network, layers, obstacles, stochastic_module_names)
    priors = choose_priors({name: list(SCALES) for name in layers if name in selected}, prior, DEFAULT_PRIOR)
    rows = []
    for name, layer in layers.items():
        kind, count = type(layer).__name__, count_elements(p for _, p in own_parameters(layer))
        if name not in selected:
            rows.append(ModuleReport(name, kind, count, 0, None, obstacles[name] or "not selected"))
            continue
        make_rank_one(
            layer,
            num_components=num_components,
            component_std=component_std,
            prior=priors[name],
            init_std=init_std,
            scales_bias=scales_biases,
        )
        means = [layer.get_parameter(f"{scale}_mu") for scale in SCALES]
        num_scales = count_elements(means)
        why = "selected; scales of inputs and outputs"
        rows.append(ModuleReport(name, kind, count + num_scales, num_scales, "reparameterization", why))
    report = ConversionReport(
        tuple(rows), sum(row.num_parameters for row in rows), sum(row.num_stochastic for row in rows)
    )
    if not selected:
        raise InputValueError(f"the network has no linear layer or convolution whose scales could be random:\n{report}")
    check_state_dict(network)
    return network, report


def _obstacle(network: nn.Module, name: str, layer: nn.Module) -> str | None:
    """Reason why the inputs and outputs of a layer cannot be scaled, None if they can."""
    if stochastic_parameters(layer) is not None:
        return "it is already variational"
    if affine_parent(layer) is None:
        return "it is not a linear layer or convolution"
    if is_frozen(layer):
        return "frozen (requires_grad=False)"
    reader = reading_parent(network, name)
    return None if reader is None else f"its parent {reader} reads its weight directly"
