"""Negative log-likelihood of a predictive mixture."""

from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.scoring import mixture_log_prob
from lightning_vi.metrics.base import MeanScore

__all__ = ["NegativeLogLikelihood"]


class NegativeLogLikelihood(MeanScore):
    r"""Mean negative log predictive density (NLL) of an equal-weight mixture over S samples, in nats.

    .. math::
        \mathrm{NLL} = -\frac{1}{N} \sum_{n=1}^{N} \log \frac{1}{S} \sum_{s=1}^{S} p(y_n \mid x_n, w_s)

    A proper scoring rule for regression and classification; lower is better. It is not the mean of the negative
    log-likelihoods of the samples, which is larger.

    Example:
        >>> import torch
        >>> metric = NegativeLogLikelihood()
        >>> metric.update(torch.tensor([[0.2, 0.5], [0.4, 0.5]]).log())
        >>> metric.compute()
        tensor(0.9486)
    """

    def update(self, log_prob: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            log_prob: log density or log probability of each datum under each sample, in nats, shape ``[S, B]``; or
                ``[S, B, ...]`` if the elements of a datum, such as pixels, are scored separately.
            observed: True for the elements of the target that are not missing, shape ``[B, ...]``; data without any
                are not scored. By default all are observed.

        Raises:
            ValueError: if ``log_prob`` has no batch dimension or no samples.
        """
        if log_prob.ndim < 2:
            raise InputValueError(f"log_prob must have shape [S, B] or [S, B, ...], got {list(log_prob.shape)}")
        if observed is not None and observed.ndim > log_prob.ndim - 1 == 1:
            observed = observed.flatten(1).any(1)
        self._accumulate(-mixture_log_prob(log_prob), observed)
