"""Base classes of metrics: those that average a score over the data, and those that store numbers of each datum."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_vi.errors import InputValueError

__all__ = ["MeanScore", "StoredScores"]


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


class StoredScores(Metric):
    """Base class of metrics that need some numbers of each datum until `reset`, such as rankings.

    Subclasses set `stored`, the names of the numbers, implement `update`, which passes a batch to `_store`, and
    `_value`, which maps the numbers of all data to the value of the metric.

    Example:
        >>> import torch
        >>> class Median(StoredScores):
        ...     stored = ("values",)
        ...     def update(self, values: Tensor) -> None:
        ...         self._store(values=values)
        ...     def _value(self, values: Tensor) -> Tensor:
        ...         return values.median()
        >>> metric = Median()
        >>> metric.update(torch.tensor([1.0, 2.0]))
        >>> metric.update(torch.tensor([4.0]))
        >>> metric.compute()
        tensor(2.)
    """

    is_differentiable: bool = False
    higher_is_better: bool | None = False
    full_state_update: bool = False

    stored: tuple[str, ...]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self.stored:
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def compute(self) -> Tensor:
        """Returns the value of the metric, a scalar tensor; NaN without data."""
        columns = [self._column(name) for name in self.stored]
        return self._value(*columns) if len(columns[0]) else self._nan()

    @abstractmethod
    def _value(self, *columns: Tensor) -> Tensor:
        """Returns the value of the metric, given the numbers of all data, at least one, in the order of `stored`."""

    def _store(self, **batch: Tensor) -> None:
        """Appends a batch, one tensor of shape [B] for each name, cast to the dtype of the metric.

        One dtype and one dimension for all, because a process without data sends an empty tensor of that kind.
        """
        shapes = {name: list(tensor.shape) for name, tensor in batch.items()}
        if any(tensor.ndim != 1 for tensor in batch.values()) or len({len(tensor) for tensor in batch.values()}) > 1:
            raise InputValueError(f"{' and '.join(batch)} must have the same shape [B], got {shapes}")
        for name, tensor in batch.items():
            getattr(self, name).append(tensor.detach().to(self.dtype))

    def _column(self, name: str) -> Tensor:
        batches: list[Tensor] | Tensor = getattr(self, name)
        return dim_zero_cat(batches) if len(batches) else torch.empty(0, device=self.device, dtype=self.dtype)

    def _nan(self) -> Tensor:
        return torch.full((), math.nan, device=self.device, dtype=self.dtype)
