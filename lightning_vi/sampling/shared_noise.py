r"""Joint posteriors in training where layers draw their outputs.

Given the shared noise :math:`\epsilon_2` of a `NoiseCoupling`, weights are independent,
:math:`w = \mu + \sigma \odot (m(\epsilon_2) + \epsilon_1)`. A sample draws :math:`\epsilon_2` once for the batch.
The slots of layers that draw their outputs hold the means :math:`\mu + \sigma \odot m(\epsilon_2)`, and each row has
separate noise around the output that they give. Other slots hold weights. Predictions draw whole weights.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.posteriors import NoiseCoupling

if TYPE_CHECKING:
    from lightning_vi.sampling.weights import JointPosterior, Slot


def check_estimators(estimators: Collection[str], coupling: NoiseCoupling) -> None:
    """Checks that estimators can be combined with a joint posterior.

    Args:
        estimators: The estimators of the stochastic modules.
        coupling: The joint posterior.

    Raises:
        ValueError: If a module would draw its outputs as if its weights were independent.
    """
    supported = (
        ["reparameterization"] if coupling.num_shared is None else ["local_reparameterization", "reparameterization"]
    )
    for estimator in estimators:
        if estimator not in supported:
            raise InputValueError(
                f"estimator must be 'auto' or one of {supported} for a joint posterior of all weights, "
                f"got {estimator!r}"
            )


def deviations_around_means(
    coupling: NoiseCoupling, joints: "Sequence[JointPosterior]", fresh: Callable[[int], Tensor]
) -> list[Tensor]:
    """Standardized deviations of weights, or their means given the shared noise.

    Args:
        coupling: A joint posterior with shared noise.
        joints: Parts of the posterior.
        fresh: Draws noise of shape [S, n] for n.

    Returns:
        Shape [S, number of elements] for each of `joints`: deviations where training draws the weights, else means.
    """
    num_shared = coupling.num_shared or 0
    sizes = [joint.size if joint.is_drawn_in_training else 0 for joint in joints]
    noise = fresh(num_shared + sum(sizes))
    means = coupling.conditional_means(noise[:, :num_shared])
    parts = noise[:, num_shared:].to(means).split_with_sizes(sizes, 1)
    return [
        joint.select(means) + part if joint.is_drawn_in_training else joint.select(means)
        for joint, part in zip(joints, parts, strict=True)
    ]


@contextmanager
def means_in_slots(slots: "Sequence[Slot]") -> Iterator[None]:
    """Runs its body with modules that draw their outputs around the weights in their slots.

    Args:
        slots: Places of conditional means; empty to change nothing.
    """
    owners = {slot.owner for slot in slots}
    try:
        for owner in owners:
            owner.slots_hold_means = True
        yield
    finally:
        for owner in owners:
            owner.slots_hold_means = False
