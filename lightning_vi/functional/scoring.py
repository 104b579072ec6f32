r"""Scores of a predictive distribution: log density, CRPS, quantiles, Brier score, calibration error.

S forward passes of a network give S predictive distributions for every datum, and the prediction is their
equal-weight mixture :math:`p(y) = \frac{1}{S} \sum_s p_s(y)`. The functions here score that mixture itself,
not a Gaussian with the mixture's mean and variance: the two differ as soon as the samples disagree.

Half and bfloat16 inputs are computed, and returned, in float32. No function branches on the values of a tensor,
which would synchronize with a GPU; a label outside the classes raises the error of the indexing operation.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError

__all__ = [
    "brier_score",
    "central_interval_covers",
    "expected_calibration_error",
    "gaussian_mixture_cdf",
    "gaussian_mixture_crps",
    "gaussian_mixture_quantile",
    "mixture_log_prob",
    "top_label",
    "top_label_bins",
]

# Elements of the largest temporary of the pairwise term of the CRPS: 1 MiB in float32, to fit in a CPU cache.
_MAX_PAIR_ELEMENTS = 2**18


def mixture_log_prob(log_prob: Tensor) -> Tensor:
    r"""Returns the log density of an equal-weight mixture from the log densities of its components.

    .. math::
        \log p(y) = \log \frac{1}{S} \sum_{s=1}^{S} p_s(y)

    evaluated as a log-sum-exp, which is safe for densities that underflow. This is the test
    log-likelihood of Gal and Ghahramani (2016), "Dropout as a Bayesian Approximation".

    Args:
        log_prob: log densities or log probabilities of the S components, in nats, shape ``[S, ...]``.

    Returns:
        The mixture's log density in nats, shape ``[...]``.

    Raises:
        ValueError: if ``log_prob`` has no sample dimension or no samples.

    Example:
        >>> mixture_log_prob(torch.tensor([[0.2], [0.4]]).log()).exp()
        tensor([0.3000])
    """
    if log_prob.ndim == 0 or log_prob.shape[0] == 0:
        raise InputValueError(f"log_prob must have shape [S, ...] with S >= 1, got {list(log_prob.shape)}")
    log_prob = _at_least_float32(log_prob)
    return torch.logsumexp(log_prob, dim=0) - math.log(log_prob.shape[0])


def gaussian_mixture_cdf(means: Tensor, stds: Tensor, value: Tensor) -> Tensor:
    r"""Returns the distribution function of an equal-weight mixture of Gaussians.

    .. math::
        F(y) = \frac{1}{S} \sum_{s=1}^{S} \Phi\left(\frac{y - \mu_s}{\sigma_s}\right)

    A component with a standard deviation of zero is a point mass, and :math:`F` is continuous from the
    right: :math:`F(\mu_s)` includes it. The probability of :math:`Y \ge y` is
    ``gaussian_mixture_cdf(-means, stds, -value)``, which is precise also where :math:`1 - F(y)` cancels.

    Args:
        means: component means, in the target's units, shape ``[S, ...]``.
        stds: component standard deviations, in the target's units, shape ``[S, ...]``.
        value: where to evaluate, in the target's units, shape ``[...]``.

    Returns:
        Probabilities in [0, 1], shape ``[...]``.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> gaussian_mixture_cdf(torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1), torch.zeros(1))
        tensor([0.5000])
    """
    _check_mixture(means, stds, value, "value")
    means, stds, value = map(_at_least_float32, (means, stds, value))
    return _mixture_cdf(means, stds, value)


@torch.no_grad()
def gaussian_mixture_quantile(means: Tensor, stds: Tensor, level: float | Sequence[float]) -> Tensor:
    r"""Returns quantiles of an equal-weight mixture of Gaussians, :math:`\inf\{y : F(y) \ge level\}`.

    The mixture's quantile lies between the smallest and the largest of its components' quantiles. That
    bracket is halved elementwise, 32 times in float32 and 64 times in float64, to 2**-32 or 2**-64 of its
    width. A single component, and equal components, give the exact quantile. The result has no gradient.

    Args:
        means: component means, in the target's units, shape ``[S, ...]``.
        stds: component standard deviations, in the target's units, shape ``[S, ...]``; zero is a point mass.
        level: probability below the quantile, strictly between 0 and 1, or a sequence of L probabilities.

    Returns:
        Quantiles in the target's units, shape ``[...]``, or ``[L, ...]`` for a sequence.

    Raises:
        ValueError: if the shapes do not fit or a level is outside (0, 1).

    Example:
        >>> gaussian_mixture_quantile(torch.tensor([[0.0], [3.0]]), torch.ones(2, 1), [0.025, 0.5, 0.975])
        tensor([[-1.6449],
                [ 1.5000],
                [ 4.6449]])
    """
    _check_mixture(means, stds)
    levels = [level] if isinstance(level, int | float) else list(level)
    for each in levels:
        _check_level(each)
    means, stds = _at_least_float32(means), _at_least_float32(stds)
    normal_quantiles = [NormalDist().inv_cdf(each) for each in levels]
    component_quantiles = torch.stack([means + stds * quantile for quantile in normal_quantiles])
    low, high = component_quantiles.aminmax(dim=1)
    width = high - low
    # F(y) is the mean of erfc((mean - y) * rate) / 2; a point mass is a Gaussian as narrow as floats allow.
    rate = math.sqrt(0.5) / stds.clamp(min=torch.finfo(stds.dtype).tiny)
    twice_levels = low.new_tensor(levels).mul(2).view(-1, *[1] * (low.ndim - 1))
    num_halvings = 64 if low.dtype == torch.float64 else 32
    for halving in range(1, num_halvings + 1):
        middle = torch.add(low, width, alpha=0.5**halving)
        twice_cdf = (means - middle.unsqueeze(1)).mul_(rate).erfc_().mean(1)
        low = torch.where(twice_cdf < twice_levels, middle, low)
    quantiles = torch.add(low, width, alpha=0.5**num_halvings)
    return quantiles[0] if isinstance(level, int | float) else quantiles


def central_interval_covers(means: Tensor, stds: Tensor, target: Tensor, level: float = 0.95) -> Tensor:
    r"""Returns the coverage of the target by the central interval of an equal-weight mixture of Gaussians.

    The interval between the quantiles at :math:`\alpha = (1 - level) / 2` and :math:`1 - \alpha` contains y
    where :math:`P(Y \le y) \ge \alpha` and :math:`P(Y \ge y) \ge \alpha`, ends and point masses included.
    This takes two evaluations of the distribution function and no quantile.

    Args:
        means: component means, in the target's units, shape ``[S, ...]``.
        stds: component standard deviations, in the target's units, shape ``[S, ...]``; zero is a point mass.
        target: observed values, shape ``[...]``.
        level: probability of the interval, strictly between 0 and 1.

    Returns:
        1.0 where the interval contains the target, 0.0 where it does not and NaN where the prediction or the
        target is NaN, shape ``[...]``.

    Raises:
        ValueError: if the shapes do not fit or ``level`` is outside (0, 1).

    Example:
        >>> central_interval_covers(torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([1.9, 2.0]))
        tensor([1., 0.])
    """
    _check_mixture(means, stds, target, "target")
    _check_level(level)
    means, stds, target = map(_at_least_float32, (means, stds, target))
    smaller_tail = torch.minimum(_mixture_cdf(means, stds, target), _mixture_cdf(-means, stds, -target))
    covered = (smaller_tail >= (1 - level) / 2).to(smaller_tail.dtype)
    return torch.where(smaller_tail.isnan(), smaller_tail, covered)


def gaussian_mixture_crps(means: Tensor, stds: Tensor, target: Tensor) -> Tensor:
    r"""Returns the continuous ranked probability score of an equal-weight mixture of Gaussians.

    .. math::
        \mathrm{CRPS}(F, y) = \int (F(z) - 1\{z \ge y\})^2 \, dz
        = \frac{1}{S} \sum_s A(y - \mu_s, \sigma_s^2)
        - \frac{1}{2 S^2} \sum_{s, t} A(\mu_s - \mu_t, \sigma_s^2 + \sigma_t^2)

    in closed form, where :math:`A(m, v) = E|X|` for :math:`X \sim N(m, v)`. Grimit, Gneiting, Berrocal and
    Johnson (2006), "The continuous ranked probability score for circular variables and its application to
    mesoscale forecast ensemble verification". Lower is better; the score of a point forecast is its absolute error.

    Time grows with S squared. Pairs are summed in chunks, so memory does not, unless autograd records them.

    Args:
        means: component means, in the target's units, shape ``[S, ...]``.
        stds: component standard deviations, in the target's units, shape ``[S, ...]``; zero is a point mass.
        target: observed values, shape ``[...]``.

    Returns:
        Scores in the target's units, shape ``[...]``.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> gaussian_mixture_crps(torch.zeros(3, 1), torch.ones(3, 1), torch.tensor([0.5]))
        tensor([0.3314])
    """
    _check_mixture(means, stds, target, "target")
    means, stds, target = map(_at_least_float32, (means, stds, target))
    num_samples = means.shape[0]
    variances = stds.square()
    distance_to_target = _folded_normal_mean(target - means, variances).mean(0)
    spread = stds.sum(0) / math.sqrt(math.pi)
    first, second = torch.triu_indices(num_samples, num_samples, offset=1, device=means.device)
    pairs_per_chunk = max(1, _MAX_PAIR_ELEMENTS // max(1, target.numel()))
    for i, j in zip(first.split(pairs_per_chunk), second.split(pairs_per_chunk), strict=True):
        spread = spread + _folded_normal_mean(means[i] - means[j], variances[i] + variances[j]).sum(0)
    return distance_to_target - spread / num_samples**2


def brier_score(probs: Tensor, target: Tensor) -> Tensor:
    r"""Returns the Brier score of class probabilities: their squared distance to the observed class.

    .. math::
        \mathrm{BS}(p, y) = \sum_{c=1}^{C} (p_c - 1\{c = y\})^2

    Brier (1950), "Verification of forecasts expressed in terms of probability", with the sum over all
    classes: between 0 and 2, and for two classes twice the score of one class.

    Args:
        probs: class probabilities, shape ``[B, C]`` or ``[B, C, ...]``.
        target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.

    Returns:
        One score for each element of ``target``, its shape.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if ``target`` is not an integer tensor.

    Example:
        >>> brier_score(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([0, 0]))
        tensor([0.5000, 0.0200])
    """
    _check_class_probs(probs, target)
    probs, index = _at_least_float32(probs), target.long().unsqueeze(1)
    minus_one = probs.new_full((), -1.0).expand(index.shape)
    return probs.scatter_add(1, index, minus_one).square().sum(1)


def top_label(probs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the probability of each element's most probable class, and its correctness.

    Args:
        probs: class probabilities, shape ``[B, C]`` or ``[B, C, ...]``.
        target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.

    Returns:
        ``(confidence, correct)``, both of the target's shape: probabilities, and 1.0 or 0.0 for right or wrong.

    Raises:
        ValueError: if the shapes do not fit.
        TypeError: if ``target`` is not an integer tensor.

    Example:
        >>> top_label(torch.tensor([[0.3, 0.7], [0.9, 0.1]]), torch.tensor([1, 1]))
        (tensor([0.7000, 0.9000]), tensor([1., 0.]))
    """
    _check_class_probs(probs, target)
    confidence, label = _at_least_float32(probs).max(dim=1)
    return confidence, (label == target).to(confidence.dtype)


