"""Negative log-likelihood of a predictive mixture."""

from torch import Tensor

from lightning_vi.functional.scoring import mixture_log_prob
from lightning_vi.metrics.base import MeanScore

__all__ = ["NegativeLogLikelihood"]


class NegativeLogLikelihood(MeanScore):
    r"""Mean negative log predictive density of the equal-weight mixture over S samples, in nats.

    .. math::
        \mathrm{NLL} = -\frac{1}{N} \sum_{n=1}^{N} \log \frac{1}{S} \sum_{s=1}^{S} p(y_n \mid x_n, w_s)

    A proper score for regression and classification alike; lower is better. It is not the mean of the
    samples' own negative log-likelihoods, which is larger.

    ``update(log_prob)`` takes the log density of each datum under each sample, shape ``[S, B]``, or
    ``[S, B, ...]`` where a datum has parts, such as pixels, that are scored one by one.

    Example:
        >>> import torch
        >>> metric = NegativeLogLikelihood()
        >>> metric.update(torch.tensor([[0.2, 0.5], [0.4, 0.5]]).log())
        >>> metric.compute()
        tensor(0.9486)
    """

    def update(self, log_prob: Tensor) -> None:
        """Adds a batch.

        Args:
            log_prob: log densities or log probabilities in nats, shape ``[S, B]`` or ``[S, B, ...]``.

        Raises:
            ValueError: if ``log_prob`` has no batch dimension or no samples.
        """
        if log_prob.ndim < 2:
            raise ValueError(f"log_prob must have shape [S, B] or [S, B, ...], got {list(log_prob.shape)}")
        self._accumulate(-mixture_log_prob(log_prob))
