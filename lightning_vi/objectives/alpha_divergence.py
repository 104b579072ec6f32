"""Black-box alpha-divergence energy."""

import math

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.objectives.elbo import ObjectiveTerms, check_weights


def alpha_divergence_energy(
    log_prob: Tensor,
    log_ratio: Tensor,
    kl: Tensor,
    num_data: int,
    alpha: float,
    kl_weight: float = 1.0,
    weight: Tensor | None = None,
) -> ObjectiveTerms:
    r"""Black-box alpha-divergence energy per example, estimated on a batch.

    .. math:: \mathcal{L}_\alpha = -\frac{1}{\alpha B} \sum_{n=1}^B \ln \frac1S \sum_{s=1}^S \Big[ p(y_n \mid w_s)
        \Big( \frac{p(w_s)}{q(w_s)} \Big)^{\beta / N} \Big]^\alpha

    This is the energy of Hernandez-Lobato et al., "Black-box alpha-divergence minimization", ICML 2016, divided by N,
    with :math:`\ln f = (\ln q - \ln p) / N` including the normalizing constants. The limit :math:`\alpha \to 0` is the
    negative evidence lower bound; :math:`\alpha = 1` corresponds to expectation propagation.

    Args:
        log_prob: Log-likelihoods of S samples and B examples in nats, shape [S, B].
        log_ratio: :math:`\ln q(w_s) - \ln p(w_s)` of each sample, summed over all stochastic weights, shape [S].
        kl: KL divergence, a scalar tensor; only reported.
        num_data: Number of training examples N.
        alpha: :math:`\alpha`, nonnegative; 0 is the limit.
        kl_weight: Weight :math:`\beta` of the KL divergence.
        weight: Weights of the examples' energies and log-likelihoods, shape [B]; 1 by default.

    Returns:
        The energy, and the two terms of the evidence lower bound.

    Raises:
        ValueError: If `num_data` is not positive, or `kl_weight` or `alpha` is negative.

    Example:
        >>> import torch
        >>> log_prob = torch.tensor([[0.5], [0.1]]).log()
        >>> alpha_divergence_energy(log_prob, torch.zeros(2), torch.tensor(0.0), num_data=10, alpha=1.0).loss.exp()
        tensor(3.3333)
    """
    check_weights(num_data, kl_weight)
    if not (alpha >= 0 and math.isfinite(alpha)):
        raise InputValueError(f"alpha must not be negative and must be finite, got {alpha}")
    tilted = log_prob - (kl_weight / num_data) * log_ratio.unsqueeze(-1)
    mean = tilted.mean(0)
    energy = -mean
    if alpha > 0:
        energy = energy - (torch.logsumexp(alpha * (tilted - mean), 0) - math.log(len(tilted))) / alpha
    if weight is not None:
        energy, log_prob = energy * weight, log_prob * weight
    return ObjectiveTerms(energy.mean(), -log_prob.mean(), kl)
