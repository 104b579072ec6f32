"""Costs of a method: parameters and floating-point operations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def num_parameters(method: nn.Module) -> int:
    """Counts the parameters of a method, trained or not.

    Args:
        method: The method.

    Returns:
        The number of elements.

    Example:
        >>> num_parameters(nn.Linear(2, 3))
        9
    """
    return sum(parameter.numel() for parameter in method.parameters())


def count_operations(function: Callable[[], Any]) -> int:
    """Counts the floating-point operations of matrix products, convolutions and attention in a call.

    Args:
        function: The call.

    Returns:
        Their number.

    Example:
        >>> layer, x = nn.Linear(3, 4), torch.zeros(5, 3)
        >>> count_operations(lambda: layer(x)) == 2 * 5 * 3 * 4
        True
    """
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        function()
    return int(counter.get_total_flops())