def top_label_bins(confidence: Tensor, correct: Tensor, num_bins: int = 15, observed: Tensor | None = None) -> Tensor:
    r"""Returns the statistics of a reliability diagram: predictions binned by confidence.

    Bin b of M holds the confidences in :math:`((b - 1) / M, b / M]`, as in Guo, Pleiss, Sun and Weinberger
    (2017), "On Calibration of Modern Neural Networks". The statistics of several batches can be added.

    Args:
        confidence: probability of the predicted class, any shape.
        correct: 1.0 where the predicted class is right, 0.0 where it is wrong, the same shape.
        num_bins: number of bins M.
        observed: True for the predictions to count, the same shape; by default all.

    Returns:
        Rows: number of predictions, sum of their confidences, number of correct predictions. Shape ``[3, num_bins]``.

    Raises:
        ValueError: if the shapes differ or ``num_bins`` is not a positive integer.

    Example:
        >>> top_label_bins(torch.tensor([0.3, 0.9, 1.0]), torch.tensor([0.0, 1.0, 1.0]), num_bins=2)
        tensor([[1.0000, 2.0000],
                [0.3000, 1.9000],
                [0.0000, 2.0000]])
    """
    if confidence.shape != correct.shape:
        raise InputValueError(
            f"correct must have the shape of confidence {list(confidence.shape)}, got {list(correct.shape)}"
        )
    if not isinstance(num_bins, int) or num_bins < 1:
        raise InputValueError(f"num_bins must be a positive integer, got {num_bins!r}")
    confidence = _at_least_float32(confidence).flatten()
    index = ((confidence * num_bins).ceil().long() - 1).clamp(0, num_bins - 1)
    terms = torch.stack([torch.ones_like(confidence), confidence, correct.flatten().to(confidence.dtype)])
    if observed is not None:
        terms = terms * observed.flatten()
    return terms.new_zeros(3, num_bins).index_add(1, index, terms)


