"""A predictive distribution that can be asked from any number of threads."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor

from lightning_vi.core.predictive import Predictive
from lightning_vi.likelihoods import Prediction


class LockedPredictive(Predictive):
    """Another predictive distribution, asked by one thread at a time.

    Args:
        inner: The distribution.
        lock: Returns a context manager in which no other thread predicts with the same method.
    """

    def __init__(self, inner: Predictive, lock: Callable[[], AbstractContextManager[None]]) -> None:
        self.inner = inner
        self._lock = lock

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        with self._lock():
            return self.inner.prediction(return_samples=return_samples)

    def log_probs(self) -> Tensor:  # noqa: D102
        with self._lock():
            return self.inner.log_probs()

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        with self._lock():
            return self.inner.metric_inputs(target)

    def keep(self) -> None:  # noqa: D102
        with self._lock():
            self.inner.keep()

    def followed(self, target: Tensor) -> Predictive:  # noqa: D102
        with self._lock():
            inner = self.inner.followed(target)
        return self if inner is self.inner else LockedPredictive(inner, self._lock)
