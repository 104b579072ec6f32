"""Metrics of how an uncertainty ranks the data: selective prediction and out-of-distribution detection."""

import math
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

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
    r"""Area under the risk-coverage curve, with the risk as the mean loss of the most certain data.

    .. math::
        \mathrm{AURC} = \frac{1}{N} \sum_{k=1}^{N} \frac{1}{k} \sum_{i=1}^{k} \ell_{(i)}

    Geifman, Uziel and El-Yaniv (2019), "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers". In the
    loss's unit; lower is better. Equal uncertainties count as the average over their orders, see
    `area_under_risk_coverage`.

    A rank needs all data at once, so two numbers a datum are kept, in float32, until `reset`.

    ``update(uncertainty, loss)`` takes both of shape ``[B]``.

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
            uncertainty: larger is less certain, shape ``[B]``.
            loss: what each prediction costs, shape ``[B]``.

        Raises:
            ValueError: if a shape is not ``[B]``.
        """
        _append(self, uncertainty=uncertainty, loss=loss)

    def compute(self) -> Tensor:
        """Returns the area, a scalar tensor; NaN where nothing was added."""
        uncertainty, loss = _cat(self, self.uncertainty), _cat(self, self.loss)
        return self._area(uncertainty, loss) if len(loss) else _nan(self)

    def _area(self, uncertainty: Tensor, loss: Tensor) -> Tensor:
        return area_under_risk_coverage(uncertainty, loss)


class ExcessAURC(AURC):
    r"""Excess area under the risk-coverage curve (E-AURC): `AURC` minus that of the best order.

    .. math::
        \text{E-AURC} = \mathrm{AURC}(u, \ell) - \mathrm{AURC}(\ell, \ell)

    Geifman, Uziel and El-Yaniv (2019), see `AURC`. It judges the ranking alone, where `AURC` judges the losses as
    well: 0 for the order of the losses themselves; lower is better.

    ``update(uncertainty, loss)`` takes both of shape ``[B]``.

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
    r"""Area under the ROC curve of a detector of out-of-distribution data.

    .. math::
        \mathrm{AUROC} = P(s_\mathrm{out} > s_\mathrm{in}) + \tfrac12 P(s_\mathrm{out} = s_\mathrm{in})

    Out-of-distribution is the positive class, and a larger score speaks for it; ties count half. 1 is perfect, 1/2
    is chance. See `lightning_vi.functional.auroc`.

    A rank needs all data at once, so two numbers a datum are kept, in float32, until `reset`.

    ``update(scores, target)`` takes scores ``[B]`` and labels ``[B]``, 1 or True for out-of-distribution data.

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
            scores: larger is more foreign, shape ``[B]``.
            target: 1 or True for out-of-distribution data, 0 or False for others, shape ``[B]``.

        Raises:
            ValueError: if a shape is not ``[B]``.
            TypeError: if ``target`` is neither integer nor boolean.
        """
        if target.is_floating_point() or target.is_complex():
            raise TypeError(f"target must hold integers 0 and 1 or booleans, got dtype {target.dtype}")
        _append(self, scores=scores, target=target.bool())

    def compute(self) -> Tensor:
        """Returns the area or rate, a scalar tensor; NaN where one of the two kinds of data is missing."""
        scores, is_out = _cat(self, self.scores), _cat(self, self.target).bool()
        scores_in, scores_out = scores[~is_out], scores[is_out]
        return self._value(scores_in, scores_out) if len(scores_in) and len(scores_out) else _nan(self)

    def _value(self, scores_in: Tensor, scores_out: Tensor) -> Tensor:
        return auroc(scores_in, scores_out)


class OODFalsePositiveRate(OODAUROC):
    r"""Share of in-distribution data that is flagged where 95% of the out-of-distribution data is (FPR95).

    .. math::
        \mathrm{FPR} = P(s_\mathrm{in} \ge t), \qquad
        t = \max \{ t : P(s_\mathrm{out} \ge t) \ge \text{true\_positive\_rate} \}

    Out-of-distribution is the positive class, and a larger score speaks for it; 0 is perfect. See
    `lightning_vi.functional.false_positive_rate`, also for the other convention.

    ``update(scores, target)`` takes scores ``[B]`` and labels ``[B]``, 1 or True for out-of-distribution data.

    Args:
        true_positive_rate: the share of out-of-distribution data to flag, above 0 and at most 1.
        **kwargs: options of every torchmetrics metric.

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
    """Adds a batch to list states of the same names, all in one dtype: ranks without data send an empty one."""
    shapes = {name: list(tensor.shape) for name, tensor in batch.items()}
    if any(tensor.ndim != 1 for tensor in batch.values()) or len({len(tensor) for tensor in batch.values()}) > 1:
        raise ValueError(f"{' and '.join(batch)} must have the same shape [B], got {shapes}")
    for name, tensor in batch.items():
        getattr(metric, name).append(tensor.detach().to(metric.dtype))


def _cat(metric: Metric, state: States) -> Tensor:
    return dim_zero_cat(state) if len(state) else torch.empty(0, device=metric.device, dtype=metric.dtype)


def _nan(metric: Metric) -> Tensor:
    return torch.full((), math.nan, device=metric.device, dtype=metric.dtype)