def expected_calibration_error(bins: Tensor) -> Tensor:
    r"""Returns the expected calibration error from the statistics of `top_label_bins`.

    .. math::
        \mathrm{ECE} = \sum_{b=1}^{M} \frac{n_b}{N} \, |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    Naeini, Cooper and Hauskrecht (2015), "Obtaining Well Calibrated Probabilities Using Bayesian Binning";
    Guo et al. (2017), see `top_label_bins`.

    Args:
        bins: numbers of predictions, sums of confidences and numbers of correct predictions, shape ``[3, num_bins]``.

    Returns:
        The error between 0 and 1, a scalar; NaN without predictions.

    Raises:
        ValueError: if ``bins`` does not have three rows.

    Example:
        >>> confidence, correct = torch.tensor([0.9, 0.9]), torch.tensor([1.0, 0.0])
        >>> expected_calibration_error(top_label_bins(confidence, correct))
        tensor(0.4000)
    """
    if bins.ndim != 2 or bins.shape[0] != 3:
        raise InputValueError(f"bins must have shape [3, num_bins], got {list(bins.shape)}")
    count, confidence, correct = bins.unbind()
    return (confidence - correct).abs().sum() / count.sum()


def _at_least_float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _mixture_cdf(means: Tensor, stds: Tensor, value: Tensor) -> Tensor:
    deviation = value - means
    point_mass = stds == 0
    # erfc is precise in the lower tail, where 1 + erf cancels.
    cdf = 0.5 * torch.erfc(deviation / torch.where(point_mass, 1.0, stds) * -math.sqrt(0.5))
    return torch.where(point_mass, (deviation >= 0).to(cdf.dtype), cdf).mean(0)


