r"""Distances of a predictive distribution from that of a reference posterior, such as Hamiltonian Monte Carlo.

Wilson, Izmailov, Hoffman, Gal, Li, Pradier, Vikram, Foong, Lotfi and Farquhar, "Evaluating approximate inference in
Bayesian deep learning", NeurIPS 2021 competition track.

=====================  ===================================================================================
function               over the test inputs :math:`x_1, \dots, x_n`
=====================  ===================================================================================
`agreement`            :math:`\frac1n \sum_i [\arg\max_c p(c \mid x_i) = \arg\max_c q(c \mid x_i)]`
`total_variation`      :math:`\frac1n \sum_i \frac12 \sum_c |p(c \mid x_i) - q(c \mid x_i)|`
`wasserstein_2`        :math:`\frac1n \sum_i W_2\big(p(y \mid x_i), q(y \mid x_i)\big)`
=====================  ===================================================================================
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional import (
    gaussian_wasserstein_2,
    sample_wasserstein_2,
    top_class_agreement,
    total_variation_distance,
)
from lightning_vi.likelihoods import Prediction

Values: TypeAlias = Tensor | np.ndarray[Any, Any] | Sequence[Any]
"""Numbers as a tensor, an array or a list."""


def agreement(prediction: Prediction | Values, reference: Prediction | Values) -> float:
    """Fraction of the inputs at which a classifier has the most probable class of the reference; higher is better.

    Args:
        prediction: Prediction of a classifier, or class probabilities of shape [B, C, ...].
        reference: That of the reference posterior at the same inputs.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: If shapes differ, or a value is no probability.
        TypeError: If an argument is the prediction of a regression.

    Example:
        >>> agreement([[0.6, 0.4], [0.1, 0.9]], [[0.9, 0.1], [0.7, 0.3]])
        0.5
    """
    return float(top_class_agreement(*_probabilities(prediction, reference)))


def total_variation(prediction: Prediction | Values, reference: Prediction | Values) -> float:
    """Mean total variation distance of the class probabilities from those of the reference; lower is better.

    Args:
        prediction: Prediction of a classifier, or class probabilities of shape [B, C, ...].
        reference: That of the reference posterior at the same inputs.

    Returns:
        A number from 0 to 1.

    Raises:
        ValueError: If shapes differ, or a value is no probability.
        TypeError: If an argument is the prediction of a regression.

    Example:
        >>> round(total_variation([[0.6, 0.4], [0.1, 0.9]], [[0.9, 0.1], [0.1, 0.9]]), 6)
        0.15
    """
    return float(total_variation_distance(*_probabilities(prediction, reference)).mean())


def wasserstein_2(
    prediction: Prediction | tuple[Values, Values] | Values, reference: Prediction | tuple[Values, Values] | Values
) -> float:
    """Mean Wasserstein-2 distance of the predictive distributions of a regression from those of the reference.

    The distance is that of the marginal distribution of each element of the target. Samples are compared by their
    quantiles. A prediction, and a pair of means and standard deviations, stand for the Gaussians with these moments;
    their distance has a closed form. A pair may hold the moments of one part alone, such as the epistemic one.

    Args:
        prediction: A prediction, a pair of means and standard deviations of shape [B, ...], or samples of the target of
            shape [S, B, ...].
        reference: That of the reference posterior at the same inputs, of the same kind; the number of samples may
            differ.

    Returns:
        A number in the units of the target; lower is better.

    Raises:
        ValueError: If shapes differ, a value is not finite or a standard deviation is negative.
        TypeError: If one argument has samples and the other one has moments, or one is the prediction of a classifier.

    Example:
        >>> wasserstein_2(([0.0, 0.0], [1.0, 1.0]), ([3.0, 0.0], [5.0, 1.0]))
        2.5
        >>> wasserstein_2([[0.0], [2.0]], [[1.0], [1.0]])
        1.0
    """
    ours, theirs = _moments("prediction", prediction), _moments("reference", reference)
    if (ours is None) != (theirs is None):
        raise InputTypeError("prediction and reference must both be samples, or both be predictions or (mean, std)")
    if ours is not None and theirs is not None:
        _check_same_shape(ours[0], theirs[0], "prediction")
        return float(gaussian_wasserstein_2(*ours, *theirs).mean())
    samples, other = _numbers("prediction", prediction), _numbers("reference", reference)
    for name, values in (("prediction", samples), ("reference", other)):
        if values.dim() < 2 or len(values) == 0:
            raise InputValueError(f"{name} must hold samples of shape [S, B, ...], got shape {list(values.shape)}")
    _check_same_shape(samples[0], other[0], "samples of prediction")
    return float(sample_wasserstein_2(samples, other).mean())


def _probabilities(prediction: Prediction | Values, reference: Prediction | Values) -> tuple[Tensor, Tensor]:
    ours, theirs = _probs("prediction", prediction), _probs("reference", reference)
    _check_same_shape(ours, theirs, "prediction")
    return ours, theirs


def _probs(name: str, values: Prediction | Values) -> Tensor:
    if isinstance(values, Prediction):
        if values.probs is None:
            raise InputTypeError(f"{name} must be that of a classifier, got one of a regression: use wasserstein_2")
        values = values.probs
    probs = _numbers(name, values)
    if probs.dim() < 2:
        raise InputValueError(f"{name} must hold class probabilities of shape [B, C, ...], got {list(probs.shape)}")
    total = probs.sum(1)
    if probs.min() < 0 or (total - 1).abs().max() > 1e-3:
        raise InputValueError(
            f"{name} must hold class probabilities, which sum to 1 over dimension 1, got values down to "
            f"{probs.min():.3g} and sums from {total.min():.3g} to {total.max():.3g}"
        )
    return probs


def _moments(name: str, values: Prediction | tuple[Values, Values] | Values) -> tuple[Tensor, Tensor] | None:
    """Returns means and standard deviations, or None for samples."""
    if isinstance(values, Prediction):
        if values.probs is not None:
            raise InputTypeError(f"{name} must be that of a regression, got one of a classifier: use total_variation")
        values = values.mean, values.total_var.sqrt()
    if not isinstance(values, tuple):
        return None
    if len(values) != 2:
        raise InputTypeError(f"{name} must be a pair of means and standard deviations, got {len(values)} values")
    mean, std = (_numbers(name, part) for part in values)
    _check_same_shape(std, mean, f"std of {name}")
    if std.min() < 0:
        raise InputValueError(f"{name} must have standard deviations of at least 0, got {std.min():.3g}")
    return mean, std


def _numbers(name: str, values: Any) -> Tensor:
    """Converts values to float64 on the CPU."""
    try:
        numbers = torch.as_tensor(values).detach().to("cpu", torch.float64)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputTypeError(f"{name} must hold numbers, got a {type(values).__name__}") from error
    if numbers.numel() == 0 or not numbers.isfinite().all():
        raise InputValueError(f"{name} must hold finite numbers, got shape {list(numbers.shape)} with others or none")
    return numbers


def _check_same_shape(ours: Tensor, theirs: Tensor, name: str) -> None:
    if ours.shape != theirs.shape:
        raise InputValueError(
            f"{name} must have the shape of the reference, {list(theirs.shape)}, got {list(ours.shape)}"
        )
