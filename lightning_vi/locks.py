"""Locks for predictions from several threads.

A prediction changes modules for a moment: their modes, the weights in their slots, their hooks. It holds the lock of
its method and of every method inside it, in the order in which they were made, so that two threads never wait for each
other. The two other locks are taken last, and `RANDOM_STATE` before `PROCESS_FLAGS`.
"""

import itertools
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Literal

from torch import nn

RANDOM_STATE = threading.RLock()
"""Held while the global random state is replaced. Predictions do not replace it."""

PROCESS_FLAGS = threading.RLock()
"""Held while filters of warnings, or how compiled modules run, are replaced in the whole process."""

_NUMBERS = itertools.count()


class ModuleLock:
    """Re-entrant lock of a module. A copy of the module, and an unpickled one, has a lock of its own."""

    def __init__(self) -> None:
        self.number = next(_NUMBERS)
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[type["ModuleLock"], tuple[()]]:
        return ModuleLock, ()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def all_modules(module: nn.Module) -> list[nn.Module]:
    """A module and all modules below it, each once; `nn.Module.modules` takes several times as long.

    Args:
        module: Any module.

    Returns:
        The module first.

    Example:
        >>> [type(part).__name__ for part in all_modules(nn.Sequential(nn.Linear(2, 1), nn.ReLU()))]
        ['Sequential', 'Linear', 'ReLU']
    """
    parts, seen = [module], {id(module)}
    for part in parts:
        for child in part._modules.values():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                parts.append(child)
    return parts


@contextmanager
def holding(modules: Sequence[nn.Module]) -> Iterator[None]:
    """Runs its body with the locks of all modules that have one.

    Args:
        modules: Modules; one that can be predicted with has a `ModuleLock` in its attribute `_lock`.
    """
    locks = [lock for part in modules if isinstance(lock := part.__dict__.get("_lock"), ModuleLock)]
    if len(locks) == 1:
        with locks[0]:
            yield
        return
    with ExitStack() as stack:
        for lock in sorted(locks, key=lambda lock: lock.number):
            stack.enter_context(lock)
        yield


@contextmanager
def exclusive(module: nn.Module) -> Iterator[None]:
    """Runs its body while no other thread predicts with a method or with one inside it.

    Args:
        module: The method.
    """
    with holding(all_modules(module)):
        yield


@contextmanager
def filtered_warnings(action: Literal["error", "ignore"], message: str) -> Iterator[None]:
    """Runs its body with one more filter of warnings, one thread after the other, because filters are the process's.

    Args:
        action: What becomes of the warning.
        message: Its beginning, a regular expression.
    """
    with PROCESS_FLAGS, warnings.catch_warnings():
        warnings.filterwarnings(action, message)
        yield
