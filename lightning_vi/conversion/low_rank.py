"""Replacement of weights by products of smaller ones."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Literal, cast, get_args

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_vi.arguments import check_at_least
from lightning_vi.conversion.last_layer import replace_layer
from lightning_vi.conversion.layers import affine_parent, named_layers, own_parameters, reused_layers
from lightning_vi.conversion.selection import ModuleSelector, select_possible
from lightning_vi.errors import InputValueError
from lightning_vi.functional import best_factors, random_factors
from lightning_vi.layers import (
    AdaptedAttention,
    AdaptedLayer,
    LowRankAttention,
    LowRankLayer,
    make_factors,
    make_linear_factors,
    matrix_shape,
    put_factors,
    stochastic_parameters,
)
from lightning_vi.sampling import is_hooked

FactorInit = Literal["svd", "random"]

LOW_RANK_RATE, BOUNDED_LOW_RANK_RATE, ADAPTER_RATE = 0.03, 0.1, 0.01
"""Largest default learning rates of factors: a step of both factors changes a product more than a step changes a
weight, which costs less where the likelihood's gradient is bounded, and a network with adapters has been trained."""
_PLAIN_EMBEDDING = {"weight"}


def convert_to_low_rank_weights(
    network: nn.Module,
    modules: Sequence[ModuleSelector] | None = None,
    rank: int = 8,
    *,
    init: FactorInit = "svd",
) -> nn.Module:
    r"""Returns a copy of a network with weights :math:`W = A B^\top` of low rank.

    Linear layers, convolutions, embeddings and the input projection of `torch.nn.MultiheadAttention` are supported. A
    layer with m outputs and n inputs has r (m + n) instead of m n weights. The factors are ordinary parameters of
    ordinary layers, named `down` (:math:`B^\top`) and `up` (A), so that every method takes the network. The network
    itself is not changed.

    Args:
        network: Any network.
        modules: Dotted names, globs, indices, classes or predicates as in `convert`. Layers that would not become
            smaller stay as they are. None selects all layers that become smaller.
        rank: The rank r.
        init: ``"svd"``: the best approximation of each layer's weight; ``"random"``: random factors whose product has
            the scale of the weight, for networks that are not trained.

    Returns:
        The copy.

    Raises:
        ValueError: If `rank` is not a positive integer, `init` is unknown, or a selector, or the whole network, has no
            layer that is supported and would become smaller.

    Example:
        >>> network = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))
        >>> small = convert_to_low_rank_weights(network, rank=4)
        >>> small[0]
        LowRankLayer(
          (down): Linear(in_features=64, out_features=4, bias=False)
          (up): Linear(in_features=4, out_features=64, bias=True)
        )
    """
    network = copy.deepcopy(network)
    layers = named_layers(network)
    obstacles = low_rank_obstacles(network, layers, rank)
    chosen = select_possible(network, layers, obstacles, modules, "modules", f"have a smaller weight of rank {rank}")
    if not chosen:
        raise nothing_smaller(rank, obstacles)
    return factorized(network, [name for name in layers if name in chosen], rank, init)


def low_rank_obstacles(network: nn.Module, layers: Mapping[str, nn.Module], rank: int) -> dict[str, str | None]:
    """Reason why the weight of each layer cannot become a smaller product, None if it can.

    Args:
        network: The network.
        layers: Its `named_layers`.
        rank: The rank.

    Raises:
        ValueError: If `rank` is not a positive integer.
    """
    check_at_least("rank", rank, 1)
    reused = reused_layers(network, layers)
    found: dict[str, str | None] = {}
    for name, layer in layers.items():
        obstacle = unsupported(layer)
        if obstacle is None and not _weight(layer).requires_grad:
            obstacle = "frozen (requires_grad=False)"
        if obstacle is None and name in reused:
            obstacle = "its weight is used in several places"
        if obstacle is None:
            (num_outputs, num_inputs), limit = weight_shape(layer), _limit(layer)
            advice = f"needs rank <= {limit}" if limit else "is smallest as it is"
            obstacle = f"its {num_outputs} x {num_inputs} weight {advice}" if rank > limit else None
        found[name] = obstacle
    return found


def largest_rank(network: nn.Module) -> int:
    """Largest rank with which `convert_to_low_rank_weights` makes a layer smaller; 0 if there is none.

    Args:
        network: Any network.

    Example:
        >>> largest_rank(nn.Sequential(nn.Linear(8, 50), nn.Linear(50, 1)))
        6
    """
    layers = named_layers(network)
    possible = [layer for name, layer in layers.items() if low_rank_obstacles(network, {name: layer}, 1)[name] is None]
    return max(map(_limit, possible), default=0)


def _limit(layer: nn.Module) -> int:
    """Largest rank with which the factors of a supported layer are smaller than its weight."""
    num_outputs, num_inputs = weight_shape(layer)
    return (num_outputs * num_inputs - 1) // (num_outputs + num_inputs)


def much_smaller(layers: Mapping[str, nn.Module], rank: int, max_share: float) -> list[str]:
    """Names of the layers whose factors have a small share of the parameters of the weight; of all if there is none.

    Args:
        layers: Layers without obstacles.
        rank: The rank.
        max_share: The largest share.

    Example:
        >>> much_smaller({"0": nn.Linear(64, 64), "2": nn.Linear(64, 10)}, rank=8, max_share=0.5)
        ['0']
    """
    shapes = {name: weight_shape(layer) for name, layer in layers.items()}
    return [name for name, (m, n) in shapes.items() if rank * (m + n) <= max_share * m * n] or list(layers)


