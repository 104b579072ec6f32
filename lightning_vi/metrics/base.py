"""The mean of a score over all data, as a torchmetrics metric."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["MeanScore"]


class MeanScore(Metric):
    """Averages a score over everything that `update` was given; base of the metrics that are means.

    The value does not depend on how the data was cut into batches or spread over ranks. The running sum is
    float32, because MPS has no float64, and the count an exact integer; scores are summed in float32 whatever
    the inputs were. Where sums of very many batches need more digits, ``metric.set_dtype(torch.float64)``.

    A subclass writes `update`, which scores a batch and hands the scores to `_accumulate`, and may write
    `_summarise`.

    Example:
        >>> import torch
        >>> class MeanSquare(MeanScore):
        ...     def update(self, values: Tensor) -> None:
        ...         self._accumulate(values.square())
        >>> metric = MeanSquare()
        >>> metric.update(torch.tensor([1.0, 2.0]))
        >>> metric.update(torch.tensor([4.0]))
        >>> metric.compute()
        tensor(7.)
    """

    is_differentiable: bool = False
    higher_is_better: bool | None = False
    full_state_update: bool = False

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", default=torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def compute(self) -> Tensor:
        """Returns the metric's value, a scalar tensor; NaN where no score was accumulated."""
        return self._summarise(self.total / self.count)

    def _accumulate(self, scores: Tensor) -> None:
        """Adds scores of any shape, each with the same weight."""
        # Not in place: a state that Lightning reset in inference mode may be updated outside it.
        self.total = self.total + scores.sum(dtype=self.total.dtype)
        self.count = self.count + scores.numel()

    def _summarise(self, mean: Tensor) -> Tensor:
        """Returns the metric's value from the mean score."""
        return mean
