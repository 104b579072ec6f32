"""Ranking metrics of an uncertainty: selective prediction and out-of-distribution detection."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.selective import (
    area_under_risk_coverage,
    auroc,
    count_that_reaches,
    excess_area_under_risk_coverage,
    false_positive_rate,
)

__all__ = ["AURC", "OODAUROC", "ExcessAURC", "OODFalsePositiveRate"]

States = list[Tensor] | Tensor


class AURC(Metric):
    r"""Area under the risk-coverage curve (AURC) of selective prediction.

    .. math::
        \mathrm{AURC} = \frac{1}{N} \sum_{k=1}^{N} \frac{1}{k} \sum_{i=1}^{k} \ell_{(i)}

    where :math:`\ell_{(i)}` is the loss of the datum with the i-th smallest uncertainty. Geifman, Uziel and El-Yaniv
    (2019), "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers". In units of the loss; lower is better.
    Ties are averaged over their orders, see `lightning_vi.functional.area_under_risk_coverage`.

    Example:
        >>> import torch
        >>> metric = AURC()
        >>> metric.update(torch.tensor([0.1, 0.9]), torch.tensor([0.0, 1.0]))
        >>> metric.update(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))
        >>> metric.compute()
        tensor(0.2708)
    """

    is_differentiable: bool = False
    higher_is_better: bool = False
    full_state_update: bool = False

    uncertainty: States
    loss: States

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("uncertainty", default=[], dist_reduce_fx="cat")
        self.add_state("loss", default=[], dist_reduce_fx="cat")

    def update(self, uncertainty: Tensor, loss: Tensor) -> None:
        """Adds a batch.

        Args:
            uncertainty: larger values are less certain, shape ``[B]``.
            loss: loss of each prediction, shape ``[B]``.

        Raises:
            ValueError: if a shape is not ``[B]``.
        """
        _append(self, uncertainty=uncertainty, loss=loss)

    def compute(self) -> Tensor:
        """Returns the area, a scalar tensor; NaN without data."""
        uncertainty, loss = _cat(self, self.uncertainty), _cat(self, self.loss)
        return self._area(uncertainty, loss) if len(loss) else _nan(self)

    def _area(self, uncertainty: Tensor, loss: Tensor) -> Tensor:
        return area_under_risk_coverage(uncertainty, loss)


class ExcessAURC(AURC):
    r"""Excess area under the risk-coverage curve (E-AURC): `AURC` minus that of the optimal ranking.

    .. math::
        \text{E-AURC} = \mathrm{AURC}(u, \ell) - \mathrm{AURC}(\ell, \ell)

    Geifman, Uziel and El-Yaniv (2019), see `AURC`. It measures the ranking only, whereas `AURC` also depends on the
    level of the losses: 0 if the uncertainty ranks the data as their losses do; lower is better.

    Example:
        >>> import torch
        >>> metric = ExcessAURC()
        >>> metric.update(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0.0, 1.0, 1.0, 0.0]))
        >>> metric.compute()
        tensor(0.0625)
    """

    def _area(self, uncertainty: Tensor, loss: Tensor) -> Tensor:
        return excess_area_under_risk_coverage(uncertainty, loss)


class OODAUROC(Metric):
    r"""Area under the ROC curve (AUROC) of out-of-distribution detection.

    .. math::
        \mathrm{AUROC} = P(s_\mathrm{out} > s_\mathrm{in}) + \tfrac12 P(s_\mathrm{out} = s_\mathrm{in})

    Out-of-distribution data are the positive class and should have the larger scores; ties count one half. 1 is
    perfect, 1/2 is chance. See `lightning_vi.functional.auroc`.

    Example:
        >>> import torch
        >>> metric = OODAUROC()
        >>> metric.update(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0, 0, 0]))
        >>> metric.update(torch.tensor([0.3, 0.4]), torch.tensor([1, 1]))
        >>> metric.compute()
        tensor(0.9167)
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False

    scores: States
    target: States

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("target", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            scores: larger values indicate out-of-distribution data, shape ``[B]``.
            target: 1 or True for out-of-distribution data, 0 or False for in-distribution data, shape ``[B]``.

        Raises:
            ValueError: if a shape is not ``[B]``.
            TypeError: if ``target`` is neither integer nor boolean.
        """
        if target.is_floating_point() or target.is_complex():
            raise InputTypeError(f"target must hold integers 0 and 1 or booleans, got dtype {target.dtype}")
        _append(self, scores=scores, target=target.bool())

    def compute(self) -> Tensor:
        """Returns the value of the metric, a scalar tensor; NaN if either class has no data."""
        scores, is_out = _cat(self, self.scores), _cat(self, self.target).bool()
        scores_in, scores_out = scores[~is_out], scores[is_out]
        return self._value(scores_in, scores_out) if len(scores_in) and len(scores_out) else _nan(self)

    def _value(self, scores_in: Tensor, scores_out: Tensor) -> Tensor:
        return auroc(scores_in, scores_out)


class OODFalsePositiveRate(OODAUROC):
    r"""False positive rate of out-of-distribution detection at a given true positive rate (FPR95 by default).

    .. math::
        \mathrm{FPR} = P(s_\mathrm{in} \ge t), \qquad
        t = \max \{ t : P(s_\mathrm{out} \ge t) \ge \text{true\_positive\_rate} \}

    Out-of-distribution data are the positive class and should have the larger scores; 0 is perfect. See
    `lightning_vi.functional.false_positive_rate`, which also explains the opposite convention.

    Args:
        true_positive_rate: fraction of the out-of-distribution data to detect, above 0 and at most 1.

    Raises:
        ValueError: if ``true_positive_rate`` is outside (0, 1].

    Example:
        >>> import torch
        >>> metric = OODFalsePositiveRate()
        >>> metric.update(torch.tensor([0.1, 0.2, 0.3, 0.4, 0.4, 0.5]), torch.tensor([0, 0, 0, 0, 1, 1]))
        >>> metric.compute()
        tensor(0.2500)
    """

    higher_is_better: bool = False

    def __init__(self, true_positive_rate: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        count_that_reaches(true_positive_rate, 1, "true_positive_rate")
        self.true_positive_rate = true_positive_rate

    def _value(self, scores_in: Tensor, scores_out: Tensor) -> Tensor:
        return false_positive_rate(scores_in, scores_out, self.true_positive_rate)


def _append(metric: Metric, **batch: Tensor) -> None:
    """Appends a batch to the list states of the same names, cast to the dtype of the metric.

    One dtype for all, because a rank without data sends an empty tensor of that dtype.
    """
    shapes = {name: list(tensor.shape) for name, tensor in batch.items()}
    if any(tensor.ndim != 1 for tensor in batch.values()) or len({len(tensor) for tensor in batch.values()}) > 1:
        raise InputValueError(f"{' and '.join(batch)} must have the same shape [B], got {shapes}")
    for name, tensor in batch.items():
        getattr(metric, name).append(tensor.detach().to(metric.dtype))


def _cat(metric: Metric, state: States) -> Tensor:
    return dim_zero_cat(state) if len(state) else torch.empty(0, device=metric.device, dtype=metric.dtype)


def _nan(metric: Metric) -> Tensor:
    return torch.full((), math.nan, device=metric.device, dtype=metric.dtype)