def _folded_normal_mean(mean: Tensor, variance: Tensor) -> Tensor:
    """Returns E|X| for X ~ N(mean, variance), elementwise; |mean| where the variance is zero."""
    point_mass = variance == 0
    std = torch.where(point_mass, 1.0, variance).sqrt()
    z = mean / std * math.sqrt(0.5)
    folded = mean * torch.erf(z) + std * math.sqrt(2 / math.pi) * torch.exp(-z.square())
    return torch.where(point_mass, mean.abs(), folded)


def _check_mixture(means: Tensor, stds: Tensor, value: Tensor | None = None, name: str = "") -> None:
    if means.ndim == 0 or means.shape[0] == 0:
        raise InputValueError(f"means must have shape [S, ...] with S >= 1, got {list(means.shape)}")
    if stds.shape != means.shape:
        raise InputValueError(f"stds must have the shape of means {list(means.shape)}, got {list(stds.shape)}")
    if value is not None and value.shape != means.shape[1:]:
        raise InputValueError(
            f"{name} must have the shape of one sample of means {list(means.shape[1:])}, got {list(value.shape)}"
        )


def _check_level(level: float) -> None:
    if not 0.0 < level < 1.0:
        raise InputValueError(f"level must lie strictly between 0 and 1, got {level!r}")


def _check_class_probs(probs: Tensor, target: Tensor) -> None:
    if target.is_floating_point() or target.is_complex():
        raise InputTypeError(f"target must hold integer class indices, got dtype {target.dtype}")
    if probs.ndim < 2:
        raise InputValueError(f"class probabilities must have shape [B, C] or [B, C, ...], got {list(probs.shape)}")
    expected = [probs.shape[0], *probs.shape[2:]]
    if list(target.shape) != expected:
        raise InputValueError(
            f"target must have shape {expected} for class probabilities of shape {list(probs.shape)}, "
            f"got {list(target.shape)}"
        )
