"""Low-rank adapters of a frozen network."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from lightning_vi.arguments import check_at_least, check_positive
from lightning_vi.conversion.last_layer import replace_layer
from lightning_vi.conversion.layers import named_layers
from lightning_vi.conversion.low_rank import has_factors, unsupported, weight_shape
from lightning_vi.conversion.selection import ModuleSelector, select_layers, select_possible
from lightning_vi.errors import InputValueError
from lightning_vi.layers import (
    AdaptedAttention,
    AdaptedLayer,
    LowRankAttention,
    LowRankLayer,
    RankOneModule,
    dense_layer,
    make_factors,
    make_linear_factors,
)
from lightning_vi.sampling import deterministic_copy


def add_adapters(
    network: nn.Module,
    modules: Sequence[ModuleSelector] | None = None,
    rank: int = 8,
    alpha: float = 16.0,
    *,
    trainable: Sequence[ModuleSelector] = (),
    checkpoint: str | Path | None = None,
) -> nn.Module:
    r"""Returns a frozen copy of a network with trainable low-rank changes of weights (LoRA, Hu et al., ICLR 2022).

    .. math:: W = W_0 + \frac{\alpha}{r} A B^\top

    A starts at zero and B at random values, so that the copy computes what the network does. The factors are ordinary
    parameters of ordinary layers, named `down` (:math:`B^\top`) and `up` (A), and everything else has
    ``requires_grad=False``: every method trains the factors, and gives a posterior to them alone.

    Args:
        network: A trained network.
        modules: Layers with adapters by dotted names, globs, indices, classes or predicates, as in `convert`: linear
            layers, convolutions without groups, embeddings, and `torch.nn.MultiheadAttention`, whose input projection
            is adapted as one matrix. None selects all of these whose weight has at least the rank.
        rank: The rank r.
        alpha: The scale :math:`\alpha`.
        trainable: Layers that are trained as they are, such as a new last layer.
        checkpoint: File with the weights of the network, for configuration files: the checkpoint of a method, or a
            state dictionary. None for the weights that it has.

    Returns:
        The copy.

    Raises:
        ValueError: If `rank` or `alpha` is not positive, a selector matches no layer or none that is supported, the
            network has adapters or low-rank weights already, nothing would be adapted, or the checkpoint is of another
            network.

    Example:
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.likelihoods import Categorical
        >>> network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
        >>> method = MeanFieldVI(add_adapters(network, ["0"], rank=2, trainable=["2"]), Categorical(3))
        >>> print(method.conversion)
        module  kind      parameters  stochastic  estimator                 why
        0.base  Linear    4160        no          -                         frozen (requires_grad=False)
        0.down  Linear    128         yes         local_reparameterization  selected
        0.up    UpLinear  128         yes         local_reparameterization  selected
        2       Linear    195         yes         local_reparameterization  selected
        total             4611        451
    """
    check_at_least("rank", rank, 1)
    check_positive("alpha", alpha)
    if has_factors(network):
        raise InputValueError(
            "network has adapters or low-rank weights already: merge them first, with merge_low_rank_weights(network)"
        )
    network = copy.deepcopy(network)
    if checkpoint is not None:
        _load(network, checkpoint)
    layers = named_layers(network)
    kept = {name for _, found in select_layers(network, layers, list(trainable), "trainable") for name in found}
    obstacles = {name: _obstacle(layer, rank, name in kept) for name, layer in layers.items()}
    chosen = select_possible(network, layers, obstacles, modules, "modules", f"have an adapter of rank {rank}")
    if not chosen:
        reasons = ", ".join(f"{name or '(root)'}: {reason}" for name, reason in obstacles.items())
        raise InputValueError(f"the network has no layer that can have an adapter of rank {rank} ({reasons})")
    network.requires_grad_(False)
    for name in kept:
        for parameter in layers[name].parameters(recurse=False):
            parameter.requires_grad_(parameter.is_floating_point() or parameter.is_complex())
    for name in layers:
        if name in chosen:
            network = _adapted(network, layers[name], rank, alpha / rank)
    return network


def _load(network: nn.Module, checkpoint: str | Path) -> None:
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state = saved.get("state_dict", saved)
    of_network = {name.removeprefix("backbone."): state[name] for name in state if name.startswith("backbone.")}
    try:
        network.load_state_dict(of_network or state)
    except RuntimeError as error:
        raise InputValueError(
            f"checkpoint {str(checkpoint)!r} holds no weights of a {type(network).__name__} like this one: {error}"
        ) from error


def _obstacle(layer: nn.Module, rank: int, is_trainable: bool) -> str | None:
    """Reason why a layer cannot have an adapter, None if it can."""
    obstacle = "it is one of the trainable layers" if is_trainable else unsupported(layer)
    if obstacle is not None:
        return obstacle
    largest = min(weight_shape(layer))
    return f"its weight has rank {largest} at most" if rank > largest else None


def _adapted(network: nn.Module, layer: nn.Module, rank: int, scale: float) -> nn.Module:
    if isinstance(layer, nn.MultiheadAttention):
        projection = cast(nn.Parameter, layer._parameters.pop("in_proj_weight"))
        layer.in_proj_base = projection
        factors = make_linear_factors(projection, rank, bias=False, zero=True)
        layer.in_proj_adapter = LowRankLayer(*factors)
        layer.scale = scale  # type: ignore[assignment]
        object.__setattr__(layer, "__class__", AdaptedAttention)
        return network
    adapted = AdaptedLayer(layer, *make_factors(layer, rank, bias=False, zero=True), scale)
    return replace_layer(network, layer, adapted.train(layer.training))


def merge_low_rank_weights(network: nn.Module) -> nn.Module:
    """Returns a deterministic copy of a network in which low-rank weights and adapters are dense weights.

    Args:
        network: A network with low-rank weights or adapters, or the `backbone` of a method that has one, whose
            posterior means are taken.

    Returns:
        A network of the original layers, without factors.

    Raises:
        ValueError: If the network has neither, or factors have rank-one posteriors.

    Example:
        >>> network = nn.Linear(8, 8)
        >>> adapted = add_adapters(network, rank=2)
        >>> torch.equal(merge_low_rank_weights(adapted).weight, network.weight)
        True
    """
    if not has_factors(network):
        raise InputValueError("network has no low-rank weights and no adapters that could be merged")
    merged = deterministic_copy(network)
    if any(isinstance(module, RankOneModule) for pair in _pairs(merged) for module in pair.children()):
        raise InputValueError("factors with random scales of RankOneVI cannot be merged: use another method")
    for attention in merged.modules():
        if isinstance(attention, LowRankAttention | AdaptedAttention):
            _merge_projection(attention)
    for pair in _pairs(merged):
        merged = replace_layer(merged, pair, _dense(pair))
    return merged


def _pairs(network: nn.Module) -> list[AdaptedLayer | LowRankLayer]:
    return [module for module in network.modules() if isinstance(module, AdaptedLayer | LowRankLayer)]


def _merge_projection(attention: LowRankAttention | AdaptedAttention) -> None:
    weight, is_trained = attention.in_proj_weight.detach().clone(), True
    if isinstance(attention, AdaptedAttention):
        is_trained = attention.in_proj_base.requires_grad
        del attention.in_proj_base, attention.in_proj_adapter
    else:
        del attention.in_proj
    object.__setattr__(attention, "__class__", nn.MultiheadAttention)
    attention.register_parameter("in_proj_weight", nn.Parameter(weight, is_trained))


def _dense(pair: AdaptedLayer | LowRankLayer) -> nn.Module:
    if isinstance(pair, LowRankLayer):
        return dense_layer(pair)
    weight, is_trained = pair.weight.detach().clone(), cast(Tensor, pair.base.weight).requires_grad
    pair.base._parameters["weight"] = nn.Parameter(weight, is_trained)
    return pair.base
