"""Drawn weights, and the places in a network where they go."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_vi.layers import StochasticParameters
from lightning_vi.posteriors import MeanFieldGaussian

MAX_JOINED_WEIGHTS = 2**14


@dataclass(frozen=True)
class Slot:
    """A place in the network for a drawn weight, and where its noise stands in a flat noise vector."""

    owner: StochasticParameters
    name: str
    start: int
    stop: int

    @property
    def posterior(self) -> MeanFieldGaussian:
        """The posterior of the weight."""
        return self.owner.posterior(self.name)


def allot_slots(owners: Sequence[StochasticParameters]) -> tuple[list[Slot], int]:
    """A slot for each stochastic parameter, with one range of noise for tied ones.

    Args:
        owners: The stochastic parameters of several modules.

    Returns:
        The slots and the length of the noise vector.
    """
    slots, ranges, total = [], dict[int, tuple[int, int]](), 0
    for owner in owners:
        for name in owner.names:
            mu = owner.mu(name)
            if id(mu) not in ranges:
                ranges[id(mu)] = (total, total + mu.numel())
                total += mu.numel()
            slots.append(Slot(owner, name, *ranges[id(mu)]))
    return slots, total


def draw_weights(slots: Sequence[Slot], noise: Tensor) -> list[Tensor]:
    """Weights from noise.

    Args:
        slots: Where the weights go.
        noise: Standard normal, shape [S, number of weights].

    Returns:
        One tensor for each slot, of the parameter's shape behind S.
    """
    draws = []
    for slot in slots:
        posterior = slot.posterior
        mu = posterior.mu
        part = noise[:, slot.start : slot.stop].view(-1, *mu.shape).to(device=mu.device, dtype=mu.dtype)
        for row in slot.owner.deterministic_rows(slot.name):
            part = part.index_fill(1, torch.tensor([row], device=mu.device), 0.0)
        draws.append(posterior.rsample(part))
    return draws


@contextmanager
def in_place(slots: Sequence[Slot], weights: Sequence[Tensor]) -> Iterator[None]:
    """Runs its body with weights in their slots, which are empty again afterwards, also after an exception.

    Args:
        slots: Where the weights go.
        weights: One for each slot.
    """
    try:
        for slot, weight in zip(slots, weights, strict=True):
            slot.owner.put(slot.name, weight)
        yield
    finally:
        for slot in slots:
            slot.owner.put(slot.name, None)


def group_by_prior(slots: Sequence[Slot]) -> list[list[Slot]]:
    """Distinct parameters, small ones together where their priors allow it: one operation instead of many.

    Args:
        slots: All slots; tied ones share a range of noise.

    Returns:
        Groups of slots with one prior.
    """
    groups: dict[Hashable, list[Slot]] = {}
    for slot in {slot.start: slot for slot in slots}.values():
        mu, shared_key = slot.owner.mu(slot.name), slot.owner.prior(slot.name).elementwise_key
        small = shared_key is not None and mu.numel() <= MAX_JOINED_WEIGHTS
        groups.setdefault((shared_key, mu.dtype, mu.device) if small else slot, []).append(slot)
    return list(groups.values())


def join(slots: Sequence[Slot]) -> MeanFieldGaussian:
    """The joint posterior of several tensors.

    Args:
        slots: One or more.

    Returns:
        A posterior of shape [number of elements], or that of the only slot as it is, with its std computed.
    """
    posterior = MeanFieldGaussian.join([slot.posterior for slot in slots])
    return MeanFieldGaussian(posterior.mu, posterior.rho, posterior.std)


@contextmanager
def known_stds(
    owned: Sequence[tuple[StochasticParameters, Sequence[Slot]]],
    groups: Sequence[tuple[Sequence[Slot], MeanFieldGaussian]],
) -> Iterator[None]:
    """Runs its body with the standard deviations that are at hand; those of joined, small tensors are not.

    Args:
        owned: Stochastic parameters and their slots.
        groups: Slots and their joint posteriors.
    """
    stds = {members[0].start: joint.std for members, joint in groups if len(members) == 1}
    large = [(owner, slots) for owner, slots in owned if any(slot.start in stds for slot in slots)]
    try:
        for owner, slots in large:
            owner.know_stds({slot.name: stds[slot.start] for slot in slots if slot.start in stds})
        yield
    finally:
        for owner, _ in large:
            owner.know_stds({})
