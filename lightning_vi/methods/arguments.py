"""Checks of arguments."""

from collections.abc import Mapping
from typing import Any


def is_plain(value: Any) -> bool:
    """Whether a value consists of numbers, strings and containers, which any checkpoint can hold.

    Args:
        value: A hyperparameter.

    Returns:
        False for classes, functions and other objects.
    """
    if isinstance(value, Mapping):
        return all(map(is_plain, value.values()))
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)


def check_at_least(name: str, value: int, minimum: int) -> None:
    """Refuses a count that is too small.

    Args:
        name: The argument's name.
        value: Its value.
        minimum: The smallest value allowed.

    Raises:
        ValueError: If `value` is smaller, or no integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")
