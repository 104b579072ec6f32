"""When weights are averaged, and at which learning rate they move until then."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_vi.arguments import check_at_least

AveragingRate = float | Sequence[float] | None


@dataclass(frozen=True)
class AveragingSchedule:
    r"""A phase of training, in cycles of some epochs, at whose ends the weights are looked at.

    Within a cycle of T steps the learning rate is constant, or falls from :math:`\alpha_1` to :math:`\alpha_2`
    (Izmailov et al., 2018):

    .. math:: \alpha_t = \Big(1 - \frac{t}{T}\Big) \alpha_1 + \frac{t}{T} \alpha_2, \qquad t = 1, \dots, T

    Args:
        start_epoch: The phase's first epoch, counted from 0, or which fraction of all epochs comes before it.
        snapshot_every: Epochs of a cycle.
        averaging_lr: A constant learning rate, the pair :math:`(\alpha_1, \alpha_2)`, or None to set none.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = AveragingSchedule(start_epoch=0.75, snapshot_every=2, averaging_lr=(0.4, 0.1))
        >>> schedule.first_epoch(num_epochs=20)
        15
        >>> schedule.learning_rate(age=1, batch_idx=2, num_batches=3)
        0.1
    """

    start_epoch: int | float
    snapshot_every: int
    averaging_lr: AveragingRate

    def __post_init__(self) -> None:
        start, lr = self.start_epoch, self.averaging_lr
        if isinstance(start, bool) or not (0 <= start < (math.inf if isinstance(start, int) else 1)):
            raise ValueError(
                f"start_epoch must be an integer of at least 0, or a fraction of all epochs in [0, 1), got {start!r}"
            )
        check_at_least("snapshot_every", self.snapshot_every, 1)
        if lr is None:
            return
        rates = lr if isinstance(lr, Sequence) else (lr, lr)
        if not (len(rates) == 2 and 0 < rates[1] <= rates[0] < math.inf):
            raise ValueError(
                "averaging_lr must be None, a positive, finite number or a pair of them of which the second is not "
                f"larger, got {lr!r}"
            )

    @property
    def is_cyclical(self) -> bool:
        """Whether the learning rate changes from step to step."""
        return isinstance(self.averaging_lr, Sequence)

    def first_epoch(self, num_epochs: float) -> int:
        """The phase's first epoch.

        Args:
            num_epochs: The number of all epochs; infinite where it is not known.

        Returns:
            Counted from 0.

        Raises:
            ValueError: If it is a fraction of a number that is not known.
        """
        if isinstance(self.start_epoch, int):
            return self.start_epoch
        if math.isinf(num_epochs):
            raise ValueError(
                f"start_epoch must be an integer where the trainer has no max_epochs, got {self.start_epoch}"
            )
        return math.floor(self.start_epoch * num_epochs + 1e-9)

    def ends_cycle(self, age: int) -> bool:
        """Whether an epoch is the last one of a cycle.

        Args:
            age: The epoch's number in the phase, counted from 0; negative before.

        Returns:
            False before the phase.
        """
        return age >= 0 and (age + 1) % self.snapshot_every == 0

    def learning_rate(self, age: int, batch_idx: int, num_batches: float) -> float | None:
        """The learning rate of a step.

        Args:
            age: The epoch's number in the phase, counted from 0; negative before.
            batch_idx: The batch's number in the epoch.
            num_batches: Batches in an epoch.

        Returns:
            None where it is left as it is.
        """
        if age < 0:
            return None
        if not isinstance(self.averaging_lr, Sequence):
            return self.averaging_lr
        high, low = self.averaging_lr
        done = ((age % self.snapshot_every) * num_batches + batch_idx + 1) / (self.snapshot_every * num_batches)
        return (1 - done) * high + done * low
