r"""Classification as regression with known noise.

Milios et al., "Dirichlet-based Gaussian processes for large-scale calibrated classification", NeurIPS 2018: a label is
an observation of the concentrations :math:`\alpha_c = \epsilon + [y = c]` of a Dirichlet distribution, whose gamma
variables are matched by log-normal ones,

.. math:: \sigma_c^2 = \ln(1 + 1 / \alpha_c), \qquad t_c = \ln \alpha_c - \sigma_c^2 / 2
"""

import copy
import math

import torch
from torch import Tensor

from lightning_vi.kernels.algebra import precise
from lightning_vi.kernels.base import Kernel
from lightning_vi.kernels.evidence import fit_kernel

CONCENTRATIONS = (0.1, 0.01, 0.001, 0.0001)
"""Larger ones are for noisy labels, smaller ones for classes that can be told apart."""
MAX_ROWS = 256
NUM_POINTS = 64


def dirichlet_targets(labels: Tensor, concentration: float) -> tuple[Tensor, Tensor]:
    r"""Computes targets and noise of a regression on logits.

    Args:
        labels: Unit vectors, shape [N, C].
        concentration: :math:`\epsilon`.

    Returns:
        Targets t, whose mean over the classes is zero, and variances of their noise, each of shape [N, C].

    Example:
        >>> targets, variances = dirichlet_targets(torch.tensor([[1.0, 0.0]]), concentration=0.01)
        >>> targets, variances
        (tensor([[ 3.2893, -3.2893]]), tensor([[0.6882, 4.6151]]))
    """
    concentrations = labels + concentration
    variances = concentrations.reciprocal().log1p()
    values = concentrations.log() - 0.5 * variances
    return values - values.mean(-1, keepdim=True), variances


def leave_one_out(kernel: Kernel, x: Tensor, y: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions of the function at each row from the other rows.

    Args:
        kernel: The kernel.
        x: Inputs, shape [N, F].
        y: Targets, shape [N, D].
        variances: Variances of their noise, shape [N, D].

    Returns:
        Means and variances, each of shape [N, D].
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(kernel(x, x) + torch.diag_embed(variances.mT)))
    precisions = inverse.diagonal(dim1=-2, dim2=-1).mT
    weights = (inverse @ y.mT.unsqueeze(-1)).squeeze(-1).mT
    return y - weights / precisions, (1 / precisions - variances).clamp_min(0)


def concentration_scores(kernel: Kernel, x: Tensor, labels: Tensor, outputs: Tensor) -> Tensor:
    """Negative log-likelihood of labels that are predicted from the other rows, for each of `CONCENTRATIONS`.

    Args:
        kernel: The kernel.
        x: Inputs, shape [N, F]; at most 256 evenly spaced ones are used.
        labels: Unit vectors, shape [N, C].
        outputs: Logits of a network, the mean of the process, shape [N, C].

    Returns:
        Summed over rows, in nats, shape [number of concentrations].
    """
    rows = slice(None, None, math.ceil(len(x) / MAX_ROWS))
    x, labels, outputs = (precise(each[rows]) for each in (x, labels, outputs))
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(NUM_POINTS, *labels.shape, generator=generator, device="cpu").to(labels)
    scores = []
    for concentration in CONCENTRATIONS:
        targets, variances = dirichlet_targets(labels, concentration)
        centered = outputs - outputs.mean(-1, keepdim=True)
        means, rest = leave_one_out(kernel, x, targets - centered, variances)
        probs = (centered + means + rest.sqrt() * noise).softmax(-1).mean(0)
        scores.append(-(labels * probs.clamp_min(1e-12).log()).sum())
    return torch.stack(scores)


def fit_class_kernel(kernel: Kernel, x: Tensor, labels: Tensor) -> None:
    """Finds the scales of a kernel that were not given, by `fit_kernel` for each of `CONCENTRATIONS`.

    The scales with the best prediction of each label from the others are taken.

    Args:
        kernel: The kernel, changed in place.
        x: Inputs, shape [N, F].
        labels: Unit vectors, shape [N, C].
    """
    scores, fitted = list[float](), list[Kernel]()
    for position, concentration in enumerate(CONCENTRATIONS):
        targets, variances = dirichlet_targets(labels, concentration)
        mean = targets.mean(0)
        fitted.append(copy.deepcopy(kernel))
        fit_kernel(fitted[-1], x, targets - mean, variances.sqrt())
        scores.append(float(concentration_scores(fitted[-1], x, labels, mean.expand_as(targets))[position]))
    kernel.adopt(fitted[scores.index(min(scores))])
