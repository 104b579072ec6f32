"""Laplace approximation of the log marginal likelihood, and the prior precision that maximizes it."""

import torch
from torch import Tensor

LOG_PRECISION_RANGE = (-18.0, 23.0)
"""Search range, corresponding to prior standard deviations from 1e-5 to 8000."""

NUM_HALVINGS = 30
"""Bisection steps, for a relative accuracy of 4e-8."""


def log_evidence(log_likelihood: Tensor, eigenvalues: Tensor, squared_norm: Tensor, prior_precision: Tensor) -> Tensor:
    r"""Laplace approximation of the log marginal likelihood (MacKay, 1992).

    .. math:: \ln p(D) \approx \ln p(D \mid w^*) - \tfrac{\delta}{2} \lVert w^* \rVert^2
        + \tfrac{P}{2} \ln \delta - \tfrac12 \sum_i \ln (\lambda_i + \delta)

    Args:
        log_likelihood: Log-likelihood of the data at the mode in nats, a scalar tensor.
        eigenvalues: Eigenvalues :math:`\lambda` of the curvature, shape [P].
        squared_norm: Squared norm of the weights, a scalar tensor.
        prior_precision: Prior precision :math:`\delta`, a scalar tensor.

    Returns:
        Nats, a scalar tensor.

    Example:
        >>> one = torch.ones(())
        >>> log_evidence(-one, torch.tensor([3.0]), one, one)
        tensor(-2.1931)
    """
    volume = (prior_precision.log() - (eigenvalues + prior_precision).log()).sum()
    return log_likelihood + 0.5 * (volume - prior_precision * squared_norm)


def best_prior_precision(eigenvalues: Tensor, squared_norm: Tensor) -> Tensor:
    r"""Prior precision that maximizes the log marginal likelihood.

    Solves :math:`\sum_i \lambda_i / (\lambda_i + \delta) = \delta \lVert w^* \rVert^2` by bisection, between prior
    standard deviations of 1e-5 and 8000. The left side decreases and the right side increases with :math:`\delta`.

    Args:
        eigenvalues: Eigenvalues :math:`\lambda` of the curvature, shape [P].
        squared_norm: Squared norm of the weights, a scalar tensor.

    Returns:
        Prior precision :math:`\delta`, a scalar tensor.

    Example:
        >>> best_prior_precision(torch.tensor([2.0]), torch.tensor(0.25))
        tensor(2.)
    """
    low, high = (eigenvalues.new_tensor(bound) for bound in LOG_PRECISION_RANGE)
    for _ in range(NUM_HALVINGS):
        middle = (low + high) / 2
        precision = middle.exp()
        too_small = (eigenvalues / (eigenvalues + precision)).sum() > precision * squared_norm
        low, high = torch.where(too_small, middle, low), torch.where(too_small, high, middle)
    return ((low + high) / 2).exp()
