"""Predictions under `torch.export`, which runs the code on tensors without values."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from lightning_vi.errors import InputValueError

_STATE = threading.local()
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


def is_exporting() -> bool:
    """Returns True while `torch.export` traces the calling code."""
    return _is_exporting()


def constant(make: Callable[[], Tensor]) -> Tensor:
    """Makes a tensor with values, which becomes a constant of an exported program.

    Args:
        make: Makes it from Python numbers alone.

    Returns:
        Its result.
    """
    if not is_exporting():
        return make()
    with _disable_current_modes():
        return make()


def known(module: nn.Module, name: str) -> Any:
    """Number in a scalar buffer; in an export the one that was read last.

    Args:
        module: The module.
        name: Name of the buffer.

    Returns:
        A Python number.

    Raises:
        ValueError: In an export that is not one of a `PredictionModule`.
    """
    if is_exporting():
        require_known(f"the value of {name!r}")
        return module.__dict__["_known"][name]
    value = module.get_buffer(name).item()
    module.__dict__.setdefault("_known", {})[name] = value
    return value


@contextmanager
def using_last_prediction() -> Iterator[None]:
    """Lets an export use what the last prediction drew and read, because nothing has changed since then."""
    _STATE.is_known = True
    try:
        yield
    finally:
        _STATE.is_known = False


def uses_last_prediction() -> bool:
    """Returns True in the body of `using_last_prediction`."""
    return getattr(_STATE, "is_known", False)


def require_known(what: str) -> None:
    """Raises an error in an export in which values are unknown.

    Args:
        what: What depends on values.

    Raises:
        ValueError: Outside of `using_last_prediction`.
    """
    if not uses_last_prediction():
        raise InputValueError(
            f"torch.export does not know {what}: export lightning_vi.export.PredictionModule(method, x) instead of the "
            "method"
        )
