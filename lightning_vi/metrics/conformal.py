"""Metrics of prediction intervals and prediction sets."""

import torch
from torch import Tensor

from lightning_vi.metrics.base import MeanScore

__all__ = ["PredictionIntervalCoverage", "PredictionIntervalWidth", "PredictionSetCoverage", "PredictionSetSize"]


class PredictionIntervalCoverage(MeanScore):
    r"""Fraction of the targets inside intervals that a method gives, ends included.

    Where `IntervalCoverage` takes the interval from a predictive distribution, this takes it as it is. A NaN is
    outside.

    ``update(lower, upper, target)`` takes the ends of the intervals and observed values, all ``[B, ..., D]``.

    Example:
        >>> import torch
        >>> metric = PredictionIntervalCoverage()
        >>> metric.update(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [2.0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better: bool | None = None

    def update(self, lower: Tensor, upper: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            lower: lower ends of the intervals, in the target's units, shape ``[B, ..., D]``.
            upper: their upper ends, the same shape.
            target: observed values, the same shape.

        Raises:
            ValueError: if the shapes differ.
        """
        _check_shape("lower", lower, "target", target)
        _check_shape("upper", upper, "target", target)
        self._accumulate((lower <= target) & (target <= upper))


class PredictionIntervalWidth(MeanScore):
    r"""Mean width of intervals that a method gives, in the target's units.

    ``update(lower, upper)`` takes the ends of the intervals, both ``[B, ..., D]``.

    Example:
        >>> import torch
        >>> metric = PredictionIntervalWidth()
        >>> metric.update(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [2.0]]))
        >>> metric.compute()
        tensor(1.5000)
    """

    def update(self, lower: Tensor, upper: Tensor) -> None:
        """Adds a batch.

        Args:
            lower: lower ends of the intervals, in the target's units, shape ``[B, ..., D]``.
            upper: their upper ends, the same shape.

        Raises:
            ValueError: if the shapes differ.
        """
        _check_shape("lower", lower, "upper", upper)
        dtype = torch.promote_types(upper.dtype, torch.float32)
        self._accumulate(upper.to(dtype) - lower.to(dtype))


class PredictionSetCoverage(MeanScore):
    r"""Fraction of the labels that belong to the prediction set.

    ``update(pred_set, target)`` takes whether each class belongs to the set, ``[B, C]`` or ``[B, C, ...]``, and class
    indices, ``[B]`` or ``[B, ...]``.

    Example:
        >>> import torch
        >>> metric = PredictionSetCoverage()
        >>> metric.update(torch.tensor([[True, False], [True, True]]), torch.tensor([1, 1]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better: bool | None = None

    def update(self, pred_set: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            pred_set: whether each class belongs to the set, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.

        Raises:
            ValueError: if the shapes do not fit.
        """
        _check_shape("one class of pred_set", pred_set[:, 0], "target", target)
        self._accumulate(pred_set.gather(1, target.long().unsqueeze(1)))


class PredictionSetSize(MeanScore):
    r"""Mean number of classes in the prediction set.

    ``update(pred_set)`` takes whether each class belongs to the set, ``[B, C]`` or ``[B, C, ...]``.

    Example:
        >>> import torch
        >>> metric = PredictionSetSize()
        >>> metric.update(torch.tensor([[True, False], [True, True]]))
        >>> metric.compute()
        tensor(1.5000)
    """

    def update(self, pred_set: Tensor) -> None:
        """Adds a batch.

        Args:
            pred_set: whether each class belongs to the set, shape ``[B, C]`` or ``[B, C, ...]``.
        """
        self._accumulate(pred_set.sum(1))


def _check_shape(name: str, values: Tensor, other: str, reference: Tensor) -> None:
    if values.shape != reference.shape:
        raise ValueError(f"{name} must have the shape of {other} {list(reference.shape)}, got {list(values.shape)}")
