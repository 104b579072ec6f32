"""Post-hoc calibration: temperatures, conformal quantiles and scores of prediction sets."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.functional.selective import count_that_reaches

__all__ = [
    "MAX_TEMPERATURE",
    "MIN_TEMPERATURE",
    "adaptive_set_scores",
    "best_temperature",
    "conformal_quantile",
    "log_odds_against",
    "temper",
]

MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 100.0
_NUM_STEPS = 100
_GRID = 2**20
_SMALLEST_LOG_PROB = -1e9


def temper(log_probs: Tensor, temperature: Tensor | float, dim: int = 1) -> Tensor:
    r"""Class log-probabilities at another temperature, :math:`\ln (p_c^{1 / T} / \sum_k p_k^{1 / T})`.

    Args:
        log_probs: Class log-probabilities, normalized or not, such as logits.
        temperature: T, positive; larger is less certain.
        dim: The class dimension.

    Returns:
        Normalized log-probabilities in nats, the shape of `log_probs`.

    Example:
        >>> temper(torch.tensor([[0.2, 0.8]]).log(), 0.5).exp()
        tensor([[0.0588, 0.9412]])
    """
    return F.log_softmax(log_probs / temperature, dim)


def log_odds_against(log_probs: Tensor, target: Tensor) -> Tensor:
    r"""Log-odds of each class c against the label, :math:`\ln p_c - \ln p_y`.

    Args:
        log_probs: Class log-probabilities, normalized or not, shape [B, C, ...]. A class that is excluded, with
            :math:`-\infty`, counts as one of log-probability -1e9.
        target: Labels y, shape [B, ...].

    Returns:
        Nats, shape [B, C, ...]; zero for the label's own class.

    Example:
        >>> log_odds_against(torch.tensor([[0.2, 0.8]]).log(), torch.tensor([0]))
        tensor([[0.0000, 1.3863]])
    """
    smallest = max(_SMALLEST_LOG_PROB, torch.finfo(log_probs.dtype).min / 2)
    log_probs = log_probs.clamp_min(smallest)
    return log_probs - log_probs.gather(1, target.long().unsqueeze(1))


def best_temperature(log_odds: Tensor) -> Tensor:
    r"""Temperature of maximum likelihood (Guo et al., "On calibration of modern neural networks", 2017).

    .. math:: T^* = \arg\min_T \sum_n -\ln \frac{p_{n y_n}^{1 / T}}{\sum_c p_{nc}^{1 / T}}

    The negative log-likelihood is convex in 1/T. Newton's method finds the zero of its derivative within a bracket
    that shrinks in every step, in float64 where the device supports it. T lies between 0.01 and 100. It is 100 where
    the probabilities are uninformative. Where all labels are those of the most probable class, it is 0.01, or larger
    where the slope vanishes to rounding.

    Args:
        log_odds: Log-odds of the classes against the labels, see `log_odds_against`, shape [N, C, ...].

    Returns:
        T, a scalar tensor of the dtype of `log_odds`.

    Example:
        >>> log_probs = torch.tensor([[0.2, 0.8]]).log().expand(10, 2)
        >>> best_temperature(log_odds_against(log_probs, torch.tensor([0] * 4 + [1] * 6)))
        tensor(3.4190)
    """
    rows = log_odds.movedim(1, -1).flatten(0, -2)
    rows = rows if rows.device.type == "mps" else rows.double()
    low, high = (rows.new_tensor(bound) for bound in (1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE))
    inverse = rows.new_tensor(1.0)
    for _ in range(_NUM_STEPS):
        probs = F.softmax(inverse * rows, -1)
        mean = (probs * rows).sum(-1)
        slope = mean.mean()
        curvature = ((probs * rows.square()).sum(-1) - mean.square()).mean()
        low, high = torch.where(slope < 0, inverse, low), torch.where(slope > 0, inverse, high)
        newton, middle = inverse - slope / curvature, (low * high).sqrt()
        step = torch.where((newton > low) & (newton < high), newton, middle)
        if (step - inverse).abs() <= 4 * torch.finfo(rows.dtype).eps * inverse:
            break
        inverse = step
    return inverse.reciprocal().to(log_odds.dtype)


def conformal_quantile(scores: Tensor, coverage: float) -> Tensor:
    r"""The :math:`\lceil (n + 1)\, \text{coverage} \rceil`-th smallest of n scores.

    The score of a further exchangeable datum does not exceed it with a probability of at least `coverage`, and of at
    most `coverage` + 1 / (n + 1) without ties (Vovk, Gammerman and Shafer, "Algorithmic learning in a random world",
    2005; Lei et al., 2018).

    Args:
        scores: Shape [n, ...]; NaN stands for scores that are missing, and n counts the others of each column.
        coverage: Strictly between 0 and 1.

    Returns:
        Quantiles, the shape of `scores` without its first dimension; infinite if n is too small.

    Raises:
        ValueError: If `coverage` lies outside (0, 1].

    Example:
        >>> scores = torch.arange(1.0, 10.0)
        >>> conformal_quantile(scores, 0.5), conformal_quantile(scores, 0.9), conformal_quantile(scores, 0.95)
        (tensor(5.), tensor(9.), tensor(inf))
    """
    ordered = scores.reshape(len(scores), math.prod(scores.shape[1:])).sort(dim=0).values  # NaN last
    sizes = ordered.isnan().logical_not().sum(0).cpu().tolist()
    ranks = [count_that_reaches(coverage, size + 1, "coverage") for size in sizes]
    found = [
        column[rank - 1] if rank <= size else column.new_tensor(math.inf)
        for column, rank, size in zip(ordered.unbind(1), ranks, sizes, strict=True)
    ]
    return torch.stack(found).view(scores.shape[1:])


def adaptive_set_scores(
    probs: Tensor, penalty: float = 0.0, allowed_size: int = 1, uniforms: Tensor | float = 1.0
) -> Tensor:
    r"""Scores of adaptive prediction sets: cumulative probabilities of the classes in descending order.

    .. math:: s(x, c) = \sum_{k:\, r(k) < r(c)} p_k(x) + u\, p_c(x) + \lambda \max(0, r(c) - k_{\mathrm{reg}})

    r is the rank of a class, 1 for the most probable one. Without a penalty these are the scores of adaptive prediction
    sets (APS; Romano, Sesia and Candes, "Classification with valid and adaptive coverage", 2020), with a penalty those
    of regularized adaptive prediction sets (RAPS; Angelopoulos et al., "Uncertainty sets for image classifiers using
    conformal prediction", 2021). Ties of probabilities are ordered by class index. Scores are rounded to multiples of
    2**-20, so that equal scores stay equal under floating-point rounding.

    Args:
        probs: Class probabilities, shape [B, C, ...].
        penalty: :math:`\lambda`, not negative.
        allowed_size: :math:`k_{\mathrm{reg}}`, the rank beyond which classes are penalized.
        uniforms: u between 0 and 1 for each datum, shape [B, 1, ...], or one number for all.

    Returns:
        The score of each class, shape [B, C, ...], at least float32.

    Example:
        >>> adaptive_set_scores(torch.tensor([[0.2, 0.5, 0.3]]), penalty=1.0, allowed_size=2)
        tensor([[2.0000, 0.5000, 0.8000]])
    """
    probs = probs.to(torch.promote_types(probs.dtype, torch.float32))
    ordered, order = probs.sort(dim=1, descending=True, stable=True)
    ranks = torch.arange(1, probs.shape[1] + 1, device=probs.device, dtype=ordered.dtype)
    penalties = penalty * (ranks - allowed_size).clamp_min(0)
    scores = ordered.cumsum(1) - (1 - uniforms) * ordered + penalties.view(-1, *[1] * (probs.dim() - 2))
    return torch.empty_like(scores).scatter_(1, order, (scores * _GRID).round() / _GRID)
