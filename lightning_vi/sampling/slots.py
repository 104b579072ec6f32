"""The places in a network where drawn weights go."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lightning_vi.layers import ACTIVATION_SPACE, StochasticParameters
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

    def log_ratio(self, weight: Tensor) -> Tensor:
        """Log density of a drawn weight under the posterior, less that under the prior.

        Args:
            weight: The parameter's shape behind S.

        Returns:
            Nats summed over the elements but those that stay at their means, shape [S].
        """
        ratio = self.posterior.log_prob(weight) - self.owner.prior(self.name).log_prob(weight)
        for row in self.owner.deterministic_rows(self.name):
            ratio = ratio.index_fill(1, torch.tensor([row], device=ratio.device), 0.0)
        return ratio.flatten(1).sum(1)

    @property
    def mean(self) -> Tensor:
        """The posterior mean, a copy where the module shrinks rows of its weight in place."""
        mean = self.posterior.mean
        return mean if getattr(self.owner.module, "max_norm", None) is None else mean.clone()


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


@dataclass(frozen=True)
class JointPosterior:
    """The posterior of several parameters, one operation for all of them.

    Attributes:
        slots: One or more distinct parameters.
        posterior: Of the only parameter's shape, or of shape [number of elements].
    """

    slots: Sequence[Slot]
    posterior: MeanFieldGaussian

    def kl(self, scale: Tensor | None = None) -> Tensor:
        """KL divergence from the independent posteriors to the prior.

        Args:
            scale: What standard deviations are multiplied by, shape [number of elements]; 1 by default.

        Returns:
            Nats, a scalar tensor.
        """
        prior = self.slots[0].owner.prior(self.slots[0].name)
        if scale is None:
            return self.posterior.kl(prior)
        return prior.kl_from_gaussian(self.posterior.mu, self.posterior.std * scale.view_as(self.posterior.mu))

    def draw(self, noise: Tensor) -> Iterator[Tensor]:
        """Weights from noise.

        Args:
            noise: Standard normal, shape [S, number of elements]; what belongs to rows that stay at their means is
                set to zero there.

        Yields:
            For each slot, a tensor of its parameter's shape behind S.
        """
        mu = self.posterior.mu
        start = 0
        for slot in self.slots:
            for row in slot.owner.deterministic_rows(slot.name):
                size = slot.owner.mu(slot.name)[0].numel()
                noise[:, start + row * size : start + (row + 1) * size] = 0.0
            start += slot.stop - slot.start
        draws = self.posterior.rsample(noise.view(-1, *mu.shape).to(device=mu.device, dtype=mu.dtype))
        if len(self.slots) == 1:
            yield draws
            return
        sizes = [slot.stop - slot.start for slot in self.slots]
        parts = torch.unsafe_split_with_sizes(draws, sizes, 1)  # these may be changed in place, as by max_norm
        for slot, part in zip(self.slots, parts, strict=True):
            yield part.view(-1, *slot.owner.mu(slot.name).shape)


def group_slots(slots: Sequence[Slot]) -> list[list[Slot]]:
    """Distinct parameters, small ones together where their priors allow it and they are drawn alike.

    Args:
        slots: All slots; tied ones share a range of noise.

    Returns:
        Groups of slots with one prior.
    """
    groups: dict[Hashable, list[Slot]] = {}
    for slot in {slot.start: slot for slot in slots}.values():
        mu, shared_key = slot.owner.mu(slot.name), slot.owner.prior(slot.name).elementwise_key
        small = shared_key is not None and mu.numel() <= MAX_JOINED_WEIGHTS
        kind = (shared_key, is_drawn_in_training(slot), mu.dtype, mu.device)
        groups.setdefault(kind if small else slot, []).append(slot)
    return list(groups.values())


def is_drawn_in_training(slot: Slot) -> bool:
    """Whether training draws whole weights for a slot.

    Args:
        slot: The slot.

    Returns:
        False where the module draws its outputs instead.
    """
    return slot.owner.estimator not in ACTIVATION_SPACE


def join(slots: Sequence[Slot]) -> JointPosterior:
    """The joint posterior of several parameters, with its standard deviations computed.

    Args:
        slots: One or more distinct parameters.

    Returns:
        Their joint posterior.
    """
    posterior = MeanFieldGaussian.join([slot.posterior for slot in slots])
    return JointPosterior(slots, MeanFieldGaussian(posterior.mu, posterior.rho, posterior.std))


@contextmanager
def known_stds(joints: Sequence[JointPosterior]) -> Iterator[None]:
    """Runs its body with the standard deviations of single parameters known to the modules that draw their outputs.

    Args:
        joints: Joint posteriors; those of several parameters are left out.
    """
    owned: dict[StochasticParameters, dict[str, Tensor]] = {}
    for joint in joints:
        if len(joint.slots) == 1 and not is_drawn_in_training(joint.slots[0]):
            slot = joint.slots[0]
            owned.setdefault(slot.owner, {})[slot.name] = joint.posterior.std
    try:
        for owner, stds in owned.items():
            owner.cache_stds(stds)
        yield
    finally:
        for owner in owned:
            owner.cache_stds({})
