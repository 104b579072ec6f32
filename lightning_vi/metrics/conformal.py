"""Coverage and size of prediction intervals and prediction sets."""

from typing import Any

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.quantile_scores import interval_score
from lightning_vi.metrics.base import MeanScore

__all__ = [
    "PredictionIntervalCoverage",
    "PredictionIntervalScore",
    "PredictionIntervalWidth",
    "PredictionRegionCoverage",
    "PredictionSetCoverage",
    "PredictionSetRisk",
    "PredictionSetSize",
]


class PredictionIntervalCoverage(MeanScore):
    """Fraction of the targets inside given prediction intervals, endpoints included.

    `IntervalCoverage` computes the interval from a predictive distribution instead. NaN counts as outside.

    Example:
        >>> import torch
        >>> metric = PredictionIntervalCoverage()
        >>> metric.update(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [1.0]]), torch.tensor([[1.0], [2.0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better: bool | None = None

    def update(self, lower: Tensor, upper: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            lower: lower endpoints, in the target's units, shape ``[B, ..., D]``.
            upper: upper endpoints, the same shape.
            target: observed values, the same shape.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes differ.
        """
        _check_shape("lower", lower, "target", target)
        _check_shape("upper", upper, "target", target)
        self._accumulate((lower <= target) & (target <= upper), observed)


class PredictionIntervalWidth(MeanScore):
    """Mean width of given prediction intervals, in the target's units.

    Example:
        >>> import torch
        >>> metric = PredictionIntervalWidth()
        >>> metric.update(torch.tensor([[0.0], [0.0]]), torch.tensor([[1.0], [2.0]]))
        >>> metric.compute()
        tensor(1.5000)
    """

    def update(self, lower: Tensor, upper: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            lower: lower endpoints, in the target's units, shape ``[B, ..., D]``.
            upper: upper endpoints, the same shape.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes differ.
        """
        _check_shape("lower", lower, "upper", upper)
        dtype = torch.promote_types(upper.dtype, torch.float32)
        self._accumulate(upper.to(dtype) - lower.to(dtype), observed)


class PredictionRegionCoverage(MeanScore):
    """Fraction of the data all of whose targets are inside their prediction intervals.

    Args:
        target_dim: dimension of the targets: -1, or 1 for images ``[B, D, H, W]``.

    Example:
        >>> import torch
        >>> metric = PredictionRegionCoverage()
        >>> metric.update(torch.zeros(2, 2), torch.ones(2, 2), torch.tensor([[0.5, 1.0], [0.5, 2.0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better: bool | None = None

    def __init__(self, target_dim: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_dim = target_dim

    def update(self, lower: Tensor, upper: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            lower: lower endpoints, in the target's units, shape ``[B, ..., D]``.
            upper: upper endpoints, the same shape.
            target: observed values, the same shape.
            observed: True for the elements of the target to score, its shape; by default all. Data without any are left
                out.

        Raises:
            ValueError: if the shapes differ.
        """
        _check_shape("lower", lower, "target", target)
        _check_shape("upper", upper, "target", target)
        inside = (lower <= target) & (target <= upper)
        if observed is None:
            self._accumulate(inside.all(self.target_dim))
        else:
            self._accumulate((inside | ~observed).all(self.target_dim), observed.any(self.target_dim))


class PredictionIntervalScore(MeanScore):
    r"""Mean interval score (Winkler score) of given prediction intervals, in the target's units.

    .. math::
        S_\alpha(l, u; y) = (u - l) + \frac{2}{\alpha} (l - y)_+ + \frac{2}{\alpha} (y - u)_+, \qquad \alpha = 1 - level

    See `lightning_vi.functional.interval_score`. It takes coverage and width into account; lower is better.
    `IntervalScore` computes the interval from a predictive distribution instead.

    Args:
        level: nominal coverage of the intervals, strictly between 0 and 1.

    Raises:
        ValueError: if ``level`` is outside (0, 1).

    Example:
        >>> import torch
        >>> metric = PredictionIntervalScore(level=0.5)
        >>> metric.update(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([[0.5], [1.5]]))
        >>> metric.compute()
        tensor(2.)
    """

    def __init__(self, level: float = 0.9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0.0 < level < 1.0:
            raise InputValueError(f"level must lie strictly between 0 and 1, got {level!r}")
        self.level = level

    def update(self, lower: Tensor, upper: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            lower: lower endpoints, in the target's units, shape ``[B, ..., D]``.
            upper: upper endpoints, the same shape.
            target: observed values, the same shape.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes differ.
        """
        self._accumulate(interval_score(lower, upper, target, self.level), observed)


class PredictionSetCoverage(MeanScore):
    """Fraction of the labels inside the prediction set.

    Example:
        >>> import torch
        >>> metric = PredictionSetCoverage()
        >>> metric.update(torch.tensor([[True, False], [True, True]]), torch.tensor([1, 1]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better: bool | None = None

    def update(self, pred_set: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            pred_set: membership of each class, boolean, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        _check_shape("one class of pred_set", pred_set[:, 0], "target", target)
        labels = target.long() if observed is None else target.long() * observed
        self._accumulate(pred_set.gather(1, labels.unsqueeze(1)).squeeze(1), observed)


class PredictionSetSize(MeanScore):
    """Mean number of classes in the prediction set.

    Example:
        >>> import torch
        >>> metric = PredictionSetSize()
        >>> metric.update(torch.tensor([[True, False], [True, True]]))
        >>> metric.compute()
        tensor(1.5000)
    """

    def update(self, pred_set: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            pred_set: membership of each class, boolean, shape ``[B, C]`` or ``[B, C, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.
        """
        self._accumulate(pred_set.sum(1), observed)


class PredictionSetRisk(MeanScore):
    """Mean share of the labels of a datum outside of their prediction sets, such as the missed pixels of an image.

    For a mask this is the false negative rate. A datum without labels to find has a share of zero.

    Args:
        positive_class: class whose labels are counted; None counts those of all classes.

    Example:
        >>> import torch
        >>> metric = PredictionSetRisk(positive_class=1)
        >>> sets = torch.tensor([[[True, True, True], [True, False, False]]])  # one row of three pixels
        >>> metric.update(sets, torch.tensor([[1, 1, 0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, positive_class: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.positive_class = positive_class

    def update(self, pred_set: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            pred_set: membership of each class, boolean, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        _check_shape("one class of pred_set", pred_set[:, 0], "target", target)
        counted = torch.ones_like(target, dtype=torch.bool) if observed is None else observed
        if self.positive_class is not None:
            counted = counted & (target == self.positive_class)
        labels = torch.where(counted, target, 0).long()
        missed = counted & ~pred_set.gather(1, labels.unsqueeze(1)).squeeze(1)
        size = [part.unsqueeze(-1).flatten(1).sum(1) for part in (missed, counted)]
        self._accumulate(size[0] / size[1].clamp_min(1))


def _check_shape(name: str, values: Tensor, other: str, reference: Tensor) -> None:
    if values.shape != reference.shape:
        raise InputValueError(
            f"{name} must have the shape of {other} {list(reference.shape)}, got {list(values.shape)}"
        )
