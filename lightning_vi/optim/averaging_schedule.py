"""Schedule of weight averaging: first epoch, cycles and learning rate."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lightning_vi.arguments import check_at_least
from lightning_vi.errors import InputValueError

AveragingRate = float | Sequence[float] | None


@dataclass(frozen=True)
class AveragingSchedule:
    r"""Schedule of the averaging phase, which consists of cycles and takes a snapshot at the end of each.

    Within a cycle of T steps the learning rate is constant, or falls from :math:`\alpha_1` to :math:`\alpha_2`
    (Izmailov et al., 2018):

    .. math:: \alpha_t = \Big(1 - \frac{t}{T}\Big) \alpha_1 + \frac{t}{T} \alpha_2, \qquad t = 1, \dots, T

    Args:
        start_epoch: First epoch of the phase, counted from 0, or the fraction of all epochs before it.
        snapshot_every: Number of epochs of a cycle.
        averaging_lr: A constant learning rate, the pair :math:`(\alpha_1, \alpha_2)`, or None to leave it unchanged.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = AveragingSchedule(start_epoch=0.75, snapshot_every=2, averaging_lr=(0.4, 0.1))
        >>> schedule.first_epoch(num_epochs=20)
        15
        >>> schedule.learning_rate(epoch=1, batch_idx=2, num_batches=3)
        0.1
    """

    start_epoch: int | float
    snapshot_every: int
    averaging_lr: AveragingRate

    def __post_init__(self) -> None:
        start, lr = self.start_epoch, self.averaging_lr
        if isinstance(start, bool) or not (0 <= start < (math.inf if isinstance(start, int) else 1)):
            raise InputValueError(
                f"start_epoch must be an integer of at least 0, or a fraction of all epochs in [0, 1), got {start!r}"
            )
        check_at_least("snapshot_every", self.snapshot_every, 1)
        if lr is None:
            return
        rates = lr if isinstance(lr, Sequence) else (lr, lr)
        if not (len(rates) == 2 and 0 < rates[1] <= rates[0] < math.inf):
            raise InputValueError(
                "averaging_lr must be None, a positive, finite number or a pair of them whose second is not larger, "
                f"got {lr!r}"
            )

    @property
    def is_cyclical(self) -> bool:
        """True if the learning rate changes from step to step."""
        return isinstance(self.averaging_lr, Sequence)

    def first_epoch(self, num_epochs: float) -> int:
        """Returns the first epoch of the phase.

        Args:
            num_epochs: Total number of epochs; infinite if unknown.

        Returns:
            Index of the epoch, counted from 0.

        Raises:
            ValueError: If `start_epoch` is a fraction and the number of epochs is unknown.
        """
        if isinstance(self.start_epoch, int):
            return self.start_epoch
        if math.isinf(num_epochs):
            raise InputValueError(
                f"start_epoch must be an integer where the trainer has no max_epochs, got {self.start_epoch}"
            )
        return math.floor(self.start_epoch * num_epochs + 1e-9)

    def ends_cycle(self, epoch: int) -> bool:
        """Returns whether an epoch is the last one of a cycle.

        Args:
            epoch: Index of the epoch, counted from the start of the phase; negative before the phase.

        Returns:
            False before the phase.
        """
        return epoch >= 0 and (epoch + 1) % self.snapshot_every == 0

    def learning_rate(self, epoch: int, batch_idx: int, num_batches: float) -> float | None:
        """Returns the learning rate of a step.

        Args:
            epoch: Index of the epoch, counted from the start of the phase; negative before the phase.
            batch_idx: Index of the batch in the epoch.
            num_batches: Number of batches in an epoch.

        Returns:
            The learning rate; None to leave it unchanged.
        """
        if epoch < 0:
            return None
        if not isinstance(self.averaging_lr, Sequence):
            return self.averaging_lr
        high, low = self.averaging_lr
        done = ((epoch % self.snapshot_every) * num_batches + batch_idx + 1) / (self.snapshot_every * num_batches)
        return (1 - done) * high + done * low
