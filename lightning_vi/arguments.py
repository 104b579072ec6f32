"""Checks of arguments."""

import difflib
import inspect
import math
from collections.abc import Iterable
from typing import Any, get_type_hints

from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError


def check_instance(name: str, value: Any, kind: type) -> None:
    """Raises an error if an object is of another class, or a class itself.

    Args:
        name: The argument's name.
        value: Its value.
        kind: Class that it must be an instance of.

    Raises:
        TypeError: If it is not.

    Example:
        >>> try:
        ...     check_instance("shape", tuple, tuple)
        ... except TypeError as error:
        ...     print(error)
        shape must be an instance of tuple, got the class tuple: write tuple(...)
    """
    if isinstance(value, kind):
        return
    found = f"the class {value.__name__}" if isinstance(value, type) else f"{value!r:.80}"
    remedy = f": write {value.__name__}(...)" if isinstance(value, type) and issubclass(value, kind) else ""
    raise InputTypeError(f"{name} must be an instance of {kind.__name__}, got {found}{remedy}")


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


def accepted_arguments(kind: type) -> dict[str, Any]:
    """Returns the arguments of a class, with those that it passes on to its base classes, and their defaults.

    Args:
        kind: The class.

    Returns:
        Defaults by name, without `self`; `inspect.Parameter.empty` for required arguments.

    Example:
        >>> accepted_arguments(type("Scaled", (), {"__init__": lambda self, scale=1.0: None}))
        {'scale': 1.0}
    """
    found: dict[str, Any] = {}
    for parameter in inspect.signature(kind).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            found[parameter.name] = parameter.default
            continue
        packed = getattr(parameter.annotation, "__args__", None)
        passed_on = accepted_arguments(kind.__mro__[1])
        names = passed_on if packed is None else get_type_hints(packed[0])
        found |= {name: passed_on.get(name, parameter.empty) for name in names if name not in found}
    return found


def suggestion(word: str, words: Iterable[str]) -> str:
    """Returns the end of an error message that names the most similar word.

    Args:
        word: The unknown word.
        words: The known words.

    Returns:
        A question, or all known words.

    Example:
        >>> suggestion("kl_wait", ["kl_weight", "prior"])
        ': did you mean kl_weight?'
    """
    known = sorted(words)
    close = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
