"""Evidence lower bound."""

from typing import NamedTuple

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError


class ObjectiveTerms(NamedTuple):
    """A training objective and its terms, scalar tensors.

    Attributes:
        loss: Objective to minimize, in nats per example.
        nll: Expected negative log-likelihood, in nats per example.
        kl: KL divergence from posterior to prior, summed over all stochastic weights, in nats.
    """

    loss: Tensor
    nll: Tensor
    kl: Tensor


def negative_elbo(log_prob: Tensor, kl: Tensor, num_data: int, kl_weight: float = 1.0) -> ObjectiveTerms:
    r"""Negative evidence lower bound (ELBO) per example, estimated on a batch.

    .. math:: \mathcal{L} = -\frac{1}{B} \sum_{n=1}^B \frac{1}{S} \sum_{s=1}^S \ln p(y_n \mid f_s(x_n))
        + \frac{\beta}{N} \mathrm{KL}[q(w) \| p(w)]

    With :math:`\beta = 1` the expectation is the negative ELBO divided by N, for any batch size.

    Args:
        log_prob: Log-likelihoods of S samples and B examples in nats, shape [S, B].
        kl: KL divergence summed over all stochastic weights, a scalar tensor.
        num_data: Number of training examples N.
        kl_weight: Weight :math:`\beta` of the KL divergence.

    Returns:
        The loss and its terms.

    Raises:
        ValueError: If `num_data` is not positive or `kl_weight` is negative.

    Example:
        >>> import torch
        >>> negative_elbo(torch.full((2, 3), -1.0), torch.tensor(50.0), num_data=100).loss
        tensor(1.5000)
    """
    check_weights(num_data, kl_weight)
    nll = -log_prob.mean()
    return ObjectiveTerms(torch.add(nll, kl, alpha=kl_weight / num_data), nll, kl)


def check_weights(num_data: int, kl_weight: float) -> None:
    """Checks the arguments that scale the KL divergence.

    Raises:
        ValueError: If `num_data` is not positive or `kl_weight` is negative.
    """
    if num_data < 1:
        raise InputValueError(f"num_data must be positive, got {num_data}")
    if kl_weight < 0:
        raise InputValueError(f"kl_weight must not be negative, got {kl_weight}")
