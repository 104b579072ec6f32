"""Base class of the metrics that average a score over the data."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["MeanScore"]


class MeanScore(Metric):
    """Base class of metrics that average a score over all data.

    The running sum is float32, whatever the dtype of the inputs, because MPS has no float64; the count is an exact
    integer. Call ``metric.set_dtype(torch.float64)`` if a sum over very many batches needs more digits.

    Subclasses implement `update`, which computes the scores of a batch and passes them to `_accumulate`, and may
    override `_summarize`, which maps the mean score to the value of the metric.

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
        """Returns the value of the metric, a scalar tensor; NaN if no score was accumulated."""
        return self._summarize(self.total / self.count)

    def _accumulate(self, scores: Tensor, observed: Tensor | None = None) -> None:
        """Adds scores of any shape, all with the same weight; only those where `observed` is True, if it is given."""
        # Not in-place: a state that Lightning has reset in inference mode may be updated outside of it.
        if observed is None:
            self.total = self.total + scores.sum(dtype=self.total.dtype)
            self.count = self.count + scores.numel()
        else:
            self.total = self.total + torch.where(observed, scores, 0).sum(dtype=self.total.dtype)
            self.count = self.count + observed.sum()

    def _summarize(self, mean: Tensor) -> Tensor:
        """Returns the value of the metric, given the mean score."""
        return mean
