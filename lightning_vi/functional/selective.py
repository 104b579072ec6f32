r"""Rankings of data by uncertainty: risk-coverage curves and out-of-distribution detection.

A model that may abstain keeps the data it is most certain of. Its risk is the mean loss of the data it keeps, its
coverage the fraction that it keeps. A detector flags the data with the largest scores. Both depend on the *order* of
the scores alone: any increasing function of a score gives the same results.

Ties are averaged over all orders of their rows, so the results do not depend on the order of the rows.

Half and bfloat16 inputs are computed, and returned, in float32; counts are exact integers. No function branches on
the values of a tensor, which would synchronize with a GPU. NaN in the inputs gives NaN.
"""

import math

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

__all__ = [
    "area_under_generalized_risk_coverage",
    "area_under_risk_coverage",
    "auroc",
    "coverage_at_risk",
    "excess_area_under_risk_coverage",
    "false_positive_rate",
    "risk_coverage_curve",
]


def risk_coverage_curve(uncertainty: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    r"""Returns the risk of the most certain data at each coverage.

    .. math::
        c_k = \frac{k}{N}, \qquad r_k = \frac{1}{k} \sum_{i=1}^{k} \ell_{(i)}, \qquad k = 1, \dots, N

    where :math:`\ell_{(i)}` is the loss of the datum with the i-th smallest uncertainty. El-Yaniv and Wiener
    (2010), "On the Foundations of Noise-free Selective Classification". Each datum of a tie has the mean loss of
    the tie, so that :math:`r_k` is the expectation over a random order of the tie.

    Args:
        uncertainty: larger is less certain, any unit, shape ``[N]``.
        loss: loss of each prediction, such as 1 for an error and 0 for none, shape ``[N]``.

    Returns:
        ``(coverage, risk)``, both of shape ``[N]``: 1/N, 2/N, ..., 1, and the mean loss of the data kept, in the
        unit of the loss.

    Raises:
        ValueError: if the shapes are not ``[N]`` or N is 0.

    Example:
        >>> coverage, risk = risk_coverage_curve(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0, 1, 1, 0]))
        >>> coverage
        tensor([0.2500, 0.5000, 0.7500, 1.0000])
        >>> risk
        tensor([0.0000, 0.2500, 0.3333, 0.5000])
    """
    _check_vector("uncertainty", uncertainty)
    if loss.shape != uncertainty.shape:
        raise InputValueError(
            f"loss must have the shape of uncertainty {list(uncertainty.shape)}, got {list(loss.shape)}"
        )
    uncertainty, loss = _at_least_float32(uncertainty), _at_least_float32(loss)
    missing = uncertainty.isnan()
    ascending, order = torch.where(missing, math.inf, uncertainty).sort()
    first = torch.searchsorted(ascending, ascending)
    behind = torch.searchsorted(ascending, ascending, right=True)
    sum_of_tie = torch.zeros_like(loss).index_add(0, first, loss[order])
    mean_of_tie = sum_of_tie[first] / (behind - first)
    kept = torch.arange(1, len(loss) + 1, device=loss.device)
    risk = mean_of_tie.cumsum(0) / kept
    return kept.to(loss.dtype) / len(loss), torch.where(missing.any(), math.nan, risk)


def area_under_risk_coverage(uncertainty: Tensor, loss: Tensor) -> Tensor:
    r"""Returns the area under the risk-coverage curve (AURC), the mean of the risks at the N coverages.

    .. math::
        \mathrm{AURC} = \frac{1}{N} \sum_{k=1}^{N} r_k

    Geifman, Uziel and El-Yaniv (2019), "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers". Lower
    is better; an uninformative uncertainty has the mean loss.

    Args:
        uncertainty: larger is less certain, any unit, shape ``[N]``.
        loss: loss of each prediction, shape ``[N]``.

    Returns:
        The area in the unit of the loss, a scalar tensor.

    Raises:
        ValueError: if the shapes are not ``[N]`` or N is 0.

    Example:
        >>> area_under_risk_coverage(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0, 1, 1, 0]))
        tensor(0.2708)
    """
    return risk_coverage_curve(uncertainty, loss)[1].mean()


def excess_area_under_risk_coverage(uncertainty: Tensor, loss: Tensor) -> Tensor:
    r"""Returns the excess area under the risk-coverage curve (E-AURC): the excess over the best order.

    .. math::
        \text{E-AURC} = \mathrm{AURC}(u, \ell) - \mathrm{AURC}(\ell, \ell)

    The best order is that of the losses themselves. The difference makes models of different accuracy comparable;
    Geifman, Uziel and El-Yaniv (2019), see `area_under_risk_coverage`.

    Args:
        uncertainty: larger is less certain, any unit, shape ``[N]``.
        loss: loss of each prediction, shape ``[N]``.

    Returns:
        The difference in the unit of the loss, a scalar tensor; never negative, 0 for the best order.

    Raises:
        ValueError: if the shapes are not ``[N]`` or N is 0.

    Example:
        >>> excess_area_under_risk_coverage(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 0.0, 1.0]))
        tensor(0.)
    """
    best = area_under_risk_coverage(loss, loss)
    return (area_under_risk_coverage(uncertainty, loss) - best).clamp_min(0)


def area_under_generalized_risk_coverage(uncertainty: Tensor, loss: Tensor) -> Tensor:
    r"""Returns the area under the generalized risk-coverage curve (AUGRC).

    .. math::
        \mathrm{AUGRC} = \int_0^1 g(c)\, dc, \qquad g(k / N) = \frac1N \sum_{i=1}^{k} \ell_{(i)}

    Traub et al. (2024), "Overcoming Common Flaws in the Evaluation of Selective Classification Systems". The
    generalized risk g is the share of all data that are kept and wrong: the mean loss times the coverage. In the risk
    of the other areas, errors at small coverages weigh far more than others. The curve is linear between its points.
    For the 0-1 loss the area is :math:`(1 - a)^2 / 2 + (1 - \mathrm{AUROC})\, a (1 - a)` with the accuracy a.

    Args:
        uncertainty: larger is less certain, any unit, shape ``[N]``.
        loss: loss of each prediction, shape ``[N]``.

    Returns:
        The area in the unit of the loss, a scalar tensor; half of the mean loss for an uninformative uncertainty.

    Raises:
        ValueError: if the shapes are not ``[N]`` or N is 0.

    Example:
        >>> area_under_generalized_risk_coverage(torch.tensor([0.1, 0.9, 0.5, 0.5]), torch.tensor([0, 1, 1, 0]))
        tensor(0.1562)
    """
    coverage, risk = risk_coverage_curve(uncertainty, loss)
    generalized = coverage * risk
    return generalized.mean() - generalized[-1] / (2 * len(generalized))


def coverage_at_risk(uncertainty: Tensor, loss: Tensor, risk: float) -> Tensor:
    r"""Returns the largest coverage at which the risk does not exceed a given one.

    .. math::
        \max \{ c_k : r_k \le \text{risk} \}

    Franc, Prusa and Voracek (2023), "Optimal Strategies for Reject Option Classifiers". 1 if all data may be kept, 0 if
    even the most certain ones have a larger risk.

    Args:
        uncertainty: larger is less certain, any unit, shape ``[N]``.
        loss: loss of each prediction, shape ``[N]``.
        risk: largest mean loss of the data kept, in the unit of the loss.

    Returns:
        The coverage between 0 and 1, a scalar tensor.

    Raises:
        ValueError: if the shapes are not ``[N]``, N is 0 or ``risk`` is NaN.

    Example:
        >>> coverage_at_risk(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 0, 1, 0]), risk=0.25)
        tensor(1.)
        >>> coverage_at_risk(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0, 0, 1, 1]), risk=0.1)
        tensor(0.5000)
    """
    if math.isnan(risk):
        raise InputValueError("risk must be a number, got nan")
    coverage, risks = risk_coverage_curve(uncertainty, loss)
    # Risks are ratios that rounding may lift above the exact value.
    limit = risk + 4 * torch.finfo(risks.dtype).eps * abs(risk)
    return torch.where(risks <= limit, coverage, 0).amax() + 0 * risks[-1]


def auroc(scores_in: Tensor, scores_out: Tensor) -> Tensor:
    r"""Returns the area under the ROC curve of a detector of out-of-distribution data.

    .. math::
        \mathrm{AUROC} = P(s_\mathrm{out} > s_\mathrm{in}) + \tfrac12 P(s_\mathrm{out} = s_\mathrm{in})

    for one random datum of each kind: the Mann-Whitney statistic over the number of pairs. Out-of-distribution is the
    positive class, with the larger scores. 1 is perfect, 1/2 is chance. The area stays the same if the classes are
    exchanged and the scores change their sign.

    Time is O(N log N) for N scores in all.

    Args:
        scores_in: scores of in-distribution data, shape ``[N]``.
        scores_out: scores of out-of-distribution data, shape ``[M]``.

    Returns:
        The area between 0 and 1, a scalar tensor.

    Raises:
        ValueError: if a shape is not ``[N]`` or there are no scores.

    Example:
        >>> auroc(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.3, 0.4]))
        tensor(0.9167)
    """
    scores_in, scores_out = _detector_scores(scores_in, scores_out)
    ascending = scores_in.sort().values
    below = torch.searchsorted(ascending, scores_out).sum()
    up_to = torch.searchsorted(ascending, scores_out, right=True).sum()
    area = _ratio(below + up_to, 2 * len(scores_in) * len(scores_out), scores_in.dtype)
    return torch.where(scores_in.isnan().any() | scores_out.isnan().any(), math.nan, area)


def false_positive_rate(scores_in: Tensor, scores_out: Tensor, true_positive_rate: float = 0.95) -> Tensor:
    r"""Returns the false positive rate at a given true positive rate; FPR95 at 0.95.

    .. math::
        \mathrm{FPR} = P(s_\mathrm{in} \ge t), \qquad
        t = \max \{ t : P(s_\mathrm{out} \ge t) \ge \text{true\_positive\_rate} \}

    Out-of-distribution is the positive class, as in Hendrycks, Mazeika and Dietterich (2019), "Deep Anomaly
    Detection with Outlier Exposure": the result is the fraction of in-distribution data flagged by the
    largest threshold that flags 95% of the out-of-distribution data. Scores equal to the threshold are flagged.
    It is the first point of the ROC curve that reaches the rate, without interpolation; 0 is perfect.

    Liang, Li and Srikant (2018), "Enhancing The Reliability of Out-of-distribution Image Detection in Neural
    Networks", call in-distribution positive instead: the fraction of out-of-distribution data accepted where 95% of
    the in-distribution data are. That is ``false_positive_rate(-scores_out, -scores_in)``.

    Args:
        scores_in: scores of in-distribution data, larger is more likely out-of-distribution, shape ``[N]``.
        scores_out: scores of out-of-distribution data, shape ``[M]``.
        true_positive_rate: fraction of out-of-distribution data to flag, above 0 and at most 1.

    Returns:
        The rate between 0 and 1, a scalar tensor.

    Raises:
        ValueError: if a shape is not ``[N]``, there are no scores, or ``true_positive_rate`` is outside (0, 1].

    Example:
        >>> false_positive_rate(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.5]))
        tensor(0.2500)
    """
    scores_in, scores_out = _detector_scores(scores_in, scores_out)
    num_flagged = count_that_reaches(true_positive_rate, len(scores_out), "true_positive_rate")
    threshold = scores_out.sort(descending=True).values[num_flagged - 1]
    rate = _ratio((scores_in >= threshold).sum(), len(scores_in), scores_in.dtype)
    return torch.where(scores_in.isnan().any() | scores_out.isnan().any(), math.nan, rate)


def detection_average_precision(scores_in: Tensor, scores_out: Tensor) -> Tensor:
    r"""Returns the average precision of a detector of out-of-distribution data, an area under its PR curve (AUPR).

    .. math::
        \mathrm{AP} = \frac1M \sum_{m=1}^{M} \frac{|\{s_\mathrm{out} \ge t_m\}|}
            {|\{s_\mathrm{out} \ge t_m\}| + |\{s_\mathrm{in} \ge t_m\}|}, \qquad t_m = s_{\mathrm{out}, m}

    the mean precision at the score of each out-of-distribution datum, as in scikit-learn's `average_precision_score`.
    Out-of-distribution is the positive class, with the larger scores. 1 is perfect; chance is the share of
    out-of-distribution data, so that values depend on how many there are of each kind.

    Args:
        scores_in: scores of in-distribution data, shape ``[N]``.
        scores_out: scores of out-of-distribution data, shape ``[M]``.

    Returns:
        The area between 0 and 1, a scalar tensor.

    Raises:
        ValueError: if a shape is not ``[N]`` or there are no scores.

    Example:
        >>> detection_average_precision(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.3, 0.4]))
        tensor(0.8333)
    """
    scores_in, scores_out = _detector_scores(scores_in, scores_out)
    ascending_in, ascending_out = scores_in.sort().values, scores_out.sort().values
    false = len(scores_in) - torch.searchsorted(ascending_in, ascending_out)
    true = len(scores_out) - torch.searchsorted(ascending_out, ascending_out)
    area = (true.to(scores_in.dtype) / (true + false)).mean()
    return torch.where(scores_in.isnan().any() | scores_out.isnan().any(), math.nan, area)


def count_that_reaches(share: float, total: int, name: str = "share") -> int:
    """Returns the smallest count that is at least a given share of a total.

    Args:
        share: above 0 and at most 1.
        total: at least 1.
        name: name of ``share`` in the error message.

    Returns:
        The smallest k with ``k / total >= share``, unaffected by the rounding of ``share * total``.

    Raises:
        ValueError: if ``share`` is outside (0, 1].

    Example:
        >>> 0.55 * 100, count_that_reaches(0.55, 100)
        (55.00000000000001, 55)
    """
    if not 0.0 < share <= 1.0:
        raise InputValueError(f"{name} must be above 0 and at most 1, got {share!r}")
    count = max(1, math.floor(share * total) - 1)
    while count / total < share:
        count += 1
    return count


def _detector_scores(scores_in: Tensor, scores_out: Tensor) -> tuple[Tensor, Tensor]:
    _check_vector("scores_in", scores_in)
    _check_vector("scores_out", scores_out)
    dtype = torch.promote_types(scores_in.dtype, scores_out.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    return scores_in.to(dtype), scores_out.to(dtype)


def _ratio(count: Tensor, total: int, dtype: torch.dtype) -> Tensor:
    # A GPU divides by a Python number through its rounded inverse, so that a / a may not be 1.
    numerator = count.to(dtype)
    return numerator / numerator.new_full((), total)


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _check_vector(name: str, tensor: Tensor) -> None:
    if tensor.ndim != 1 or len(tensor) == 0:
        raise InputValueError(f"{name} must have shape [N] with N >= 1, got {list(tensor.shape)}")
