"""Checks of arguments."""

import math

from torch import Tensor

from lightning_vi.errors import InputValueError


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Raises an error if a count is too small.

    Args:
        name: The argument's name.
        value: Its value.
        minimum: The smallest value allowed.

    Raises:
        ValueError: If `value` is smaller, or no integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise InputValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")


def check_positive(name: str, value: float, why: str = "") -> None:
    """Raises an error if a number is not positive and finite.

    Args:
        name: The argument's name.
        value: Its value.
        why: The reason, for the message.

    Raises:
        ValueError: If it is not.
    """
    if not (value > 0 and math.isfinite(value)):
        raise InputValueError(f"{name} must be positive and finite{why}, got {value}")


def all_finite(values: Tensor) -> bool:
    """Returns True if no element is NaN or infinite; this synchronizes with a GPU.

    Args:
        values: Any shape.

    Example:
        >>> import torch
        >>> all_finite(torch.full((9,), 3e38)), all_finite(torch.tensor([1.0, -torch.inf, torch.inf]))
        (True, False)
    """
    # A sum is not finite if an element is not; the elements are looked at only then, as a sum can overflow.
    if not values.is_complex() and math.isfinite(values.sum().item()):
        return True
    return bool(values.isfinite().all())
