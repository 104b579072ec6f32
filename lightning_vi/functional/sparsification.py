r"""Sparsification: how fast the error of a regression falls as its most uncertain predictions are left out."""

from typing import Literal, get_args

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.selective import risk_coverage_curve

__all__ = ["ErrorNorm", "area_under_sparsification_error", "sparsification_curve"]

ErrorNorm = Literal["rmse", "mae"]


def sparsification_curve(uncertainty: Tensor, error: Tensor, norm: ErrorNorm = "rmse") -> tuple[Tensor, Tensor]:
    r"""Returns the error of the most certain data at each coverage.

    Ilg et al. (2018), "Uncertainty Estimates and Multi-Hypotheses Networks for Optical Flow", plot it over the removed
    share, one minus the coverage. Ties are averaged as in `lightning_vi.functional.risk_coverage_curve`.

    Args:
        uncertainty: larger is less certain, any unit, shape ``[N]``.
        error: difference of prediction and target, with or without sign, in the target's units, shape ``[N]``.
        norm: ``"rmse"`` or ``"mae"``.

    Returns:
        ``(coverage, error)``, both of shape ``[N]``: 1/N, 2/N, ..., 1, and the error of the data kept in the target's
        units.

    Raises:
        ValueError: if the shapes are not ``[N]``, N is 0 or ``norm`` is unknown.

    Example:
        >>> sparsification_curve(torch.tensor([0.1, 0.2]), torch.tensor([3.0, 4.0]), "mae")
        (tensor([0.5000, 1.0000]), tensor([3.0000, 3.5000]))
    """
    if norm not in get_args(ErrorNorm):
        raise InputValueError(f"norm must be one of {list(get_args(ErrorNorm))}, got {norm!r}")
    error = error.to(torch.promote_types(error.dtype, torch.float32))
    coverage, risk = risk_coverage_curve(uncertainty, error.square() if norm == "rmse" else error.abs())
    return coverage, risk.sqrt() if norm == "rmse" else risk


def area_under_sparsification_error(
    uncertainty: Tensor, error: Tensor, norm: ErrorNorm = "rmse", normalized: bool = True
) -> Tensor:
    r"""Returns the area under the sparsification error (AUSE): the distance from the curve of the best order.

    .. math::
        \mathrm{AUSE} = \frac{1}{N} \sum_{k=1}^{N} \frac{e_k(u) - e_k(|y - \hat y|)}{e_N}

    where :math:`e_k(u)` is the error of the k data with the smallest uncertainty u. Ilg et al. (2018), see
    `sparsification_curve`. 0 if the uncertainty ranks the data as their errors do. Without normalization, ``"mae"`` is
    `lightning_vi.functional.excess_area_under_risk_coverage` of the absolute errors.

    Args:
        uncertainty: larger is less certain, any unit, shape ``[N]``.
        error: difference of prediction and target, with or without sign, in the target's units, shape ``[N]``.
        norm: ``"rmse"`` or ``"mae"``.
        normalized: whether to divide by the error of all data, which makes methods of different accuracy comparable.

    Returns:
        The area, a scalar tensor; in the target's units without normalization.

    Raises:
        ValueError: if the shapes are not ``[N]``, N is 0 or ``norm`` is unknown.

    Example:
        >>> area_under_sparsification_error(torch.tensor([2.0, 1.0]), torch.tensor([0.0, -4.0]), "mae")
        tensor(1.)
    """
    curve = sparsification_curve(uncertainty, error, norm)[1]
    best = sparsification_curve(error.abs(), error, norm)[1]
    area = (curve - best).mean().clamp_min(0)
    return area / curve[-1].clamp_min(torch.finfo(curve.dtype).tiny) if normalized else area
