"""Predictive distributions of a regression with the targets in another dimension."""

from typing import Any

from torch import Tensor

from lightning_vi.core.predictive import Predictive
from lightning_vi.likelihoods import Prediction
from lightning_vi.likelihoods.channels_first import moved_metric_inputs


class MovedPredictive(Predictive):
    """Another predictive distribution with the targets in another dimension.

    Args:
        inner: The distribution.
        source: Dimension of its targets, 1 or -1.
        destination: Where it is moved to, -1 or 1.
    """

    def __init__(self, inner: Predictive, source: int, destination: int) -> None:
        self.inner = inner
        self.source, self.destination = source, destination

    def keep(self) -> None:  # noqa: D102
        self.inner.keep()

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        return self.inner.prediction(return_samples=return_samples).moved(self.source, self.destination)

    def log_probs(self) -> Tensor:  # noqa: D102
        return self.inner.log_probs()

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        inputs = self.inner.metric_inputs(target.movedim(self.destination, self.source))
        return moved_metric_inputs(inputs, self.source, self.destination)
