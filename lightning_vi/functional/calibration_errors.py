r"""Calibration errors of class probabilities beside the one of equally wide bins, and the parts of the Brier score.

All of them are functions of sums over the data, so that batches and processes can be added, except for the error over
bins of equal mass, which needs the sorted confidences.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.scoring import top_label

__all__ = [
    "BrierParts",
    "adaptive_calibration_error",
    "brier_decomposition",
    "class_bins",
    "classwise_calibration_error",
    "maximum_calibration_error",
]


class BrierParts(NamedTuple):
    """Parts of the Brier score; it is ``reliability - resolution + uncertainty`` up to the variation within bins.

    Attributes:
        reliability: Squared difference of probabilities and frequencies; 0 for calibrated probabilities.
        resolution: Squared difference of the frequencies of the bins from those of all data; larger is better.
        uncertainty: Brier score of the class frequencies, a property of the data.
    """

    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor


def maximum_calibration_error(bins: Tensor) -> Tensor:
    r"""Returns the maximum calibration error (MCE) from the statistics of `top_label_bins`.

    .. math::
        \mathrm{MCE} = \max_{b:\, n_b > 0} |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    Naeini, Cooper and Hauskrecht (2015), "Obtaining Well Calibrated Probabilities Using Bayesian Binning". The largest
    gap is often that of a bin with few data.

    Args:
        bins: numbers of predictions, sums of confidences and numbers of correct predictions, shape ``[3, num_bins]``.

    Returns:
        The error between 0 and 1, a scalar; NaN without predictions.

    Raises:
        ValueError: if ``bins`` does not have three rows.

    Example:
        >>> from lightning_vi.functional.scoring import top_label_bins
        >>> maximum_calibration_error(top_label_bins(torch.tensor([0.3, 0.9]), torch.tensor([0.0, 1.0]), num_bins=2))
        tensor(0.3000)
    """
    if bins.ndim != 2 or bins.shape[0] != 3:
        raise InputValueError(f"bins must have shape [3, num_bins], got {list(bins.shape)}")
    count, confidence, correct = bins.unbind()
    gaps = (confidence - correct).abs() / count.clamp_min(1)
    return gaps.max() + 0 / count.sum()


def adaptive_calibration_error(confidence: Tensor, correct: Tensor, num_bins: int = 15) -> Tensor:
    r"""Returns the calibration error over bins with the same number of data (adaptive ECE).

    .. math::
        \mathrm{ACE} = \sum_{b=1}^{M} \frac{n_b}{N} \, |\mathrm{accuracy}_b - \mathrm{confidence}_b|,
        \qquad n_b \approx N / M

    Nguyen and O'Connor (2015), "Posterior calibration and exploratory analysis for natural language processing models";
    Mukhoti et al. (2020), "Calibrating Deep Neural Networks using Focal Loss". Bins of equal width leave most of the
    data of an accurate network in the last bin. Data of equal confidence have their mean correctness, so that the
    result does not depend on the order of the data.

    Args:
        confidence: probability of the predicted class, shape ``[N]``.
        correct: 1.0 where the predicted class is right, 0.0 where it is wrong, the same shape.
        num_bins: number of bins M.

    Returns:
        The error between 0 and 1, a scalar.

    Raises:
        ValueError: if the shapes are not ``[N]``, N is 0 or ``num_bins`` is not a positive integer.

    Example:
        >>> confidence, correct = torch.tensor([0.6, 0.7, 0.8, 0.9]), torch.tensor([0.0, 1.0, 1.0, 1.0])
        >>> adaptive_calibration_error(confidence, correct, num_bins=2)
        tensor(0.1500)
    """
    if confidence.ndim != 1 or len(confidence) == 0 or confidence.shape != correct.shape:
        raise InputValueError(
            f"confidence and correct must have the same shape [N] with N >= 1, got {list(confidence.shape)} and "
            f"{list(correct.shape)}"
        )
    _check_num_bins(num_bins)
    confidence = confidence.to(torch.promote_types(confidence.dtype, torch.float32))
    ascending, order = confidence.sort()
    first = torch.searchsorted(ascending, ascending)
    behind = torch.searchsorted(ascending, ascending, right=True)
    sum_of_tie = torch.zeros_like(ascending).index_add(0, first, correct.to(ascending.dtype)[order])
    gaps = ascending - sum_of_tie[first] / (behind - first)
    index = torch.arange(len(gaps), device=gaps.device) * num_bins // len(gaps)
    return gaps.new_zeros(num_bins).index_add(0, index, gaps).abs().sum() / len(gaps)


def class_bins(probs: Tensor, target: Tensor, num_bins: int = 15, observed: Tensor | None = None) -> Tensor:
    r"""Returns the statistics of one reliability diagram for each class: data binned by the probability of the class.

    Bin b of M holds the probabilities in :math:`((b - 1) / M, b / M]`, the first one also 0. The statistics of several
    batches can be added.

    Args:
        probs: class probabilities, shape ``[B, C]`` or ``[B, C, ...]``.
        target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.
        num_bins: number of bins M.
        observed: True for the elements of the target to count, its shape; by default all.

    Returns:
        Numbers of data, sums of their probabilities and numbers of data of the class, shape ``[3, C, num_bins]``.

    Raises:
        ValueError: if the shapes do not fit or ``num_bins`` is not a positive integer.
        TypeError: if ``target`` is not an integer tensor.

    Example:
        >>> class_bins(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), torch.tensor([1, 1]), num_bins=2)[2]
        tensor([[0., 0.],
                [1., 1.]])
    """
    if target.is_floating_point() or target.is_complex():
        raise InputTypeError(f"target must hold integer class indices, got dtype {target.dtype}")
    top_label(probs, target)  # checks the shapes
    _check_num_bins(num_bins)
    num_classes = probs.shape[1]
    probs = probs.to(torch.promote_types(probs.dtype, torch.float32)).movedim(1, -1).reshape(-1, num_classes)
    classes = torch.arange(num_classes, device=probs.device)
    hits = (target.reshape(-1, 1) == classes).to(probs.dtype)
    index = ((probs * num_bins).ceil().long() - 1).clamp(0, num_bins - 1) + num_bins * classes
    terms = torch.stack([torch.ones_like(probs), probs, hits])
    if observed is not None:
        terms = torch.where(observed.reshape(-1, 1), terms, 0)
    bins = terms.new_zeros(3, num_classes * num_bins).index_add(1, index.flatten(), terms.flatten(1))
    return bins.view(3, num_classes, num_bins)


def classwise_calibration_error(bins: Tensor) -> Tensor:
    r"""Returns the classwise calibration error from the statistics of `class_bins`.

    .. math::
        \mathrm{cwECE} = \frac{1}{C} \sum_{c=1}^{C} \sum_{b=1}^{M} \frac{n_{cb}}{N} \,
        |\mathrm{frequency}_{cb} - \mathrm{probability}_{cb}|

    Kull et al. (2019), "Beyond temperature scaling: Obtaining well-calibrated multiclass probabilities with Dirichlet
    calibration". It takes the probabilities of all classes into account, not only those of the predicted ones.

    Args:
        bins: numbers of data, sums of probabilities and numbers of data of each class, shape ``[3, C, num_bins]``.

    Returns:
        The error between 0 and 1, a scalar; NaN without data.

    Raises:
        ValueError: if ``bins`` has another number of dimensions or of rows.

    Example:
        >>> classwise_calibration_error(class_bins(torch.tensor([[0.2, 0.8]] * 2), torch.tensor([0, 1])))
        tensor(0.3000)
    """
    count, probability, hits = _parts(bins)
    return (probability - hits).abs().sum() / count.sum()


def brier_decomposition(bins: Tensor) -> BrierParts:
    r"""Returns the parts of the Brier score from the statistics of `class_bins`.

    .. math::
        \mathrm{BS} = \underbrace{\sum_{c, b} \frac{n_{cb}}{N} (\bar p_{cb} - \bar y_{cb})^2}_{\text{reliability}}
        - \underbrace{\sum_{c, b} \frac{n_{cb}}{N} (\bar y_{cb} - \bar y_c)^2}_{\text{resolution}}
        + \underbrace{\sum_c \bar y_c (1 - \bar y_c)}_{\text{uncertainty}}

    Murphy (1973), "A New Vector Partition of the Probability Score", for each class, summed over the classes as the
    Brier score is. The sum is exact where all probabilities of a bin are equal; otherwise it is the score of
    probabilities that are replaced by the mean of their bin.

    Args:
        bins: numbers of data, sums of probabilities and numbers of data of each class, shape ``[3, C, num_bins]``.

    Returns:
        Three scalars; NaN without data.

    Raises:
        ValueError: if ``bins`` has another number of dimensions or of rows.

    Example:
        >>> bins = class_bins(torch.tensor([[0.75, 0.25]] * 4), torch.tensor([0, 0, 0, 1]))
        >>> [round(float(part), 3) for part in brier_decomposition(bins)]
        [0.0, 0.0, 0.375]
    """
    count, probability, hits = _parts(bins)
    total = count.sum(1, keepdim=True)
    filled = count.clamp_min(1)
    frequency, base_rate = hits / filled, hits.sum(1, keepdim=True) / total
    reliability = count * ((probability - hits) / filled).square() / total
    resolution = count * (frequency - base_rate).square() / total
    return BrierParts(reliability.sum(), resolution.sum(), (base_rate * (1 - base_rate)).sum())


def _parts(bins: Tensor) -> tuple[Tensor, ...]:
    if bins.ndim != 3 or bins.shape[0] != 3:
        raise InputValueError(f"bins must have shape [3, C, num_bins], got {list(bins.shape)}")
    return bins.unbind()


def _check_num_bins(num_bins: int) -> None:
    if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 1:
        raise InputValueError(f"num_bins must be a positive integer, got {num_bins!r}")
