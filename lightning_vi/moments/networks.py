"""Means and variances of the outputs of a network."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vi.moments.factored import factored
from lightning_vi.moments.gaussian_tensor import make_gaussian, mean_of, variance_of
from lightning_vi.moments.propagation import NoRuleError, Propagation
from lightning_vi.posteriors import NoiseCoupling
from lightning_vi.sampling import DrawCache, NetworkInput, SamplingEngine, call, call_with
from lightning_vi.sampling.dropout_mode import as_written
from lightning_vi.sampling.weights import Slot, in_place

Moments = tuple[Tensor, Tensor]
WeightMoments = dict[str, Any]


def engine_moments(engine: SamplingEngine, x: NetworkInput, cache: DrawCache[list[WeightMoments]]) -> Moments:
    """Moments of the outputs of a network with stochastic modules.

    Args:
        engine: Has the network and the marginal variances of its weights.
        x: Network input, each tensor of shape [B, ...].
        cache: Keeps what follows from the posteriors alone.

    Returns:
        Means and variances, each of shape [B, ...].

    Raises:
        TypeError: If the network calls a function that has no rule.
    """
    if engine.check_input is not None:
        engine.check_input(x)
    slots = engine.places
    known = cache.get((0,), engine.parameters(), lambda: _weight_moments(slots, engine.coupling))
    weights = [make_gaussian(slot.mean.detach(), **moments) for slot, moments in zip(slots, known, strict=True)]

    def run(part: NetworkInput) -> Tensor:
        with in_place(slots, weights):
            return call(engine.network, part)

    parts = [propagated(engine.network, partial(run, part)) for part in engine.row_parts(x, numbers_per_unit=2)]
    if len(parts) == 1:
        return parts[0]
    means, variances = zip(*parts, strict=True)
    return torch.cat(means), torch.cat(variances)


def _weight_moments(slots: Sequence[Slot], coupling: NoiseCoupling | None) -> list[WeightMoments]:
    """Arguments of `make_gaussian` for each weight."""
    return [
        {
            "variance": variance,
            "second_moment": slot.mu.square() + variance,
            "variance_factors": factored(variance),
            "facts": {},
        }
        for slot, variance in zip(slots, weight_variances(slots, coupling), strict=True)
    ]


def weight_variances(slots: Sequence[Slot], coupling: NoiseCoupling | None) -> list[Tensor]:
    """Marginal variances of weights.

    Args:
        slots: Places of the weights.
        coupling: The joint posterior of all weights; None if they are independent.

    Returns:
        One tensor for each place, of the shape of its parameter.
    """
    scale = None if coupling is None else coupling.marginals()[0]
    variances = []
    for slot in slots:
        std = slot.posterior.std
        if scale is not None:
            std = std * scale[slot.start : slot.stop].view_as(std).to(std.dtype)
        variance = std.square()
        for row in slot.owner.deterministic_rows(slot.name):
            variance[row] = 0.0
        variances.append(variance)
    return variances


def network_moments(
    network: nn.Module,
    x: NetworkInput,
    weights: Mapping[str, Tensor],
    variances: Mapping[str, Tensor],
) -> Moments:
    """Moments of the outputs of a network with random weights.

    Args:
        network: The network.
        x: Network input, each tensor of shape [B, ...].
        weights: Means of parameters, and buffers, by name; missing ones are the network's.
        variances: Variances of some of the parameters.

    Returns:
        Means and variances, each of shape [B, ...].

    Raises:
        TypeError: If the network calls a function that has no rule.
    """
    random = {name: make_gaussian(value, variances.get(name)) for name, value in weights.items()}
    return propagated(network, lambda: call_with(network, random, x))


def propagated(network: nn.Module, run: Callable[[], Tensor], *, drops_units: bool = False) -> Moments:
    """Moments of the outputs of a pass.

    Args:
        network: The network, for error messages.
        run: Runs it and returns its output.
        drops_units: Whether dropout is random.

    Returns:
        Means and variances, each of shape [B, ...]; variances of constants are zero.

    Raises:
        TypeError: If the network calls a function that has no rule.
    """
    _keep_freed_memory()
    try:
        with as_written(network), Propagation(drops_units=drops_units):
            output = run()
    except NoRuleError as error:
        raise error.named(network) from None
    mean, variance = mean_of(output), variance_of(output)
    return mean, torch.zeros_like(mean) if variance is None else variance


@lru_cache(maxsize=1)
def _keep_freed_memory() -> None:
    """Lets the C library keep the memory of intermediate results from one pass to the next.

    glibc returns freed memory to the system if it is more than twice the largest block that was freed so far, up to 32
    MiB. The pages of a new block that is not written to are never taken.
    """
    torch.UntypedStorage(31 * 2**20)  # type: ignore[no-untyped-call]
