"""Weights drawn from the posteriors of a network."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lightning_vi.layers import StochasticParameters
from lightning_vi.noise import antithetic_pairs, sample_noise
from lightning_vi.posteriors import CouplingFactory
from lightning_vi.sampling.draw_cache import MAX_KEPT_NUMBERS, DrawCache
from lightning_vi.sampling.slots import (
    JointPosterior,
    Slot,
    allot_slots,
    group_slots,
    is_drawn_in_training,
    join,
)


class WeightSampler:
    """Draws weights for training and for prediction, small parameters together.

    Args:
        owners: The stochastic parameters of a network's modules.
        antithetic: Whether the noise of every second sample is the negative of the one before.
        coupling: Makes the posterior of all weights together; None for independent ones.

    Raises:
        ValueError: If a prior has no divergence from the coupled posterior.

    Attributes:
        slots: Every place where a drawn weight goes.
        num_weights: The number of stochastic weights, tied ones once.
        coupling: What `coupling` made.
        training_slots: The slots that `for_training` draws for; other modules draw their outputs instead.
    """

    def __init__(
        self, owners: Sequence[StochasticParameters], antithetic: bool, coupling: CouplingFactory | None = None
    ) -> None:
        self.antithetic = antithetic
        self.slots, self.num_weights = allot_slots(owners)
        distinct = sorted({(slot.start, slot.stop) for slot in self.slots})
        self.coupling = None if coupling is None else coupling([stop - start for start, stop in distinct])
        if self.coupling is not None and not self.coupling.has_gaussian_marginals:
            _refuse_priors_of_other_shapes(self.slots)
        self._owners = owners
        self._revisions: list[int] = []
        self._cache = DrawCache[list[Tensor]]()

    def _group(self) -> None:
        """Takes note of changed estimators and priors."""
        revisions = [owner.revision for owner in self._owners]
        if revisions == self._revisions:
            return
        self._revisions = revisions
        self.training_slots = [slot for slot in self.slots if is_drawn_in_training(slot)]
        self._groups = group_slots(self.slots)
        self._training_groups = [group for group in self._groups if is_drawn_in_training(group[0])]

    def parameters(self) -> list[Tensor]:
        """The variational parameters: means and unconstrained scales, tied ones once."""
        posteriors = [slot.posterior for slot in {slot.start: slot for slot in self.slots}.values()]
        variational = [parameter for posterior in posteriors for parameter in (posterior.mu, posterior.rho)]
        return variational if self.coupling is None else [*variational, *self.coupling.parameters()]

    def joints(self) -> list[JointPosterior]:
        """The joint posteriors that make up the posterior of all weights."""
        self._group()
        return [join(group) for group in self._groups]

    def kl(self, joints: Sequence[JointPosterior]) -> Tensor:
        """KL divergence from the posterior of all weights to their prior.

        Args:
            joints: What `joints` returned.

        Returns:
            Nats, a scalar tensor.
        """
        if self.coupling is None:
            terms = [joint.kl() for joint in joints]
        else:
            scale, divergence = self.coupling.marginals()
            terms = [*(joint.kl(_of_slots(scale, joint)) for joint in joints), divergence]
        return torch.stack(terms).sum() if len(terms) > 1 else terms[0]

    def for_training(
        self, num_samples: int, device: torch.device, joints: Sequence[JointPosterior] | None = None
    ) -> list[Tensor]:
        """Draws with fresh noise, differentiable in the variational parameters.

        Args:
            num_samples: S.
            device: Where noise is drawn.
            joints: What `joints` returned in this step, if anything.

        Returns:
            One tensor for each of `training_slots`, of its parameter's shape behind S.
        """
        if joints is None:
            self._group()
            joints = [join(group) for group in self._training_groups]
        joints = [joint for joint in joints if is_drawn_in_training(joint.slots[0])]
        sizes = [sum(slot.stop - slot.start for slot in joint.slots) for joint in joints]
        num_draws = (num_samples + 1) // 2 if self.antithetic else num_samples
        size = sum(sizes) if self.coupling is None else self.coupling.num_noise
        noise = torch.randn(num_draws, size, device=device)
        if self.antithetic:
            noise = antithetic_pairs(noise, num_samples)
        if self.coupling is not None:
            return _draw(self.training_slots, joints, _of_joints(self.coupling(noise), joints))
        return _draw(self.training_slots, joints, noise.split_with_sizes(sizes, 1))

    def log_ratio(self, weights: Sequence[Tensor]) -> Tensor:
        """Log density of drawn weights under the posterior, less that under the prior.

        Args:
            weights: What `for_training` returned.

        Returns:
            Nats summed over every stochastic weight, tied ones once, shape [S].

        Raises:
            ValueError: If the weights are not independent.
        """
        if self.coupling is not None:
            raise ValueError(f"the density of {type(self.coupling).__name__} at drawn weights is not available")
        drawn = {slot.start: (slot, weight) for slot, weight in zip(self.training_slots, weights, strict=True)}
        return torch.stack([slot.log_ratio(weight) for slot, weight in drawn.values()]).sum(0)

    def for_prediction(self, first: int, stop: int, num_samples: int | None, seed: int) -> list[Tensor]:
        """Weights of the networks of some indices; kept where there are not too many.

        Args:
            first: Index of the first network.
            stop: Index behind the last one.
            num_samples: S, the number of networks that will be asked for; None to keep nothing.
            seed: Which family of networks.

        Returns:
            One tensor for each of `slots`, of its parameter's shape behind ``stop - first``.
        """
        if num_samples is None or num_samples * self.num_weights > MAX_KEPT_NUMBERS:
            return self._of_indices(first, stop, seed)
        key = (seed, num_samples)
        draws = self._cache.get(key, self.parameters(), lambda: self._of_indices(0, num_samples, seed))
        return [weight[first:stop] for weight in draws]

    def _of_indices(self, first: int, stop: int, seed: int) -> list[Tensor]:
        size = self.num_weights if self.coupling is None else self.coupling.num_noise
        noise = sample_noise(seed, first, stop, size, antithetic=self.antithetic)
        if self.coupling is not None:
            noise = self.coupling(noise)
        joints = self.joints()
        return _draw(self.slots, joints, _of_joints(noise, joints))


def _of_slots(values: Tensor, joint: JointPosterior) -> Tensor:
    """What belongs to a joint posterior's elements, of `values` [..., number of weights]."""
    return torch.cat([values[..., slot.start : slot.stop] for slot in joint.slots], -1)


def _of_joints(noise: Tensor, joints: Sequence[JointPosterior]) -> Iterable[Tensor]:
    return (_of_slots(noise, joint) for joint in joints)


def _refuse_priors_of_other_shapes(slots: Sequence[Slot]) -> None:
    for slot in slots:
        prior = slot.owner.prior(slot.name)
        if not prior.depends_on_moments_only:
            raise ValueError(
                f"prior of {slot.name!r} must have a log density that is quadratic in the weights, because the "
                f"posterior has no Gaussian marginals: use GaussianPrior or EmpiricalBayesPrior, got {prior!r}"
            )


def _draw(slots: Sequence[Slot], joints: Sequence[JointPosterior], noise: Iterable[Tensor]) -> list[Tensor]:
    drawn = {
        slot.start: weight
        for joint, part in zip(joints, noise, strict=True)
        for slot, weight in zip(joint.slots, joint.draw(part), strict=True)
    }
    return [drawn[slot.start] for slot in slots]
