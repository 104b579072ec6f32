"""Weights drawn from the posteriors of a network, and the places in its modules where they go."""

from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.layers import ACTIVATION_SPACE, StochasticParameters
from lightning_vi.noise import antithetic_pairs, sample_noise, standard_normal
from lightning_vi.posteriors import CouplingFactory, MeanFieldGaussian, divergence_and_stds, draw_together
from lightning_vi.priors import Prior
from lightning_vi.sampling import memory
from lightning_vi.sampling.draw_cache import DrawCache
from lightning_vi.sampling.shared_noise import check_estimators, deviations_around_means


@dataclass(frozen=True)
class Slot:
    """Place of a drawn weight in the network, and the range of its noise in a flat noise vector."""

    owner: StochasticParameters
    name: str
    start: int
    stop: int

    @property
    def posterior(self) -> MeanFieldGaussian:
        """Posterior of the weight."""
        return self.owner.posterior(self.name)

    @property
    def prior(self) -> Prior:
        """Prior of the weight."""
        return self.owner.prior(self.name)

    @property
    def mu(self) -> Tensor:
        """Posterior mean, the parameter itself."""
        return self.owner.mu(self.name)

    @property
    def mean(self) -> Tensor:
        """Posterior mean to put into the slot; a copy where the module renormalizes rows of its weight in-place."""
        return self.mu if getattr(self.owner.module, "max_norm", None) is None else self.mu.clone()

    @property
    def is_drawn_in_training(self) -> bool:
        """True if training draws the weight, False if the module draws its outputs instead."""
        return self.owner.estimator not in ACTIVATION_SPACE

    def log_ratio(self, weight: Tensor) -> Tensor:
        """Log density of a drawn weight under the posterior minus that under the prior.

        Args:
            weight: Shape [S, *shape of the parameter].

        Returns:
            Nats, summed over all elements except rows that keep their mean, shape [S].
        """
        ratio = self.posterior.log_prob(weight) - self.prior.log_prob(weight)
        for row in self.owner.deterministic_rows(self.name):
            ratio = ratio.select_scatter(torch.zeros_like(ratio.select(1, row)), 1, row)
        return ratio.flatten(1).sum(1)


@contextmanager
def in_place(slots: Sequence[Slot], weights: Sequence[Tensor]) -> Iterator[None]:
    """Runs its body with weights in their slots, and empties the slots afterwards, also after an exception.

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


class JointPosterior:
    """Posterior of one parameter, or of several small ones in one operation, with its standard deviations computed.

    Args:
        slots: One or more distinct parameters with one prior.
        is_coupled: Whether the weights are part of a joint posterior of all weights.

    Attributes:
        size: Number of elements.
        sizes: Number of elements of each parameter.
        is_drawn_in_training: See `Slot`.
    """

    def __init__(self, slots: Sequence[Slot], is_coupled: bool) -> None:
        self.slots = slots
        self.sizes = [slot.stop - slot.start for slot in slots]
        self.size = sum(self.sizes)
        self.is_drawn_in_training = slots[0].is_drawn_in_training
        self._known = None if is_coupled or self.is_drawn_in_training else self._divergence_and_stds()

    def _divergence_and_stds(self) -> tuple[Tensor, Sequence[Tensor]] | None:
        """Divergence and standard deviations of each parameter, where both are all that is needed."""
        first = self.slots[0]
        if len(self.slots) == 1 or first.mu.dtype.itemsize < 4 or any(slot.owner.has_given_stds for slot in self.slots):
            return None
        of_moments = first.prior.of_moments(self.sizes)
        if of_moments is None:
            return None
        means, scales = zip(*(slot.owner.pair(slot.name) for slot in self.slots), strict=True)
        return divergence_and_stds(means, scales, of_moments)

    @cached_property
    def posterior(self) -> MeanFieldGaussian:
        """Of the only parameter's shape, or of shape [number of elements]."""
        return MeanFieldGaussian.join([slot.posterior for slot in self.slots]).with_std()

    def kl(self, scale: Tensor | None = None) -> Tensor:
        """KL divergence from the independent posteriors to the prior.

        Args:
            scale: Factors of the standard deviations, shape [number of elements]; 1 by default.

        Returns:
            Nats, a scalar tensor.
        """
        if self._known is not None:
            return self._known[0]
        prior, mean, std = self.slots[0].prior, self.posterior.mu, self.posterior.std
        if scale is not None:
            std = std * scale.view_as(mean)
        return prior.kl_from_gaussian(mean, std) if len(self.slots) == 1 else prior.joint_kl(mean, std, self.sizes)

    def stds(self) -> Sequence[Tensor]:
        """Standard deviations of each parameter, of its shape."""
        if self._known is not None:
            return self._known[1]
        if len(self.slots) == 1:
            return [self.posterior.std]
        parts = self.posterior.std.split_with_sizes(self.sizes)
        return [part.view(slot.mu.shape) for slot, part in zip(self.slots, parts, strict=True)]

    def select(self, values: Tensor) -> Tensor:
        """Entries of the joint posterior's elements.

        Args:
            values: Shape [..., number of all weights].

        Returns:
            Shape [..., number of elements].
        """
        return torch.cat([values[..., slot.start : slot.stop] for slot in self.slots], -1)

    def shaped(self, noise: Tensor) -> Tensor:
        """Noise as `MeanFieldGaussian.rsample` takes it.

        Args:
            noise: Standard normal, shape [S, number of elements]; set to zero in-place for rows that keep their mean.

        Returns:
            Shape [S, *shape of the posterior].
        """
        mu = self.posterior.mu
        start = 0
        for slot in self.slots:
            for row in slot.owner.deterministic_rows(slot.name):
                size = slot.mu[0].numel()
                noise[:, start + row * size : start + (row + 1) * size] = 0.0
            start += slot.stop - slot.start
        return noise.view(-1, *mu.shape).to(device=mu.device, dtype=mu.dtype)

    def parts(self, draws: Tensor) -> list[Tensor]:
        """Splits draws of the posterior.

        Args:
            draws: Shape [S, *shape of the posterior].

        Returns:
            Shape [S, *shape of the parameter] for each slot.
        """
        if len(self.slots) == 1:
            return [draws]
        parts = torch.unsafe_split_with_sizes(draws, self.sizes, 1)  # these may be changed in-place, as by max_norm
        return [part.view(-1, *slot.mu.shape) for slot, part in zip(self.slots, parts, strict=True)]


