"""Metrics of the predictive mean."""

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_vi.errors import InputValueError
from lightning_vi.metrics.base import MeanScore

__all__ = ["MeanAbsoluteError", "R2Score", "RootMeanSquaredError"]


class RootMeanSquaredError(MeanScore):
    r"""Root mean squared error over all data and targets, in the target's units.

    .. math::
        \mathrm{RMSE} = \sqrt{\frac{1}{N D} \sum_{n, d} (\hat y_{nd} - y_{nd})^2}

    The same value as ``torchmetrics.MeanSquaredError(squared=False)``, which however sums half-precision errors in half
    precision and overflows at 65504.

    Example:
        >>> import torch
        >>> metric = RootMeanSquaredError()
        >>> metric.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]))
        >>> metric.compute()
        tensor(1.4142)
    """

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: predictive means, in the target's units, shape ``[B, ..., D]``.
            target: observed values, the same shape.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes differ.
        """
        self._accumulate(_error(preds, target).square(), observed)

    def _summarize(self, mean: Tensor) -> Tensor:
        return mean.sqrt()


class MeanAbsoluteError(MeanScore):
    r"""Mean absolute error over all data and targets, in the target's units.

    .. math::
        \mathrm{MAE} = \frac{1}{N D} \sum_{n, d} |\hat y_{nd} - y_{nd}|

    Example:
        >>> import torch
        >>> metric = MeanAbsoluteError()
        >>> metric.update(torch.tensor([[1.0], [2.0]]), torch.tensor([[1.0], [4.0]]))
        >>> metric.compute()
        tensor(1.)
    """

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: predictive means, in the target's units, shape ``[B, ..., D]``.
            target: observed values, the same shape.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes differ.
        """
        self._accumulate(_error(preds, target).abs(), observed)


class R2Score(Metric):
    r"""Coefficient of determination, averaged over the targets.

    .. math::
        R^2 = \frac{1}{D} \sum_{d=1}^{D} \left(
        1 - \frac{\sum_n (y_{nd} - \hat y_{nd})^2}{\sum_n (y_{nd} - \bar y_d)^2} \right)

    1 is perfect; 0 is the score of predicting the mean of the data. With fewer than two rows the score is NaN, without
    a warning. The score of a constant target is 1 if it was predicted exactly and 0 otherwise, as in scikit-learn. All
    leading dimensions count as rows.

    ``torchmetrics.R2Score`` stores the sums of y and of its square, which cancel if the mean of a target is large
    compared with its standard deviation, and treats a target as constant if its total sum of squares is below 1e-4.
    This metric merges means and sums of squared deviations (Chan, Golub and LeVeque, 1983, "Algorithms for Computing
    the Sample Variance"), so that the result depends neither on the offset nor on the units of a target.

    Args:
        num_targets: number of targets D.
        target_dim: dimension of the targets: -1, or 1 for images ``[B, D, H, W]``.

    Raises:
        ValueError: if ``num_targets`` is not a positive integer.

    Example:
        >>> import torch
        >>> metric = R2Score()
        >>> metric.update(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1.0], [2.0], [4.0]]))
        >>> metric.compute()
        tensor(0.7857)
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False

    squared_error: Tensor
    target_moments: Tensor

    def __init__(self, num_targets: int = 1, target_dim: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(num_targets, int) or num_targets < 1:
            raise InputValueError(f"num_targets must be a positive integer, got {num_targets!r}")
        self.num_targets = num_targets
        self.target_dim = target_dim
        self.add_state("squared_error", default=torch.zeros(num_targets), dist_reduce_fx="sum")
        # Per target: count, mean and sum of squared deviations.
        self.add_state("target_moments", default=torch.zeros(3, num_targets), dist_reduce_fx=_merge_all_moments)

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: predictive means, in the target's units, shape ``[B, ..., D]``; ``[B]`` where D is 1.
            target: observed values, the same shape.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes differ or the last dimension is not D.
        """
        residual = self._targets_last(_error(preds, target))
        if residual.shape[-1:] != (self.num_targets,) and (residual.ndim != 1 or self.num_targets != 1):
            raise InputValueError(
                f"preds and target must have num_targets={self.num_targets} entries in dimension {self.target_dim}, "
                f"got shape {list(preds.shape)}"
            )
        residual = residual.reshape(-1, self.num_targets)
        if len(residual) == 0:
            return
        rows = self._targets_last(target).to(residual.dtype).reshape(-1, self.num_targets)
        if observed is None:
            variance, mean = torch.var_mean(rows, 0, correction=0)
            moments = torch.stack([torch.full_like(mean, len(rows)), mean, variance * len(rows)])
        else:
            moments, residual = _observed_moments(
                rows, residual, self._targets_last(observed).reshape(-1, self.num_targets)
            )
        self.target_moments = _merge_moments(self.target_moments, moments.to(self.target_moments.dtype))
        self.squared_error = self.squared_error + residual.square().sum(0, dtype=self.squared_error.dtype)

    def _targets_last(self, values: Tensor) -> Tensor:
        return values.movedim(self.target_dim, -1) if values.dim() > 1 else values

    def compute(self) -> Tensor:
        """Returns the coefficient of determination, a scalar tensor; NaN with fewer than two rows."""
        count, _, deviation = self.target_moments.unbind()
        exact = (self.squared_error == 0).to(deviation.dtype)
        score = torch.where(deviation == 0, exact, 1 - self.squared_error / deviation)
        return torch.where(count < 2, torch.nan, score).mean()


def _error(preds: Tensor, target: Tensor) -> Tensor:
    """Returns the prediction errors in at least float32; shapes must be equal, nothing is broadcast."""
    if preds.shape != target.shape:
        raise InputValueError(f"preds must have the shape of target {list(target.shape)}, got {list(preds.shape)}")
    dtype = torch.promote_types(torch.promote_types(preds.dtype, target.dtype), torch.float32)
    return preds.to(dtype) - target.to(dtype)


def _observed_moments(rows: Tensor, residual: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the (count, mean, sum of squared deviations) of the observed rows, and residuals with zeros elsewhere."""
    zero = rows.new_zeros(())
    count = observed.sum(0).to(rows.dtype)
    mean = torch.where(observed, rows, zero).sum(0) / count.clamp(min=1)
    deviation = torch.where(observed, rows - mean, zero).square().sum(0)
    return torch.stack([count, mean, deviation]), torch.where(observed, residual, zero)


def _merge_moments(first: Tensor, second: Tensor) -> Tensor:
    """Returns the (count, mean, sum of squared deviations) of the union of two sets of rows, all ``[3, D]``."""
    (first_count, first_mean, first_deviation), (count, mean, deviation) = first.unbind(), second.unbind()
    total = first_count + count
    share = count / total.clamp(min=1)
    shift = mean - first_mean
    deviation = deviation.addcmul(shift.square(), first_count * share) + first_deviation
    return torch.stack([total, torch.addcmul(first_mean, shift, share), deviation])


def _merge_all_moments(stacked: Tensor) -> Tensor:
    """Merges the moments of all ranks, ``[R, 3, D]``, into ``[3, D]``."""
    return reduce(_merge_moments, stacked.unbind())
