"""Ranking metrics of an uncertainty: selective prediction and out-of-distribution detection."""

import math
from typing import Any

from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.selective import (
    area_under_generalized_risk_coverage,
    area_under_risk_coverage,
    auroc,
    count_that_reaches,
    coverage_at_risk,
    detection_average_precision,
    excess_area_under_risk_coverage,
    false_positive_rate,
)
from lightning_vi.functional.sparsification import ErrorNorm, area_under_sparsification_error
from lightning_vi.metrics.base import StoredScores

__all__ = [
    "AUGRC",
    "AURC",
    "AUSE",
    "OODAUROC",
    "CoverageAtRisk",
    "ExcessAURC",
    "OODAveragePrecision",
    "OODFalsePositiveRate",
]


class AURC(StoredScores):
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

    stored = ("uncertainty", "loss")

    def update(self, uncertainty: Tensor, loss: Tensor) -> None:
        """Adds a batch.

        Args:
            uncertainty: larger values are less certain, shape ``[B]``.
            loss: loss of each prediction, shape ``[B]``.

        Raises:
            ValueError: if a shape is not ``[B]``.
        """
        self._store(uncertainty=uncertainty, loss=loss)

    def _value(self, *columns: Tensor) -> Tensor:
        return area_under_risk_coverage(*columns)


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

    def _value(self, *columns: Tensor) -> Tensor:
        return excess_area_under_risk_coverage(*columns)


class AUGRC(AURC):
    r"""Area under the generalized risk-coverage curve (AUGRC) of selective prediction.

    .. math::
        \mathrm{AUGRC} = \int_0^1 c\, r(c)\, dc

    Traub et al. (2024), "Overcoming Common Flaws in the Evaluation of Selective Classification Systems". The mean share
    of data that are kept and wrong; errors weigh the same at all coverages. In units of the loss; lower is better. See
    `lightning_vi.functional.area_under_generalized_risk_coverage`.

    Example:
        >>> import torch
        >>> metric = AUGRC()
        >>> metric.update(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0.0, 1.0, 1.0, 0.0]))
        >>> metric.compute()
        tensor(0.1562)
    """

    def _value(self, *columns: Tensor) -> Tensor:
        return area_under_generalized_risk_coverage(*columns)


class CoverageAtRisk(AURC):
    r"""Largest share of the data that may be kept without exceeding a given risk.

    See `lightning_vi.functional.coverage_at_risk`. Higher is better.

    Args:
        risk: largest mean loss of the data kept, in units of the loss.

    Raises:
        ValueError: if ``risk`` is NaN.

    Example:
        >>> import torch
        >>> metric = CoverageAtRisk(risk=0.1)
        >>> metric.update(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.0, 0.0, 1.0, 1.0]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better = True

    def __init__(self, risk: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if math.isnan(risk):
            raise InputValueError(f"risk must be a number, got {risk!r}")
        self.risk = risk

    def _value(self, *columns: Tensor) -> Tensor:
        uncertainty, loss = columns
        return coverage_at_risk(uncertainty, loss, self.risk)


class AUSE(StoredScores):
    r"""Area under the sparsification error (AUSE): how well an uncertainty ranks the errors of a regression.

    .. math::
        \mathrm{AUSE} = \frac{1}{N} \sum_{k=1}^{N} \frac{e_k(u) - e_k(|y - \hat y|)}{e_N}

    where :math:`e_k(u)` is the error of the k data with the smallest uncertainty u. Ilg et al. (2018), "Uncertainty
    Estimates and Multi-Hypotheses Networks for Optical Flow". 0 is perfect. See
    `lightning_vi.functional.area_under_sparsification_error`.

    Args:
        norm: ``"rmse"`` or ``"mae"``.
        normalized: whether to divide by the error of all data.

    Example:
        >>> import torch
        >>> metric = AUSE("mae")
        >>> metric.update(torch.tensor([2.0, 1.0]), torch.tensor([0.0, -4.0]))
        >>> metric.compute()
        tensor(1.)
    """

    stored = ("uncertainty", "error")

    def __init__(self, norm: ErrorNorm = "rmse", normalized: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if norm not in ("rmse", "mae"):
            raise InputValueError(f"norm must be one of ['rmse', 'mae'], got {norm!r}")
        self.norm: ErrorNorm = norm
        self.normalized = normalized

    def update(self, uncertainty: Tensor, error: Tensor) -> None:
        """Adds a batch.

        Args:
            uncertainty: larger values are less certain, shape ``[B]``.
            error: difference of prediction and target, with or without sign, shape ``[B]``.

        Raises:
            ValueError: if a shape is not ``[B]``.
        """
        self._store(uncertainty=uncertainty, error=error)

    def _value(self, *columns: Tensor) -> Tensor:
        uncertainty, error = columns
        return area_under_sparsification_error(uncertainty, error, self.norm, self.normalized)


class OODAUROC(StoredScores):
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

    higher_is_better = True
    stored = ("scores", "target")

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
        self._store(scores=scores, target=target.bool())

    def _value(self, *columns: Tensor) -> Tensor:
        scores, is_out = columns[0], columns[1].bool()
        scores_in, scores_out = scores[~is_out], scores[is_out]
        return self._detection(scores_in, scores_out) if len(scores_in) and len(scores_out) else self._nan()

    def _detection(self, scores_in: Tensor, scores_out: Tensor) -> Tensor:
        return auroc(scores_in, scores_out)


class OODAveragePrecision(OODAUROC):
    r"""Average precision of out-of-distribution detection, an area under the precision-recall curve (AUPR).

    Out-of-distribution data are the positive class and should have the larger scores. 1 is perfect; chance is their
    share of all data. See `lightning_vi.functional.detection_average_precision`.

    Example:
        >>> import torch
        >>> metric = OODAveragePrecision()
        >>> metric.update(torch.tensor([0.1, 0.2, 0.3, 0.3, 0.4]), torch.tensor([0, 0, 0, 1, 1]))
        >>> metric.compute()
        tensor(0.8333)
    """

    def _detection(self, scores_in: Tensor, scores_out: Tensor) -> Tensor:
        return detection_average_precision(scores_in, scores_out)


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

    higher_is_better = False

    def __init__(self, true_positive_rate: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        count_that_reaches(true_positive_rate, 1, "true_positive_rate")
        self.true_positive_rate = true_positive_rate

    def _detection(self, scores_in: Tensor, scores_out: Tensor) -> Tensor:
        return false_positive_rate(scores_in, scores_out, self.true_positive_rate)
