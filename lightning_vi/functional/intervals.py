"""Intervals of observed counts: proportions, and the bins of a histogram of uniform values."""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

__all__ = ["uniform_histogram_band", "wilson_interval"]

_HALVINGS = 20


def wilson_interval(successes: Tensor, trials: Tensor, level: float = 0.95) -> tuple[Tensor, Tensor]:
    r"""Returns confidence intervals of proportions.

    With :math:`\hat p = k / n` and the standard normal quantile z, the score interval of Wilson (1927), "Probable
    inference, the law of succession, and statistical inference", has the ends

    .. math:: \frac{\hat p + z^2 / 2n \pm z \sqrt{\hat p (1 - \hat p) / n + z^2 / 4n^2}}{1 + z^2 / n}.

    It stays inside [0, 1] and has a positive width also where all or none of the trials are successes.

    Args:
        successes: numbers of successes k, any shape.
        trials: numbers of trials n, the same shape.
        level: probability of coverage, strictly between 0 and 1.

    Returns:
        Lower and upper ends, float64, the shape of ``trials``; NaN without trials.

    Raises:
        ValueError: if ``level`` is outside (0, 1).

    Example:
        >>> wilson_interval(torch.tensor([0, 5]), torch.tensor([10, 10]))
        (tensor([0.0000, 0.2366], dtype=torch.float64), tensor([0.2775, 0.7634], dtype=torch.float64))
    """
    _check_level(level)
    z = NormalDist().inv_cdf(0.5 + level / 2)
    count, total = successes.double(), trials.double()
    share = count / total
    center = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z * (share * (1 - share) / total + z**2 / (4 * total**2)).sqrt() / (1 + z**2 / total)
    # Rounding may leave the exact ends 0 and 1.
    return torch.where(count == 0, 0 * share, center - half), torch.where(count == total, share, center + half)


def uniform_histogram_band(num_values: int, num_bins: int, level: float = 0.95) -> tuple[int, int]:
    r"""Returns the range that contains all bins of a histogram of uniform values with probability ``level``.

    The counts of N independent uniform values in M bins of equal width are multinomial. The range is that between the
    binomial quantiles at :math:`\gamma / 2` and :math:`1 - \gamma / 2` of one bin, with the largest :math:`\gamma` for
    which all M counts are inside with probability at least ``level``. That probability is exact: multinomial counts are
    independent Poisson counts, given their sum.

    Args:
        num_values: N, at least 1.
        num_bins: M, at least 1.
        level: probability that all counts are inside, strictly between 0 and 1.

    Returns:
        The smallest and the largest count.

    Raises:
        ValueError: if an argument is out of range.

    Example:
        >>> uniform_histogram_band(1000, 20)
        (31, 72)
    """
    _check_level(level)
    for name, value in (("num_values", num_values), ("num_bins", num_bins)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputValueError(f"{name} must be a positive integer, got {value!r}")
    cdf = _binomial_log_pmf(num_values, 1 / num_bins).exp().cumsum(0)
    band = 0, num_values
    tail, step = 0.0, 1 - level
    for _ in range(_HALVINGS):
        # The band of a tail probability covers less the larger it is: find the largest that covers enough.
        candidate = _quantile(cdf, (tail + step) / 2), _quantile(cdf, 1 - (tail + step) / 2)
        if _probability_inside(num_values, num_bins, *candidate) >= level:
            band, tail = candidate, tail + step
        step /= 2
    return band


def _probability_inside(num_values: int, num_bins: int, low: int, high: int) -> float:
    """Probability that each of the multinomial counts lies between `low` and `high`."""
    if num_bins * low > num_values or num_bins * high < num_values:
        return 0.0
    mean = num_values / num_bins
    counts = torch.arange(low, high + 1, dtype=torch.float64)
    one = (counts * math.log(mean) - mean - torch.lgamma(counts + 1)).exp()
    joint = torch.ones(1, dtype=torch.float64)
    for bit in f"{num_bins:b}":
        joint = _convolve(joint, joint)
        if bit == "1":
            joint = _convolve(joint, one)
    normalizer = math.exp(num_values * math.log(num_values) - num_values - math.lgamma(num_values + 1))
    return float(joint[num_values - num_bins * low]) / normalizer


def _convolve(first: Tensor, second: Tensor) -> Tensor:
    size = len(first) + len(second) - 1
    product: Tensor = torch.fft.irfft(torch.fft.rfft(first, size) * torch.fft.rfft(second, size), size)
    return product


def _binomial_log_pmf(trials: int, share: float) -> Tensor:
    counts = torch.arange(trials + 1, dtype=torch.float64)
    coefficient = math.lgamma(trials + 1) - torch.lgamma(counts + 1) - torch.lgamma(trials - counts + 1)
    if share == 1:
        return torch.where(counts == trials, 0.0, -math.inf)
    return coefficient + counts * math.log(share) + (trials - counts) * math.log1p(-share)


def _quantile(cdf: Tensor, level: float) -> int:
    """Smallest count with a distribution function of at least `level`, up to rounding."""
    return min(int(torch.searchsorted(cdf, level - 1e-12)), len(cdf) - 1)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputValueError(f"level must lie strictly between 0 and 1, got {level!r}")
