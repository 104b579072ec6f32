"""Metrics of the quantiles and the distribution function of a predictive mixture."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_vi.errors import InputValueError
from lightning_vi.functional.mixture import Mixture, mixture_quantile
from lightning_vi.functional.quantile_scores import (
    Calibrated,
    Norm,
    calibration_gap,
    cdf_at,
    interval_score,
    miscalibration_area,
    pinball_loss,
    shares_below,
)
from lightning_vi.functional.scoring import gaussian_mixture_cdf, gaussian_mixture_quantile
from lightning_vi.metrics.base import MeanScore

__all__ = ["IntervalScore", "MiscalibrationArea", "PinballLoss", "QuantileCalibrationError", "Sharpness"]

DECILES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class PinballLoss(MeanScore):
    r"""Mean pinball loss of quantiles of a mixture, in the target's units.

    .. math::
        \frac1L \sum_l \max(\tau_l (y - q_l), (\tau_l - 1) (y - q_l))

    Koenker and Bassett (1978), see `lightning_vi.functional.pinball_loss`. A proper score; lower is better.

    Args:
        levels: probabilities :math:`\tau_l` below the quantiles, strictly between 0 and 1.

    Raises:
        ValueError: if there are no levels or one is outside (0, 1).

    Example:
        >>> import torch
        >>> metric = PinballLoss([0.5])
        >>> metric.update(torch.zeros(3, 2, 1), torch.ones(3, 2, 1), torch.tensor([[0.0], [1.0]]))
        >>> metric.compute()
        tensor(0.2500)
    """

    def __init__(self, levels: Sequence[float] = DECILES, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.levels = tuple(levels)
        if not self.levels or not all(0 < level < 1 for level in self.levels):
            raise InputValueError(f"levels must be numbers strictly between 0 and 1, got {list(levels)}")

    def update(
        self,
        means: Tensor,
        stds: Tensor,
        target: Tensor,
        mixture: Mixture | None = None,
        observed: Tensor | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            means: means of the components, in the target's units, shape ``[S, B, ..., D]``.
            stds: standard deviations of the components, in the target's units, the same shape.
            target: observed values, shape ``[B, ..., D]``.
            mixture: mixture of the components; None if they are Gaussian.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        quantiles = _quantiles(means, stds, mixture, self.levels)
        levels = quantiles.new_tensor(self.levels).view(-1, *[1] * target.ndim)
        self._accumulate(pinball_loss(quantiles, target.to(quantiles.dtype), levels).mean(0), observed)


class IntervalScore(MeanScore):
    r"""Mean interval score (Winkler score) of the central predictive interval of a mixture, in the target's units.

    .. math::
        S_\alpha(l, u; y) = (u - l) + \frac{2}{\alpha} (l - y)_+ + \frac{2}{\alpha} (y - u)_+, \qquad \alpha = 1 - level

    Gneiting and Raftery (2007), see `lightning_vi.functional.interval_score`. A proper score that takes coverage and
    width into account; lower is better. `PredictionIntervalScore` scores given intervals.

    Args:
        level: probability mass of the interval, strictly between 0 and 1.

    Raises:
        ValueError: if ``level`` is outside (0, 1).

    Example:
        >>> import torch
        >>> metric = IntervalScore(level=0.95)
        >>> metric.update(torch.zeros(3, 2, 1), torch.ones(3, 2, 1), torch.tensor([[0.0], [2.0]]))
        >>> metric.compute()
        tensor(4.7206)
    """

    def __init__(self, level: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0.0 < level < 1.0:
            raise InputValueError(f"level must lie strictly between 0 and 1, got {level!r}")
        self.level = level

    def update(
        self,
        means: Tensor,
        stds: Tensor,
        target: Tensor,
        mixture: Mixture | None = None,
        observed: Tensor | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            means: means of the components, in the target's units, shape ``[S, B, ..., D]``.
            stds: standard deviations of the components, in the target's units, the same shape.
            target: observed values, shape ``[B, ..., D]``.
            mixture: mixture of the components; None if they are Gaussian.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        tail = (1 - self.level) / 2
        lower, upper = _quantiles(means, stds, mixture, [tail, 1 - tail])
        self._accumulate(interval_score(lower, upper, target, self.level), observed)


class _CalibrationCurve(Metric):
    """Base class of metrics of the observed coverage at all levels."""

    is_differentiable: bool = False
    higher_is_better: bool = False
    full_state_update: bool = False

    below: Tensor
    count: Tensor

    def __init__(self, num_levels: int, kind: Calibrated, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(num_levels, bool) or not isinstance(num_levels, int) or num_levels < 2:
            raise InputValueError(f"num_levels must be an integer of at least 2, got {num_levels!r}")
        shares_below(torch.zeros(1), torch.zeros(1), kind)  # checks the kind
        self.num_levels = num_levels
        self.kind: Calibrated = kind
        self.add_state("below", default=torch.zeros(num_levels), dist_reduce_fx="sum")
        self.add_state("count", default=torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self,
        means: Tensor,
        stds: Tensor,
        target: Tensor,
        mixture: Mixture | None = None,
        observed: Tensor | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            means: means of the components, in the target's units, shape ``[S, B, ..., D]``.
            stds: standard deviations of the components, in the target's units, the same shape.
            target: observed values, shape ``[B, ..., D]``.
            mixture: mixture of the components; None if they are Gaussian.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        at, below = (gaussian_mixture_cdf(means, stds, target), None) if mixture is None else cdf_at(mixture, target)
        shares = shares_below(at, self._levels(at.dtype), self.kind, below).flatten(1)
        if observed is not None:
            shares = torch.where(observed.flatten(), shares, 0)
        self.below = self.below + shares.sum(1).to(self.below.dtype)
        self.count = self.count + (at.numel() if observed is None else observed.sum())

    def compute(self) -> Tensor:
        """Returns the value of the metric, a scalar tensor; NaN without data."""
        return self._summarize(self.below / self.count, self._levels(self.below.dtype))

    @abstractmethod
    def _summarize(self, shares: Tensor, levels: Tensor) -> Tensor:
        """Returns the value of the metric, given the coverage at each level."""

    def _levels(self, dtype: torch.dtype) -> Tensor:
        return torch.linspace(0, 1, self.num_levels, dtype=dtype, device=self.below.device)


class QuantileCalibrationError(_CalibrationCurve):
    r"""Difference of observed and nominal coverage of the quantiles or central intervals of a mixture, over all levels.

    .. math::
        \frac1L \sum_l |\hat p_l - p_l|, \qquad \hat p_l = \frac1N \sum_n 1\{F_n(y_n) \le p_l\}

    Kuleshov, Fenner and Ermon (2018), "Accurate Uncertainties for Deep Learning Using Calibrated Regression". Lower is
    better. It is not a proper score: the distribution of all targets, for any input, reaches 0. Equal to
    `mean_absolute_calibration_error` and `root_mean_squared_calibration_error` of uncertainty-toolbox for one Gaussian.
    A count is spread out evenly between the distribution function below and at it, see
    `lightning_vi.functional.shares_below`.

    Args:
        num_levels: number of levels L, evenly spaced from 0 to 1.
        norm: ``"l1"``, ``"l2"`` (root mean square) or ``"max"``.
        kind: ``"quantile"`` for :math:`F(y) \le p`, or ``"interval"`` for the central interval of probability p.

    Raises:
        ValueError: if ``num_levels`` is below 2, or ``norm`` or ``kind`` is unknown.

    Example:
        >>> import torch
        >>> metric = QuantileCalibrationError(num_levels=3)
        >>> metric.update(torch.zeros(1, 2, 1), torch.ones(1, 2, 1), torch.tensor([[1.0], [2.0]]))
        >>> metric.compute()  # none of two targets is below the median
        tensor(0.1667)
    """

    def __init__(self, num_levels: int = 100, norm: Norm = "l1", kind: Calibrated = "quantile", **kwargs: Any) -> None:
        super().__init__(num_levels, kind, **kwargs)
        calibration_gap(torch.zeros(1), torch.zeros(1), norm)  # checks the norm
        self.norm: Norm = norm

    def _summarize(self, shares: Tensor, levels: Tensor) -> Tensor:
        return calibration_gap(shares, levels, self.norm)


class MiscalibrationArea(_CalibrationCurve):
    r"""Area between the calibration curve of a mixture and the diagonal, :math:`\int_0^1 |\hat p(p) - p|\, dp`.

    Tran et al. (2020), see `lightning_vi.functional.miscalibration_area`; the number in the title of
    `plot_calibration`. At most 1/2; lower is better.

    Args:
        num_levels: number of levels, evenly spaced from 0 to 1.
        kind: ``"interval"`` for central intervals of probability p, or ``"quantile"`` for :math:`F(y) \le p`.

    Raises:
        ValueError: if ``num_levels`` is below 2 or ``kind`` is unknown.

    Example:
        >>> import torch
        >>> metric = MiscalibrationArea(num_levels=3)
        >>> metric.update(torch.zeros(1, 1, 1), torch.ones(1, 1, 1), torch.tensor([[2.0]]))
        >>> metric.compute()  # the interval of probability 1/2 misses the target
        tensor(0.2500)
    """

    def __init__(self, num_levels: int = 100, kind: Calibrated = "interval", **kwargs: Any) -> None:
        super().__init__(num_levels, kind, **kwargs)

    def _summarize(self, shares: Tensor, levels: Tensor) -> Tensor:
        return miscalibration_area(shares, levels)


class Sharpness(MeanScore):
    r"""Root mean square of the predictive standard deviation of a mixture, in the target's units.

    .. math::
        \sqrt{\frac{1}{N D} \sum_{n, d} \mathrm{Var}[y_{nd} \mid x_n]}

    The sharpness of uncertainty-toolbox. Of two calibrated predictions the sharper one is better; by itself it says
    nothing, because a prediction may be sharp and wrong.

    Example:
        >>> import torch
        >>> metric = Sharpness()
        >>> metric.update(torch.tensor([[[1.0]], [[-1.0]]]), torch.ones(2, 1, 1))
        >>> metric.compute()
        tensor(1.4142)
    """

    def update(self, means: Tensor, stds: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            means: means of the components, in the target's units, shape ``[S, B, ..., D]``.
            stds: standard deviations of the components, in the target's units, the same shape.
            observed: True for the elements of the target to score, shape ``[B, ..., D]``; by default all.

        Raises:
            ValueError: if the shapes differ.
        """
        if means.shape != stds.shape:
            raise InputValueError(f"stds must have the shape of means {list(means.shape)}, got {list(stds.shape)}")
        means, stds = (moment.to(torch.promote_types(moment.dtype, torch.float32)) for moment in (means, stds))
        self._accumulate(((means - means.mean(0)).square() + stds.square()).mean(0), observed)

    def _summarize(self, mean: Tensor) -> Tensor:
        return mean.sqrt()


def _quantiles(means: Tensor, stds: Tensor, mixture: Mixture | None, levels: Sequence[float]) -> Tensor:
    if mixture is None:
        return gaussian_mixture_quantile(means, stds, levels)
    return mixture_quantile(mixture, levels)
