r"""Scores of quantiles and intervals, and the calibration of a predictive distribution function."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.mixture import Mixture

__all__ = [
    "Calibrated",
    "Norm",
    "calibration_gap",
    "interval_score",
    "miscalibration_area",
    "pinball_loss",
    "shares_below",
]

Norm = Literal["l1", "l2", "max"]
Calibrated = Literal["quantile", "interval"]


def pinball_loss(quantile: Tensor, target: Tensor, level: float | Tensor) -> Tensor:
    r"""Returns the pinball loss of a quantile, :math:`\rho_\tau(u) = \max(\tau u, (\tau - 1) u)` for :math:`u = y - q`.

    Koenker and Bassett (1978), "Regression Quantiles". A proper score of the quantile at :math:`\tau`; half of the
    absolute error for the median. Twice its mean over all levels is the CRPS.

    Args:
        quantile: predicted quantiles q, in the target's units, shape ``[...]``.
        target: observed values y, a shape that broadcasts with ``quantile``.
        level: probability :math:`\tau` below the quantile, a number or a tensor that broadcasts.

    Returns:
        Losses in the target's units, the broadcast shape.

    Example:
        >>> pinball_loss(torch.tensor([1.0, 1.0]), torch.tensor([0.0, 3.0]), 0.9)
        tensor([0.1000, 1.8000])
    """
    error = target - quantile
    return torch.maximum(level * error, (level - 1) * error)


def interval_score(lower: Tensor, upper: Tensor, target: Tensor, level: float = 0.95) -> Tensor:
    r"""Returns the interval score of a central prediction interval, also called Winkler score.

    .. math::
        S_\alpha(l, u; y) = (u - l) + \frac{2}{\alpha} (l - y)_+ + \frac{2}{\alpha} (y - u)_+, \qquad
        \alpha = 1 - \mathrm{level}

    Winkler (1972); Gneiting and Raftery (2007), "Strictly Proper Scoring Rules, Prediction, and Estimation", section
    6.2. It rewards narrow intervals and penalizes targets outside of them; lower is better.

    Args:
        lower: lower ends, in the target's units, shape ``[...]``.
        upper: upper ends, the same shape.
        target: observed values, the same shape.
        level: probability of the interval, strictly between 0 and 1.

    Returns:
        Scores in the target's units, shape ``[...]``.

    Raises:
        ValueError: if the shapes differ or ``level`` is outside (0, 1).

    Example:
        >>> interval_score(torch.zeros(3), torch.ones(3), torch.tensor([-1.0, 0.5, 1.5]), level=0.5)
        tensor([5., 1., 3.])
    """
    if not 0.0 < level < 1.0:
        raise InputValueError(f"level must lie strictly between 0 and 1, got {level!r}")
    for name, end in (("lower", lower), ("upper", upper)):
        if end.shape != target.shape:
            raise InputValueError(f"{name} must have the shape of target {list(target.shape)}, got {list(end.shape)}")
    dtype = torch.promote_types(lower.dtype, torch.float32)
    lower, upper, target = lower.to(dtype), upper.to(dtype), target.to(dtype)
    outside = (lower - target).clamp_min(0) + (target - upper).clamp_min(0)
    return upper - lower + 2 / (1 - level) * outside


def shares_below(cdf: Tensor, levels: Tensor, kind: Calibrated = "quantile", below: Tensor | None = None) -> Tensor:
    r"""Returns how much of each target counts as covered at each level.

    Calibrated quantiles at level p are exceeded by a share of 1 - p of the targets; central intervals of probability p
    contain a share of p. With :math:`u = F(y)` these are :math:`u \le p` and :math:`|2 u - 1| \le p`. A count has the
    interval from :math:`F(y - 1)` to :math:`F(y)` in place of u, which is spread out evenly (Czado, Gneiting and Held,
    2009, "Predictive model assessment for count data").

    Args:
        cdf: distribution function at the target, shape ``[...]``.
        levels: L levels p, in ascending order, shape ``[L]``.
        kind: ``"quantile"`` or ``"interval"``.
        below: for counts, the distribution function below the target, the shape of ``cdf``.

    Returns:
        Shares between 0 and 1, shape ``[L, ...]``.

    Raises:
        ValueError: if ``kind`` is unknown.

    Example:
        >>> shares_below(torch.tensor([0.2, 0.9]), torch.tensor([0.5, 0.7]), "interval")
        tensor([[0., 0.],
                [1., 0.]])
    """
    if kind not in get_args(Calibrated):
        raise InputValueError(f"kind must be one of {list(get_args(Calibrated))}, got {kind!r}")
    levels = levels.view(-1, *[1] * cdf.ndim)
    if below is None:
        place = cdf if kind == "quantile" else (2 * cdf - 1).abs()
        return (place.clamp_min(torch.finfo(cdf.dtype).tiny) <= levels).to(cdf.dtype)
    width = (cdf - below).clamp_min(torch.finfo(cdf.dtype).tiny)
    if kind == "quantile":
        return ((levels - below) / width).clamp(0, 1)
    upper, lower = (1 + levels) / 2, (1 - levels) / 2
    return ((upper - below) / width).clamp(0, 1) - ((lower - below) / width).clamp(0, 1)


def calibration_gap(shares: Tensor, levels: Tensor, norm: Norm = "l1") -> Tensor:
    r"""Returns the distance of observed from nominal coverage over a set of levels.

    .. math::
        \frac1L \sum_l |\hat p_l - p_l|, \qquad \sqrt{\frac1L \sum_l (\hat p_l - p_l)^2}, \qquad \max_l |\hat p_l - p_l|

    Kuleshov, Fenner and Ermon (2018), "Accurate Uncertainties for Deep Learning Using Calibrated Regression".

    Args:
        shares: share of the targets at or below the quantile, or inside the interval, of each level, shape ``[L]``.
        levels: the levels, shape ``[L]``.
        norm: ``"l1"``, ``"l2"`` or ``"max"``.

    Returns:
        The error between 0 and 1, a scalar.

    Raises:
        ValueError: if ``norm`` is unknown.

    Example:
        >>> calibration_gap(torch.tensor([0.5, 0.7]), torch.tensor([0.3, 0.6]))
        tensor(0.1500)
    """
    if norm not in get_args(Norm):
        raise InputValueError(f"norm must be one of {list(get_args(Norm))}, got {norm!r}")
    gaps = (shares - levels).abs()
    if norm == "l1":
        return gaps.mean()
    return gaps.square().mean().sqrt() if norm == "l2" else gaps.max()


def miscalibration_area(shares: Tensor, levels: Tensor) -> Tensor:
    r"""Returns the area between the calibration curve and the diagonal, :math:`\int_0^1 |\hat p(p) - p| \, dp`.

    Tran et al. (2020), "Methods for comparing uncertainty quantifications for material property predictions". The curve
    is linear between the levels; segments that cross the diagonal have two triangles.

    Args:
        shares: share of the targets that is covered at each level, shape ``[L]``.
        levels: the levels in ascending order, shape ``[L]``.

    Returns:
        The area, at most 1/2 for levels from 0 to 1, a scalar.

    Example:
        >>> miscalibration_area(torch.tensor([0.0, 1.0, 1.0]), torch.tensor([0.0, 0.5, 1.0]))
        tensor(0.2500)
    """
    gaps, widths = shares - levels, levels.diff()
    first, last = gaps[:-1], gaps[1:]
    total = first.abs() + last.abs()
    crossing = (first.square() + last.square()) / total.clamp_min(torch.finfo(gaps.dtype).tiny)
    return (widths / 2 * torch.where(first * last < 0, crossing, total)).sum()


def cdf_at(mixture: Mixture, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """Returns the distribution function at the target, and for counts also that below it.

    Args:
        mixture: The mixture.
        target: Observed values, shape ``[B, ..., D]``.

    Returns:
        Probabilities of the shape of ``target``; None in place of the second for real values.
    """
    if not mixture.is_count:
        return mixture.cdf(target.unsqueeze(0)).squeeze(0), None
    below, up_to = mixture.cdf(torch.stack([target - 1, target])).unbind()
    return up_to, below