def nothing_smaller(rank: int, obstacles: Mapping[str, str | None]) -> InputValueError:
    """The error for a network in which no weight can become a smaller product.

    Args:
        rank: The rank.
        obstacles: The reason of each layer.
    """
    reasons = ", ".join(f"{name or '(root)'}: {reason}" for name, reason in obstacles.items() if reason)
    return InputValueError(f"rank={rank} leaves no layer whose weight would become smaller ({reasons})")


def unsupported(layer: nn.Module) -> str | None:
    """Reason why a weight cannot have low-rank factors or adapters, None if it can.

    Args:
        layer: A module that owns parameters.
    """
    if stochastic_parameters(layer) is not None:
        return "it is already variational"
    if type(layer) is nn.MultiheadAttention:
        return None if layer._qkv_same_embed_dim else "queries, keys and values have different sizes"
    if isinstance(layer, nn.Embedding) and type(layer).forward is nn.Embedding.forward:
        if {name for name, _ in own_parameters(layer)} != _PLAIN_EMBEDDING:
            return "it has parameters beside its table"
        obstacle = None if layer.max_norm is None else "max_norm renormalizes the rows of its table"
    elif affine_parent(layer) is None:
        return "it is no linear layer, convolution, embedding or attention"
    elif isinstance(layer, _ConvTransposeNd):
        return "transposed convolutions are not supported"
    else:
        has_groups = isinstance(layer, _ConvNd) and layer.groups > 1
        obstacle = "convolutions with groups are not supported" if has_groups else None
    return "it has hooks" if obstacle is None and is_hooked(layer) else obstacle


def weight_shape(layer: nn.Module) -> tuple[int, int]:
    """Numbers of outputs and inputs of the weight that factors or adapters replace.

    Args:
        layer: A supported layer.
    """
    if isinstance(layer, nn.MultiheadAttention):
        return 3 * layer.embed_dim, layer.embed_dim
    return matrix_shape(layer)


def _weight(layer: nn.Module) -> Tensor:
    return cast(Tensor, layer.in_proj_weight if isinstance(layer, nn.MultiheadAttention) else layer.weight)


def factorized(network: nn.Module, names: Sequence[str], rank: int, init: FactorInit) -> nn.Module:
    """Replaces weights of a network by products, in place.

    Args:
        network: The network.
        names: Names of layers without obstacles.
        rank: The rank.
        init: As in `convert_to_low_rank_weights`.

    Returns:
        The network, or the new module if the network itself is replaced.

    Raises:
        ValueError: If `init` is unknown.
    """
    if init not in get_args(FactorInit):
        raise InputValueError(f"init must be one of {list(get_args(FactorInit))}, got {init!r}")
    find = best_factors if init == "svd" else random_factors
    for name in names:
        layer = network.get_submodule(name)
        if isinstance(layer, nn.MultiheadAttention):
            weight = cast(Tensor, layer._parameters.pop("in_proj_weight")).detach()
            pair = LowRankLayer(*make_linear_factors(weight, rank, bias=False, zero=False))
            put_factors(pair.down, pair.up, *find(weight, rank))
            layer.in_proj = pair.train(layer.training)
            object.__setattr__(layer, "__class__", LowRankAttention)
            continue
        pair = LowRankLayer(*make_factors(layer, rank, bias=True, zero=False))
        weight = cast(Tensor, layer.weight).detach()
        matrix = weight.mT if isinstance(layer, nn.Embedding) else weight.flatten(1)
        put_factors(pair.down, pair.up, *find(matrix, rank))
        if pair.bias is not None:
            pair.up._parameters["bias"] = cast(nn.Parameter, layer.bias)
        network = replace_layer(network, layer, pair.train(layer.training))
    return network


def factor_names(network: nn.Module, name: str) -> list[str]:
    """Names of the layers with the factors that `factorized` made.

    Args:
        network: Its result.
        name: Name of the layer before.
    """
    module = network.get_submodule(name)
    owner = f"{name}.in_proj" if isinstance(module, LowRankAttention) else name
    return [f"{owner}.{part}".lstrip(".") for part in ("down", "up")]


def largest_factor_rate(network: nn.Module, has_bounded_gradient: bool) -> float:
    """Largest default learning rate of the posterior of a network with low-rank weights or adapters.

    Args:
        network: Any network.
        has_bounded_gradient: See `Likelihood.has_bounded_gradient`.

    Returns:
        Infinite for networks with neither.
    """
    if has_adapters(network):
        return ADAPTER_RATE
    if not any(isinstance(module, LowRankLayer) for module in network.modules()):
        return math.inf
    return BOUNDED_LOW_RANK_RATE if has_bounded_gradient else LOW_RANK_RATE


def num_joint_layers(network: nn.Module, num_weights: int) -> int:
    """Number of layers with a posterior that move together: both factors of a weight are one, and adapters are none.

    Args:
        network: Any network.
        num_weights: Number of weights and factors with a posterior.
    """
    if has_adapters(network):
        return 1
    pairs = [module for module in network.modules() if isinstance(module, LowRankLayer)]
    whole = [pair for pair in pairs if None not in map(stochastic_parameters, (pair.down, pair.up))]
    return max(num_weights - len(whole), 1)


def has_adapters(network: nn.Module) -> bool:
    """Returns True if a network has adapters.

    Args:
        network: Any network.
    """
    return any(isinstance(module, AdaptedLayer | AdaptedAttention) for module in network.modules())


def has_factors(network: nn.Module) -> bool:
    """Returns True if a network has low-rank layers or adapters.

    Args:
        network: Any network.
    """
    has_pairs = any(isinstance(module, LowRankLayer | LowRankAttention) for module in network.modules())
    return has_pairs or has_adapters(network)
