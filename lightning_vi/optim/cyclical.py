"""Cyclical schedule of a sampler: learning rates, stages, and the steps of its draws."""

import math
from dataclasses import dataclass
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from lightning_vi.arguments import check_at_least
from lightning_vi.errors import InputValueError


@dataclass(frozen=True)
class CyclicalSchedule:
    r"""Cycles of exploration and sampling (Zhang et al., 2020).

    Each cycle explores with a learning rate that decreases along half a cosine, then samples with a constant one. The
    temperature increases linearly in the first half of the exploration:

    .. math::
        \eta_r / \eta = f + (1 - f) \tfrac12 \big(1 + \cos(\pi \min(1, r / e))\big), \qquad
        T_r / T = \min(1, 2 r / e), \qquad 0 \le r < 1.

    Args:
        num_cycles: Number of cycles C in a fit.
        exploration: Share e of a cycle before its first draw.
        sampling_factor: Ratio f of the learning rates of sampling and of the start, in (0, 1].

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> schedule = CyclicalSchedule(num_cycles=2, exploration=0.5, sampling_factor=0.1)
        >>> [round(schedule.factor(step, 8), 2) for step in range(8)]
        [1.0, 0.55, 0.1, 0.1, 1.0, 0.55, 0.1, 0.1]
        >>> [schedule.num_sampling_steps(step, 8) for step in range(8)]
        [0, 0, 1, 2, 2, 2, 3, 4]
        >>> [schedule.heat(step, 8) for step in range(4)]
        [0.0, 1.0, 1.0, 1.0]
    """

    num_cycles: int
    exploration: float
    sampling_factor: float

    def __post_init__(self) -> None:
        check_at_least("num_cycles", self.num_cycles, 1)
        if not 0 <= self.exploration < 1:
            raise InputValueError(f"exploration must lie in [0, 1), got {self.exploration}")
        if not 0 < self.sampling_factor <= 1:
            raise InputValueError(f"sampling_factor must lie in (0, 1], got {self.sampling_factor}")

    def factor(self, step: int, total_steps: int) -> float:
        """Factor of the learning rate.

        Args:
            step: Number of steps before this one.
            total_steps: Number T of steps of the fit.

        Returns:
            A number in (0, 1].
        """
        length, start = self._cycle(total_steps)
        share = min(1.0, (step % length) / start) if start else 1.0
        return self.sampling_factor + (1 - self.sampling_factor) * 0.5 * (1 + math.cos(math.pi * share))

    def heat(self, step: int, total_steps: int) -> float:
        """Factor of the temperature.

        Args:
            step: Number of steps before this one.
            total_steps: Number T of steps of the fit.

        Returns:
            A number in [0, 1].
        """
        length, start = self._cycle(total_steps)
        return min(1.0, 2 * (step % length) / start) if start else 1.0

    def is_sampling(self, step: int, total_steps: int) -> bool:
        """Returns True if a step belongs to the sampling stage of its cycle.

        Args:
            step: Number of steps before this one.
            total_steps: Number T of steps of the fit.
        """
        length, start = self._cycle(total_steps)
        return step % length >= start

    def num_sampling_steps(self, step: int, total_steps: int) -> int:
        """Number of steps in sampling stages so far, this one included.

        Args:
            step: Number of steps before this one.
            total_steps: Number T of steps of the fit.

        Returns:
            The number.
        """
        length, start = self._cycle(total_steps)
        return step // length * (length - start) + max(0, step % length + 1 - start)

    def is_draw(self, step: int, total_steps: int, num_draws: int) -> bool:
        """Returns True if the weights after a step are one of K draws, which are evenly spaced in the sampling stages.

        Args:
            step: Number of steps before this one.
            total_steps: Number T of steps of the fit.
            num_draws: K. With fewer sampling steps, each of them gives a draw.
        """
        if not self.is_sampling(step, total_steps):
            return False
        done, total = (self.num_sampling_steps(each, total_steps) for each in (step, total_steps - 1))
        return done * num_draws // total > (done - 1) * num_draws // total or num_draws >= total

    def _cycle(self, total_steps: int) -> tuple[int, int]:
        """Length of a cycle, and the number of its steps that explore."""
        length = max(1, math.ceil(total_steps / self.num_cycles))
        return length, min(length - 1, math.ceil(self.exploration * length))


def cyclical_rate(optimizer: Optimizer, total_steps: int, schedule: CyclicalSchedule) -> LambdaLR:
    """Makes a learning rate schedule that follows the cycles of a sampler.

    Args:
        optimizer: The optimizer.
        total_steps: Number T of optimizer steps.
        schedule: The cycles.

    Returns:
        The schedule, to be stepped after each optimizer step.
    """
    return LambdaLR(optimizer, partial(schedule.factor, total_steps=total_steps))