@contextmanager
def known_stds(joints: Sequence[JointPosterior]) -> Iterator[None]:
    """Runs its body with standard deviations that modules which draw their outputs need not compute again.

    Args:
        joints: Joint posteriors.
    """
    drawn = [joint for joint in joints if not joint.is_drawn_in_training]
    slots = [slot for joint in drawn for slot in joint.slots]
    with given_stds(slots, [std for joint in drawn for std in joint.stds()]):
        yield


@contextmanager
def without_noise(slots: Sequence[Slot]) -> Iterator[None]:
    """Runs its body with standard deviations of zero in modules that draw their outputs.

    Args:
        slots: Every place of a drawn weight.
    """
    with given_stds(slots, [torch.zeros_like(slot.mu) for slot in slots]):
        yield


@contextmanager
def given_stds(slots: Sequence[Slot], stds: Sequence[Tensor]) -> Iterator[None]:
    """Runs its body with given standard deviations, and gives back those that were given before.

    Args:
        slots: Places of weights.
        stds: One for each slot, of its shape.
    """
    by_owner: dict[StochasticParameters, dict[str, Tensor]] = {}
    for slot, std in zip(slots, stds, strict=True):
        by_owner.setdefault(slot.owner, {})[slot.name] = std
    before = {owner: owner.cache_stds(named) for owner, named in by_owner.items()}
    try:
        yield
    finally:
        for owner, named in before.items():
            owner.cache_stds(named)


