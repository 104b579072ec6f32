r"""Special functions of observation models that torch does not have.

Series and continued fractions have a fixed length, so no function branches on the values of a tensor.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lightning_vi.tracing import is_exporting

__all__ = [
    "flat_at_zero",
    "inverse_softplus",
    "log_gamma_ratio",
    "log_softmax",
    "negative_binomial_cdf",
    "negative_binomial_log_prob",
    "poisson_cdf",
    "student_t_cdf",
]

_NODES, _WEIGHTS = (array.tolist() for array in np.polynomial.legendre.leggauss(24))
_SHORT_ROW = 16
_SMALL = 2**12
"""Number of elements up to which copies with another order of dimensions take longer than short rows."""
_LAST_QUANTILE = 8.0
_FRACTION_DEPTH = 32
_LOG_SQRT_TWO_PI = 0.5 * math.log(2 * math.pi)


def flat_at_zero(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """A function that is zero at zero and has an infinite slope there, with a gradient of zero instead.

    Args:
        function: Elementwise, such as a square root.
        values: Any shape.

    Returns:
        ``function(values)``.

    Example:
        >>> x = torch.tensor([0.0, 4.0], requires_grad=True)
        >>> flat_at_zero(torch.sqrt, x).sum().backward()
        >>> x.grad
        tensor([0.0000, 0.2500])
    """
    if not values.requires_grad:
        return function(values)
    is_zero = values == 0
    return torch.where(is_zero, 0.0, function(torch.where(is_zero, 1.0, values)))


def log_softmax(logits: Tensor) -> Tensor:
    """Log-softmax over the last dimension.

    Torch's is slow along short rows on a CPU, where the classes become another dimension meanwhile.

    Args:
        logits: Shape [..., C].

    Returns:
        Normalized log-probabilities in nats, the shape of `logits`.

    Example:
        >>> log_softmax(torch.zeros(2, 4)).exp()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500],
                [0.2500, 0.2500, 0.2500, 0.2500]])
    """
    is_small = logits.dim() < 2 or is_exporting() or logits.numel() < _SMALL  # exports have any number of rows
    if is_small or logits.shape[-1] >= _SHORT_ROW or logits.device.type != "cpu":
        return logits.log_softmax(-1)
    return logits.mT.contiguous().log_softmax(-2).mT.contiguous()  # sums over classes round as those of torch


def inverse_softplus(value: Tensor) -> Tensor:
    r"""Inverse of softplus, :math:`\ln(e^x - 1)`, without overflow or cancellation.

    Args:
        value: Positive, any shape.

    Returns:
        The shape of `value`.

    Example:
        >>> inverse_softplus(torch.tensor([0.6931, 100.0]))
        tensor([-9.4414e-05,  1.0000e+02])
    """
    return value + torch.log(-torch.expm1(-value))


def log_gamma_ratio(base: Tensor, step: Tensor) -> Tensor:
    r"""Log of a ratio of gamma functions over its leading power, :math:`\ln [\Gamma(r + y) / \Gamma(r)] - y \ln r`.

    The difference of two log gamma functions cancels where r is large. Here Stirling's formula (Abramowitz and Stegun,
    1964, 6.1.41) is subtracted from both, which leaves small remainders.

    Args:
        base: r, positive.
        step: y, not negative, of a shape that broadcasts with `base`.

    Returns:
        The broadcast shape; zero in the limit of a large r.

    Example:
        >>> log_gamma_ratio(torch.tensor(1e6), torch.tensor([0.5, 3.0]))
        tensor([-1.2500e-07,  3.0000e-06])
    """
    x = step / base
    power = base * _log1p_minus(x, 1 + x) + (step - 0.5) * torch.log1p(x)
    return power + _stirling_rest(base + step) - _stirling_rest(base)


def negative_binomial_log_prob(value: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    r"""Log probability of a negative binomial variable of mean :math:`\mu` and variance :math:`\mu + \alpha \mu^2`.

    .. math:: p(k) = \frac{\Gamma(k + r)}{\Gamma(r)\, k!} \left(\frac{r}{r + \mu}\right)^{r}
        \left(\frac{\mu}{r + \mu}\right)^{k}, \qquad r = 1 / \alpha,

    around its saddle point (Loader, "Fast and accurate computation of binomial probabilities", 2000), which keeps
    full precision for large counts and for dispersions near zero, the Poisson limit.

    Args:
        value: k, not negative, any shape.
        mean: :math:`\mu`, positive, of a shape that broadcasts with `value`.
        dispersion: :math:`\alpha`, positive, of a shape that broadcasts with `value`.

    Returns:
        Nats, the broadcast shape.

    Example:
        >>> negative_binomial_log_prob(torch.tensor([0.0, 1.0]), torch.tensor(1.0), torch.tensor(1.0)).exp()
        tensor([0.5000, 0.2500])
    """
    successes = dispersion.reciprocal()
    log_failure = mean.log() - (successes + mean).log()
    return _log_power(successes, value + 1, mean) - log_failure - (successes + value).log()


def student_t_cdf(value: Tensor, df: Tensor) -> Tensor:
    r"""Cumulative distribution function of Student's t.

    With :math:`v = \sqrt{\nu \ln(1 + t^2 / \nu)}` (Wallace, "Bounds on normal approximations to Student's and the
    chi-square distributions", 1959) the density is nearly that of a Gaussian for all degrees of freedom,

    .. math:: P(0 \le T \le t) \propto \int_0^{v} e^{-u^2 / 2} \sqrt{\frac{s}{1 - e^{-s}}}\, du, \qquad s = u^2 / \nu,

    which 24 Gauss-Legendre nodes integrate to the precision of float32, and to 1e-10 in float64.

    Args:
        value: t, any shape.
        df: :math:`\nu`, at least 1, of a shape that broadcasts with `value`.

    Returns:
        Probabilities, the broadcast shape.

    Example:
        >>> student_t_cdf(torch.tensor([0.0, 2.0]), torch.tensor(3.0))
        tensor([0.5000, 0.9303])
    """
    quantile = (df * torch.log1p(value.square() / df)).sqrt().clamp_max(_LAST_QUANTILE)
    half = _wallace_integral(quantile, df) / (2 * _wallace_integral(torch.full_like(df, _LAST_QUANTILE), df))
    return (0.5 + torch.copysign(half, value)).clamp(0, 1)


def poisson_cdf(value: Tensor, rate: Tensor) -> Tensor:
    r"""Cumulative distribution function of a Poisson variable, :math:`Q(k + 1, \lambda)`, smooth between the integers.

    Args:
        value: k, any shape.
        rate: :math:`\lambda`, positive, of a shape that broadcasts with `value`.

    Returns:
        Probabilities, the broadcast shape; zero for a negative k.

    Example:
        >>> poisson_cdf(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor(1.0))
        tensor([0.0000, 0.3679, 0.7358])
    """
    cdf = torch.special.gammaincc(value.clamp_min(0) + 1, rate)
    return torch.where(value < 0, 0.0, cdf)


def negative_binomial_cdf(value: Tensor, mean: Tensor, dispersion: Tensor) -> Tensor:
    r"""Cumulative distribution function of a negative binomial variable, smooth between the integers.

    For a mean :math:`\mu` and a variance :math:`\mu + \alpha \mu^2` it is the regularized incomplete beta function
    :math:`I_p(1 / \alpha, k + 1)` at :math:`p = 1 / (1 + \alpha \mu)`, here from the first 64 terms of its
    continued fraction (DLMF, 8.17.22).

    Args:
        value: k, any shape.
        mean: :math:`\mu`, positive, of a shape that broadcasts with `value`.
        dispersion: :math:`\alpha`, positive, of a shape that broadcasts with `value`.

    Returns:
        Probabilities, the broadcast shape; zero for a negative k.

    Example:
        >>> negative_binomial_cdf(torch.tensor([-1.0, 0.0, 1.0]), torch.tensor(1.0), torch.tensor(1.0))
        tensor([0.0000, 0.5000, 0.7500])
    """
    dtype = torch.promote_types(value.dtype, mean.dtype)
    if value.device.type != "mps":  # MPS has no float64
        value, mean, dispersion = value.double(), mean.double(), dispersion.double()
    odds = dispersion * mean
    successes, failures = dispersion.reciprocal(), value.clamp_min(0) + 1
    swapped = 1 / (1 + odds) > (successes + 1) / (successes + failures + 2)
    a, b = torch.where(swapped, failures, successes), torch.where(swapped, successes, failures)
    x = torch.where(swapped, odds, 1.0) / (1 + odds)
    fraction = torch.ones_like(x)
    for m in range(_FRACTION_DEPTH, 0, -1):
        fraction = 1 + m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)) / fraction
        k = m - 1
        fraction = 1 - (a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1)) / fraction
    tail = _log_power(successes, failures, mean).exp() / (a * fraction)
    cdf = torch.where(swapped, 1 - tail, tail).clamp(0, 1)
    return torch.where(value < 0, 0.0, cdf).to(dtype)


def _log_power(successes: Tensor, failures: Tensor, mean: Tensor) -> Tensor:
    """Returns the log of p^a (1 - p)^b / B(a, b) for a successes, b failures and p = a / (a + mean)."""
    total = successes + failures
    odds = total / (successes + mean)
    difference = (failures - mean) / (successes + mean)
    deviance = successes * _log1p_minus(difference, odds) + failures * _log1p_minus(
        -difference * successes / failures, odds * mean / failures
    )
    rest = _stirling_rest(total) - _stirling_rest(successes) - _stirling_rest(failures)
    return deviance + rest + 0.5 * (successes / total * failures).log() - _LOG_SQRT_TWO_PI


def _log1p_minus(x: Tensor, one_plus_x: Tensor) -> Tensor:
    """Returns log(1 + x) - x without cancellation, given 1 + x too."""
    # log(1 + x) = 2 atanh(s) with s = x / (2 + x), and x = 2 s + x s.
    s = x / (1 + one_plus_x)
    square = s.square()
    series = 1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9 + square * (1 / 11 + square / 13))))
    near = 2 * s * square * series - x * s
    return torch.where(x.abs() < 0.2, near, one_plus_x.log() - x)


def _stirling_rest(z: Tensor) -> Tensor:
    """Returns the log gamma function without its leading terms, log(2 pi) / 2 + (z - 1/2) log(z) - z."""
    small, large = z.clamp_max(10), z.clamp_min(10)
    inverse = large.reciprocal()
    square = inverse.square()
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    exact = torch.lgamma(small) - (small - 0.5) * small.log() + small - _LOG_SQRT_TWO_PI
    return torch.where(z < 10, exact, series)


def _wallace_integral(upper: Tensor, df: Tensor) -> Tensor:
    total = torch.zeros_like(upper + df)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        square = (upper * (0.5 + 0.5 * node)).square()
        s = (square / df).clamp_min(torch.finfo(upper.dtype).tiny)
        total = total + weight * torch.exp(-0.5 * square) * (s / -torch.expm1(-s)).sqrt()
    return 0.5 * upper * total
