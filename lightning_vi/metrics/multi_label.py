"""Metrics of several labels of a datum, each with the classes "no" and "yes"."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_vi.errors import InputValueError
from lightning_vi.functional.scoring import top_label
from lightning_vi.metrics.base import MeanScore

__all__ = ["ExactMatch", "LabelF1Score"]


class ExactMatch(MeanScore):
    """Fraction of the data all of whose labels are predicted right.

    Example:
        >>> import torch
        >>> metric = ExactMatch()
        >>> probs = torch.tensor([[0.9, 0.2], [0.6, 0.7]])  # of two labels
        >>> metric.update(torch.stack([1 - probs, probs], 1), torch.tensor([[1, 0], [1, 0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better: bool | None = True

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: probabilities of both values of each label, shape ``[B, 2, L, ...]``.
            target: labels 0 and 1, integers of shape ``[B, L, ...]``.
            observed: True for the labels to score, the shape of `target`; by default all. Data without any are left
                out.

        Raises:
            ValueError: if the shapes do not match.
        """
        right = top_label(preds, target)[1].bool()
        if observed is None:
            self._accumulate(right.flatten(1).all(1))
        else:
            self._accumulate((right | ~observed).flatten(1).all(1), observed.flatten(1).any(1))


class LabelF1Score(Metric):
    r"""F1 score of each label, averaged over the labels.

    .. math::
        F_{1, l} = \frac{2\, \mathrm{TP}_l}{2\, \mathrm{TP}_l + \mathrm{FP}_l + \mathrm{FN}_l}

    The same value as ``torchmetrics.classification.MultilabelF1Score``, which however takes no mask, and is 0 without
    data. Labels that neither occur nor are predicted have no part in the mean.

    Args:
        num_labels: number of labels L.

    Raises:
        ValueError: if ``num_labels`` is not a positive integer.

    Example:
        >>> import torch
        >>> metric = LabelF1Score(num_labels=2)
        >>> probs = torch.tensor([[0.9, 0.2], [0.6, 0.7]])
        >>> metric.update(torch.stack([1 - probs, probs], 1), torch.tensor([[1, 0], [1, 0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False

    counts: Tensor

    def __init__(self, num_labels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(num_labels, bool) or not isinstance(num_labels, int) or num_labels < 1:
            raise InputValueError(f"num_labels must be a positive integer, got {num_labels!r}")
        self.num_labels = num_labels
        self.add_state("counts", default=torch.zeros(2, num_labels, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: probabilities of both values of each label, shape ``[B, 2, L, ...]``.
            target: labels 0 and 1, integers of shape ``[B, L, ...]``.
            observed: True for the labels to score, the shape of `target`; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        right = top_label(preds, target)[1].bool()
        if target.dim() < 2 or target.shape[1] != self.num_labels:
            raise InputValueError(f"target must have {self.num_labels} labels in dimension 1, got {list(target.shape)}")
        counted = torch.ones_like(right) if observed is None else observed
        terms = torch.stack([right & (target == 1) & counted, ~right & counted])
        self.counts = self.counts + terms.movedim(2, 1).flatten(2).sum(2)

    def compute(self) -> Tensor:
        """Returns the mean over the labels, a scalar tensor; NaN if no label occurs or is predicted."""
        true_positive, wrong = self.counts.to(self.dtype)
        scores: Tensor = 2 * true_positive / (2 * true_positive + wrong)
        return scores.nanmean()
