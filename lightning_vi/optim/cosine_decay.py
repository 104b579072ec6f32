"""Learning rate with a short warm-up and cosine decay over a fit."""

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

WARMUP_SHARE = 0.05
"""Share of the steps in which the learning rate increases."""


def cosine_decay(optimizer: Optimizer, total_steps: int | None = None) -> LambdaLR:
    r"""Makes a schedule that decreases the learning rate to zero along half a cosine, after a short linear warm-up.

    .. math:: \eta_t = \eta_0 \min\Big(1, \frac{t + 1}{0.05\, T}\Big) \tfrac12 \big(1 + \cos(\pi t / T)\big)

    The cosine is that of Loshchilov and Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017,
    without restarts: the rate remains zero after T steps. A resumed fit takes the length of the new fit.

    Args:
        optimizer: The optimizer.
        total_steps: Number T of optimizer steps; None for a constant rate.

    Returns:
        The schedule, to be stepped after each optimizer step.

    Example:
        >>> import torch
        >>> optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
        >>> schedule = cosine_decay(optimizer, total_steps=2)
        >>> optimizer.step()
        >>> schedule.step()
        >>> round(optimizer.param_groups[0]["lr"], 6)
        0.05
    """
    return LambdaLR(optimizer, partial(_factor, total_steps=total_steps))


def _factor(step: int, total_steps: int | None) -> float:
    if total_steps is None:
        return 1.0
    total_steps = max(1, total_steps)
    warmup = min(1.0, (step + 1) / (WARMUP_SHARE * total_steps))
    return warmup * 0.5 * (1 + math.cos(math.pi * min(1.0, step / total_steps)))
