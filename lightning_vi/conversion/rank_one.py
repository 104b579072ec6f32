"""Deterministic networks with random rank-one factors in their layers."""

import copy
from collections.abc import Mapping, Sequence

from torch import nn

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
    """A copy of a network in which inputs and outputs of the selected layers have random scales.

    Linear layers and convolutions can be selected. Their weights stay deterministic. The caller's network is not
    changed.

    Args:
        network: Any network.
        stochastic_module_names: As for `lightning_vi.conversion.convert`; None selects every layer that can be.
        prior: The prior of the scales; or several, by dotted names or globs. `DEFAULT_PRIOR` where there is none.
        init_std: Initial posterior standard deviation of the scales.
        scales_biases: Whether an output's scale multiplies its bias too.
        num_components: K, the number of components of each posterior.
        component_std: Standard deviation of the initial means around 1 with several components.

    Returns:
        The converted copy and a report of what became of each module.

    Raises:
        ValueError: If a selector matches nothing or nothing that can be converted, or if nothing is converted at all.
    """
    network = copy.deepcopy(network)
    layers = named_layers(network)
    obstacles = {name: _obstacle(network, name, layer) for name, layer in layers.items()}
    selected = selected_layers(network, layers, obstacles, stochastic_module_names)
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
            prior=dict(priors[name]),
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
        raise ValueError(f"the network has no linear layer or convolution whose scales could be random:\n{report}")
    return network, report


def _obstacle(network: nn.Module, name: str, layer: nn.Module) -> str | None:
    """Why a layer's inputs and outputs cannot be scaled, None if they can."""
    if stochastic_parameters(layer) is not None:
        return "it is variational already"
    if affine_parent(layer) is None:
        return "it is no linear layer or convolution"
    reader = reading_parent(network, name)
    return None if reader is None else f"its parent {reader} reads its weight directly"
