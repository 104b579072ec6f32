"""Learning rate schedules that are stepped after each batch."""

import inspect
import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lightning_vi.errors import InputTypeError, InputValueError

LENGTHS = ("total_steps", "T_max", "total_iters")
"""Arguments of PyTorch's schedulers that are the length of the schedule."""


class PerStep:
    """Learning rate schedule that is stepped after each optimizer step instead of each epoch.

    Its length is that of the fit unless it is given: `total_steps`, `T_max` or `total_iters`, whichever the scheduler
    takes.

    Args:
        scheduler: A scheduler class, such as `torch.optim.lr_scheduler.OneCycleLR`, or a function that takes the
            optimizer first.
        **options: Its other arguments.

    Raises:
        TypeError: If `scheduler` is not callable.

    Example:
        >>> import torch
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.likelihoods import Gaussian
        >>> schedule = PerStep(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.01)
        >>> method = MeanFieldVI(torch.nn.Linear(1, 1), Gaussian(), lr_scheduler=schedule)
        >>> optimizer = torch.optim.SGD(method.parameters(), lr=0.1)
        >>> schedule(optimizer, num_steps=500).total_steps
        500
    """

    def __init__(self, scheduler: Callable[..., LRScheduler], **options: Any) -> None:
        if not callable(scheduler):
            raise InputTypeError(f"scheduler must be a class or function, got a {type(scheduler).__name__}")
        self.scheduler = scheduler
        self.options = options

    def __call__(self, optimizer: Optimizer, num_steps: float | None = None) -> LRScheduler:
        """Makes the scheduler.

        Args:
            optimizer: The optimizer.
            num_steps: Number of optimizer steps of the fit.

        Returns:
            The scheduler.

        Raises:
            ValueError: If the schedule needs a length, and neither it nor that of the fit is known.
        """
        taken = inspect.signature(getattr(self.scheduler, "func", self.scheduler)).parameters
        given = {*self.options, *getattr(self.scheduler, "keywords", {})}
        name = next((name for name in LENGTHS if name in taken), None)
        if name is None or given & {*LENGTHS, "epochs", "steps_per_epoch"}:
            return self.scheduler(optimizer, **self.options)
        if num_steps is None or math.isinf(num_steps):
            raise InputValueError(f"the number of steps of the fit is unknown: give PerStep(..., {name}=...)")
        return self.scheduler(optimizer, **self.options, **{name: int(num_steps)})
