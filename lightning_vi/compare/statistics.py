"""Means, standard errors and paired differences."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr


@dataclass(frozen=True)
class Estimate:
    """Mean of several numbers.

    Attributes:
        mean: The mean; NaN without numbers.
        standard_error: Standard deviation of the numbers over the square root of their count; NaN for fewer than two.
        count: How many there are.
    """

    mean: float
    standard_error: float
    count: int


def estimate(values: ArrayLike) -> Estimate:
    """Computes the mean and its standard error, without values that are NaN.

    Args:
        values: Numbers.

    Returns:
        The estimate.

    Example:
        >>> estimate([1.0, 2.0, 3.0])
        Estimate(mean=2.0, standard_error=0.5773502691896258, count=3)
    """
    numbers = np.asarray(values, float)
    numbers = numbers[~np.isnan(numbers)]
    count = len(numbers)
    mean = float(numbers.mean()) if count else float("nan")
    error = float(numbers.std(ddof=1) / np.sqrt(count)) if count > 1 else float("nan")
    return Estimate(mean, error, count)


def p_value(difference: Estimate) -> float:
    """Computes the p-value of the two-sided paired t-test that the mean difference is zero.

    Args:
        difference: Mean of the paired differences.

    Returns:
        The p-value; NaN for fewer than two pairs.

    Example:
        >>> round(p_value(estimate([1.0, 2.0, 3.0])), 4)
        0.0742
    """
    if difference.count < 2:
        return float("nan")
    if difference.standard_error == 0:
        return 1.0 if difference.mean == 0 else 0.0
    t = abs(difference.mean) / difference.standard_error
    return float(2 * stdtr(difference.count - 1, -t))
