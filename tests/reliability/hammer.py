"""Asks one object the same questions from several threads at once."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

NUM_THREADS = 4


@dataclass
class Count:
    """Counts of the answers, and the errors that were raised in place of one."""

    right: int = 0
    wrong: int = 0
    errors: list[Exception] = field(default_factory=list)

    @property
    def tried(self) -> int:
        return self.right + self.wrong + len(self.errors)


@contextmanager
def frequent_switches() -> Iterator[None]:
    """Lets threads take turns after ten microseconds instead of five milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def in_threads(*work: Callable[[], object], seconds: float = 120.0) -> None:
    """Runs functions in a thread each, and fails if one does not end or raises an error."""
    errors: list[BaseException] = []

    def run(own: Callable[[], object]) -> None:
        try:
            own()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(own,), daemon=True) for own in work]
    with frequent_switches():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(seconds)
    assert not any(thread.is_alive() for thread in threads), "a thread waits for ever"
    if errors:
        raise errors[0]


def same(answer: Any, expected: Any) -> bool:
    """Equal in every bit: tensors, or nested dictionaries of them; other values are not compared."""
    if isinstance(expected, torch.Tensor):
        return torch.equal(answer, expected)
    if isinstance(expected, dict):
        return answer.keys() == expected.keys() and all(same(answer[key], expected[key]) for key in expected)
    return True


def hammer(questions: Sequence[Callable[[], Any]], expected: Sequence[Any], num_answers: int) -> Count:
    """Asks questions in turn, in each thread from another one on, and compares with what is expected."""
    count, lock = Count(), threading.Lock()

    def ask(first: int) -> None:
        for turn in range(num_answers // NUM_THREADS):
            index = (first * 3 + turn) % len(questions)
            try:
                is_right = same(questions[index](), expected[index])
            except Exception as error:
                with lock:
                    count.errors.append(error)
                continue
            with lock:
                count.right += is_right
                count.wrong += not is_right

    in_threads(*(lambda first=first: ask(first) for first in range(NUM_THREADS)))  # type: ignore[misc]
    return count
