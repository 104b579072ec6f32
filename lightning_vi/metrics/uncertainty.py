"""Means of the parts of the predictive uncertainty."""

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.metrics.base import MeanScore

__all__ = ["EpistemicShare", "MutualInformation"]


class EpistemicShare(MeanScore):
    r"""Mean share of the epistemic variance in the total variance of the prediction.

    .. math::
        \frac{1}{N} \sum_n \frac{\mathrm{Var}_s[\mathrm{E}[y_n \mid w_s]]}{\mathrm{Var}[y_n]}

    by the law of total variance, averaged over data and targets, or over data and classes. It has no units. 0 for a
    single network; near 1 where samples disagree more than the noise. Neither higher nor lower is better: it falls as
    the training set grows.

    Example:
        >>> import torch
        >>> metric = EpistemicShare()
        >>> metric.update(torch.tensor([[1.0], [0.0]]), torch.tensor([[4.0], [2.0]]))
        >>> metric.compute()
        tensor(0.1250)
    """

    higher_is_better: bool | None = None

    def update(self, epistemic_var: Tensor, total_var: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            epistemic_var: epistemic variances, shape ``[B, ..., D]``, or ``[B, C, ...]`` for classes.
            total_var: total variances, the same shape; a variance of zero has a share of zero.
            observed: True for the elements of the target to score, shape ``[B, ..., D]`` or ``[B, ...]``; by default
                all.

        Raises:
            ValueError: if the shapes differ.
        """
        if epistemic_var.shape != total_var.shape:
            raise InputValueError(
                f"total_var must have the shape of epistemic_var {list(epistemic_var.shape)}, "
                f"got {list(total_var.shape)}"
            )
        dtype = torch.promote_types(total_var.dtype, torch.float32)
        total = total_var.to(dtype)
        shares = epistemic_var.to(dtype) / torch.where(total == 0, 1, total)
        if observed is not None and observed.ndim < shares.ndim:
            observed = observed.unsqueeze(1).expand_as(shares)
        self._accumulate(shares, observed)


class MutualInformation(MeanScore):
    r"""Mean mutual information of label and weights, the epistemic part of the predictive entropy, in nats.

    .. math::
        \frac{1}{N} \sum_n \Big( \mathrm{H}[\mathrm{E}_s\, p(y_n \mid w_s)] - \mathrm{E}_s \mathrm{H}[p(y_n \mid w_s)]
        \Big)

    Neither higher nor lower is better: it falls as the training set grows, and rises on data unlike the training data.

    Example:
        >>> import torch
        >>> metric = MutualInformation()
        >>> metric.update(torch.tensor([0.1, 0.3]))
        >>> metric.compute()
        tensor(0.2000)
    """

    higher_is_better: bool | None = None

    def update(self, mutual_information: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            mutual_information: mutual information in nats, shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, the same shape; by default all.
        """
        self._accumulate(mutual_information, observed)
