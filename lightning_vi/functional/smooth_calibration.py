r"""The smooth calibration error, which has no bins.

Blasiok and Nakkiran, "Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing", ICLR 2024.
"""

import math

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

__all__ = ["residual_nodes", "smooth_calibration_error"]

_NUM_CELLS = 2**11
_HALVINGS = 30


def residual_nodes(confidence: Tensor, correct: Tensor, observed: Tensor | None = None) -> Tensor:
    """Returns the data on a grid of 2049 confidences from 0 to 1, each shared by the two nodes next to it.

    The statistics of several batches can be added.

    Args:
        confidence: predicted probabilities, any shape.
        correct: 1.0 where the event has occurred, such as a right class, 0.0 where it has not, the same shape.
        observed: True for the predictions to count, the same shape; by default all.

    Returns:
        Rows: number of predictions, and sum of ``correct - confidence``. Shape ``[2, 2049]``.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> residual_nodes(torch.tensor([0.25, 0.5]), torch.tensor([1.0, 0.0])).sum(1)
        tensor([2.0000, 0.2500])
    """
    if confidence.shape != correct.shape:
        raise InputValueError(
            f"correct must have the shape of confidence {list(confidence.shape)}, got {list(correct.shape)}"
        )
    confidence = confidence.to(torch.promote_types(confidence.dtype, torch.float32)).flatten().clamp(0, 1)
    terms = torch.stack([torch.ones_like(confidence), correct.flatten().to(confidence.dtype) - confidence])
    if observed is not None:
        terms = torch.where(observed.flatten(), terms, 0)
    place = confidence * _NUM_CELLS
    left = place.floor().clamp_max(_NUM_CELLS - 1)
    share, index = place - left, left.nan_to_num().long()
    nodes = terms.new_zeros(2, _NUM_CELLS + 1).index_add(1, index, (1 - share) * terms)
    return nodes.index_add(1, index + 1, share * terms)


def smooth_calibration_error(nodes: Tensor) -> Tensor:
    r"""Returns the smooth calibration error (smECE) from the statistics of `residual_nodes`.

    .. math::
        \mathrm{smECE} = \sigma^*, \qquad \sigma^* = \int_0^1 |\hat r_{\sigma^*}(t)| \, dt, \qquad
        \hat r_\sigma(t) = \frac1N \sum_n K_\sigma(p_n, t) (y_n - p_n)

    where :math:`K_\sigma` is the Gaussian kernel of width :math:`\sigma`, reflected at 0 and 1. The integral falls with
    :math:`\sigma`, so that the width that equals its own error is unique: it needs no choice of bins, and is a
    continuous function of the probabilities. The reflected kernel is diagonal in the cosine series of the residuals,

    .. math::
        K_\sigma(p, t) = 1 + 2 \sum_{k \ge 1} e^{-(\pi k \sigma)^2 / 2} \cos(\pi k p) \cos(\pi k t).

    Args:
        nodes: numbers of predictions and sums of residuals, shape ``[2, 2049]``.

    Returns:
        The error between 0 and 1, a scalar; NaN without predictions.

    Raises:
        ValueError: if ``nodes`` has another shape.

    Example:
        >>> confidence, correct = torch.full((10,), 0.9), torch.tensor([1.0] * 5 + [0.0] * 5)
        >>> smooth_calibration_error(residual_nodes(confidence, correct))
        tensor(0.4000)
    """
    if nodes.shape != (2, _NUM_CELLS + 1):
        raise InputValueError(f"nodes must have shape [2, {_NUM_CELLS + 1}], got {list(nodes.shape)}")
    exact = nodes if nodes.device.type == "mps" else nodes.double()
    residual = exact[1] / exact[0].sum()
    inner = residual[1:-1] / 2
    coefficients = torch.fft.rfft(torch.cat([residual[:1], inner, residual[-1:], inner.flip(0)])).real
    rates = -0.5 * (math.pi * torch.arange(_NUM_CELLS + 1, device=exact.device, dtype=exact.dtype)).square()
    low, step = residual.new_zeros(()), 1.0
    for _ in range(_HALVINGS):
        step /= 2
        middle = low + step
        density = 2 * torch.fft.irfft(coefficients * torch.exp(rates * middle.square()), n=2 * _NUM_CELLS).abs()
        # The trapezoidal rule on [0, 1], which is half of the period; the transform has the factor of its length.
        error = density[1:_NUM_CELLS].sum() + (density[0] + density[_NUM_CELLS]) / 2
        low = torch.where(error > middle, middle, low)
    return (low + step + 0 * residual.sum()).to(nodes.dtype)