class WeightSampler:
    """Draws weights for training and for prediction, small parameters together.

    Args:
        owners: The stochastic parameters of a network's modules.
        antithetic: Whether the noise of every second sample is the negative of the one before.
        coupling: Makes the joint posterior of all weights; None for independent weights.

    Raises:
        ValueError: If a prior has no KL divergence from the coupled posterior in closed form.

    Attributes:
        slots: Every place of a drawn weight.
        distinct_slots: These places, tied ones once.
        num_weights: Number of stochastic weights, tied ones once.
        coupling: The joint posterior of all weights, or None.
    """

    def __init__(
        self, owners: Sequence[StochasticParameters], antithetic: bool, coupling: CouplingFactory | None = None
    ) -> None:
        self.antithetic = antithetic
        self.slots = _make_slots(owners)
        self.distinct_slots = list({slot.start: slot for slot in self.slots}.values())
        self.num_weights = self.distinct_slots[-1].stop
        means = [slot.mu for slot in self.distinct_slots]
        self.coupling = None if coupling is None else coupling([mean.shape for mean in means])
        if self.coupling is not None:
            self.coupling.to(means[0])
            check_estimators([slot.owner.estimator for slot in self.slots], self.coupling)
            if not self.coupling.has_gaussian_marginals:
                _check_priors_depend_on_moments(self.slots)
        self._owners = owners
        self._revisions: list[int] = []
        self._cache = DrawCache[list[Tensor]]()
        self._has_given_stds = False

    def _group(self) -> None:
        """Groups the parameters, again whenever an estimator or a prior was replaced."""
        revisions = [owner.revision for owner in self._owners]
        if revisions == self._revisions:
            return
        self._revisions = revisions
        drawn = [slot for slot in self.slots if slot.is_drawn_in_training]
        self._shares_noise = self.coupling is not None and len(drawn) < len(self.slots)
        self._training_slots = self.slots if self._shares_noise else drawn
        groups: dict[Hashable, list[Slot]] = {}
        for slot in self.distinct_slots:
            mu, shared_key = slot.mu, slot.prior.joint_key
            is_small = shared_key is not None and mu.numel() <= memory.MAX_JOINED_WEIGHTS
            kind = (shared_key, slot.is_drawn_in_training, mu.dtype, mu.device)
            groups.setdefault(kind if is_small else slot, []).append(slot)
        self._groups = list(groups.values())
        self._training_groups = [group for group in self._groups if self._shares_noise or group[0].is_drawn_in_training]

    @property
    def training_slots(self) -> list[Slot]:
        """The slots that `for_training` draws for; other modules draw their outputs instead."""
        self._group()
        return self._training_slots

    @property
    def mean_slots(self) -> list[Slot]:
        """The slots for which `for_training` returns conditional means, around which modules draw their outputs."""
        self._group()
        return [slot for slot in self.slots if not slot.is_drawn_in_training] if self._shares_noise else []

    def parameters(self) -> list[Tensor]:
        """The variational parameters: means and unconstrained scales, tied ones once."""
        pairs = [slot.owner.pair(slot.name) for slot in self.distinct_slots]
        variational: list[Tensor] = [parameter for pair in pairs for parameter in pair]
        return variational if self.coupling is None else [*variational, *self.coupling.parameters()]

    @contextmanager
    def given_stds(self, stds: Sequence[Tensor]) -> Iterator[None]:
        """See `SamplingEngine.given_stds`."""
        by_start = {slot.start: std for slot, std in zip(self.distinct_slots, stds, strict=True)}
        self._has_given_stds = True
        try:
            with given_stds(self.slots, [by_start[slot.start] for slot in self.slots]):
                yield
        finally:
            self._has_given_stds = False

    def joints(self) -> list[JointPosterior]:
        """The joint posteriors that make up the posterior of all weights."""
        self._group()
        return [JointPosterior(group, self.coupling is not None) for group in self._groups]

    def kl(self, joints: Sequence[JointPosterior]) -> Tensor:
        """KL divergence from the posterior of all weights to their prior.

        Args:
            joints: The result of `joints`.

        Returns:
            Nats, a scalar tensor.
        """
        if self.coupling is None:
            terms = [joint.kl() for joint in joints]
        else:
            scale, divergence = self.coupling.marginals()
            terms = [*(joint.kl(joint.select(scale)) for joint in joints), divergence]
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def for_training(
        self, num_samples: int, device: torch.device, joints: Sequence[JointPosterior] | None = None
    ) -> list[Tensor]:
        """Draws with fresh noise, differentiable in the variational parameters.

        Args:
            num_samples: S.
            device: Where noise is drawn.
            joints: The result of `joints` in this step, if there is one.

        Returns:
            Shape [S, *shape of the parameter] for each of `training_slots`; means given the shared noise for those of
            `mean_slots`.
        """
        self._group()
        if joints is None:
            groups = self._training_groups
            groups = _singles(groups) if self._has_given_stds else groups
            joints = [JointPosterior(group, self.coupling is not None) for group in groups]
        if not self._shares_noise:
            joints = [joint for joint in joints if joint.is_drawn_in_training]
        if not joints:
            return []
        if self.coupling is not None and self._shares_noise:
            fresh = partial(self._noise, num_samples, device=device)
            return _draw_together(self._training_slots, joints, deviations_around_means(self.coupling, joints, fresh))
        if self.coupling is not None:
            deviations = self.coupling(self._noise(num_samples, self.coupling.num_noise, device))
            return _draw_together(self._training_slots, joints, [joint.select(deviations) for joint in joints])
        noise = self.noise_for([joint.size for joint in joints], num_samples, device)
        return _draw_together(self._training_slots, joints, noise)

    def noise_for(self, sizes: Sequence[int], num_samples: int, device: torch.device) -> Iterable[Tensor]:
        """Fresh noise of independent weights, drawn for all parts at once unless that is too much.

        Args:
            sizes: Number of elements of each part.
            num_samples: S.
            device: Where noise is drawn.

        Returns:
            Shape [S, size] for each part.
        """
        if num_samples * sum(sizes) > memory.MAX_JOINED_NOISE:
            return (self._noise(num_samples, size, device) for size in sizes)
        noise = self._noise(num_samples, sum(sizes), device)
        return torch.unsafe_split_with_sizes(noise, sizes, 1)  # one may be changed in-place when others are saved

    def _noise(self, num_samples: int, size: int, device: torch.device) -> Tensor:
        if not self.antithetic:
            return standard_normal((num_samples, size), device=device)
        return antithetic_pairs(standard_normal(((num_samples + 1) // 2, size), device=device), num_samples)

    def log_ratio(self, weights: Sequence[Tensor]) -> Tensor:
        """Log density of drawn weights under the posterior minus that under the prior.

        Args:
            weights: The result of `for_training`.

        Returns:
            Nats summed over every stochastic weight, tied ones once, shape [S].

        Raises:
            ValueError: If the weights are not independent.
        """
        if self.coupling is not None:
            raise InputValueError(f"the density of {type(self.coupling).__name__} at drawn weights is not available")
        drawn = {slot.start: (slot, weight) for slot, weight in zip(self.training_slots, weights, strict=True)}
        return torch.stack([slot.log_ratio(weight) for slot, weight in drawn.values()]).sum(0)

    def for_prediction(self, first: int, stop: int, num_samples: int | None, seed: int) -> list[Tensor]:
        """Weights of a range of sampled networks; kept for later calls within a memory budget.

        Args:
            first: Index of the first network.
            stop: Index after the last one.
            num_samples: S, the number of all networks; None to keep nothing.
            seed: Which family of networks.

        Returns:
            Shape [stop - first, *shape of the parameter] for each of `slots`.
        """
        parameters = self.parameters()
        if num_samples is None or num_samples * self.num_weights > memory.max_kept(parameters[0].device):
            return self._of_indices(first, stop, seed)
        draws = self._cache.get((seed, num_samples), parameters, lambda: self._of_all(num_samples, seed))
        return [weight[first:stop] for weight in draws]

    def _of_all(self, num_samples: int, seed: int) -> list[Tensor]:
        chunk = memory.num_fitting(memory.MAX_WEIGHTS_PER_PASS, self.num_weights)
        parts = [self._of_indices(first, stop, seed) for first, stop in memory.chunk_ranges(num_samples, chunk)]
        return parts[0] if len(parts) == 1 else [torch.cat(weights) for weights in zip(*parts, strict=True)]

    def _of_indices(self, first: int, stop: int, seed: int) -> list[Tensor]:
        size = self.num_weights if self.coupling is None else self.coupling.num_noise
        noise = sample_noise(seed, first, stop, size, antithetic=self.antithetic)
        if self.coupling is not None:
            noise = self.coupling(noise)
        joints = self.joints()
        return _draw(self.slots, joints, (joint.select(noise) for joint in joints))


def _singles(groups: Iterable[Sequence[Slot]]) -> list[list[Slot]]:
    return [[slot] for group in groups for slot in group]


def _make_slots(owners: Sequence[StochasticParameters]) -> list[Slot]:
    """Slots of all stochastic parameters in the order of their noise; tied parameters share one range of it."""
    slots: list[Slot] = []
    ranges: dict[int, tuple[int, int]] = {}
    total = 0
    for owner in owners:
        for name in owner.names:
            mu = owner.mu(name)
            if id(mu) not in ranges:
                ranges[id(mu)] = (total, total + mu.numel())
                total += mu.numel()
            slots.append(Slot(owner, name, *ranges[id(mu)]))
    return slots


def _check_priors_depend_on_moments(slots: Sequence[Slot]) -> None:
    for slot in slots:
        if not slot.prior.depends_on_moments_only:
            raise InputValueError(
                f"prior of {slot.name!r} must have a log density that is quadratic in the weights, because the "
                f"posterior has no Gaussian marginals: use GaussianPrior or EmpiricalBayesPrior, got {slot.prior!r}"
            )


def _draw(slots: Sequence[Slot], joints: Sequence[JointPosterior], noise: Iterable[Tensor]) -> list[Tensor]:
    """Draws of one posterior after the other, so that the noise of one is released before the next."""
    rows = zip(joints, noise, strict=True)
    return _distributed(slots, joints, (joint.posterior.rsample(joint.shaped(part)) for joint, part in rows))


def _draw_together(slots: Sequence[Slot], joints: Sequence[JointPosterior], noise: Iterable[Tensor]) -> list[Tensor]:
    """Draws that are differentiated, whose noise is kept."""
    noises = [joint.shaped(part) for joint, part in zip(joints, noise, strict=True)]
    means, stds = [joint.posterior.mu for joint in joints], [joint.posterior.std for joint in joints]
    return _distributed(slots, joints, draw_together(means, stds, noises))


def _distributed(slots: Sequence[Slot], joints: Sequence[JointPosterior], draws: Iterable[Tensor]) -> list[Tensor]:
    drawn = {
        slot.start: weight
        for joint, draw in zip(joints, draws, strict=True)
        for slot, weight in zip(joint.slots, joint.parts(draw), strict=True)
    }
    return [drawn[slot.start] for slot in slots]
