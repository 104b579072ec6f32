"""Base class of metrics of the most probable class that are functions of counts of each class."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_vi.errors import InputValueError
from lightning_vi.functional.scoring import top_label
from lightning_vi.metrics.classification import check_width

__all__ = ["ClassCounts", "checked_num_classes"]


class ClassCounts(Metric):
    """Base class of metrics that average over classes a function of their true and false positives and negatives.

    Subclasses implement `_of_classes`. With two classes the value is that of class 1, unless `averages_two_classes`.

    Args:
        num_classes: number of classes C, at least 2.

    Raises:
        ValueError: if ``num_classes`` is below 2.
    """

    is_differentiable: bool = False
    higher_is_better: bool = True
    full_state_update: bool = False

    averages_two_classes: bool = False
    counts: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = checked_num_classes(num_classes)
        self.add_state("counts", default=torch.zeros(3, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: class probabilities, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
            TypeError: if ``target`` is not an integer tensor.
        """
        check_width(preds, self.num_classes)
        correct = top_label(preds, target)[1].bool()
        counted = torch.ones_like(correct) if observed is None else observed
        labels, predicted = torch.where(counted, target, 0).long(), preds.argmax(1)
        terms = torch.stack([correct & counted, ~correct & counted]).long().flatten(1)
        zeros = torch.zeros(self.num_classes, dtype=torch.long, device=terms.device)
        true_positive, false_negative = (zeros.index_add(0, labels.flatten(), term) for term in terms)
        false_positive = zeros.index_add(0, predicted.flatten(), terms[1])
        self.counts = self.counts + torch.stack([true_positive, false_positive, false_negative])

    def compute(self) -> Tensor:
        """Returns the mean over the classes, a scalar tensor; NaN if no class occurs or is predicted."""
        is_one_class = self.num_classes == 2 and not self.averages_two_classes
        counts = self.counts[:, 1:] if is_one_class else self.counts
        return self._of_classes(*counts.to(self.dtype)).nanmean()

    @abstractmethod
    def _of_classes(self, true_positive: Tensor, false_positive: Tensor, false_negative: Tensor) -> Tensor:
        """Returns the score of each class, shape [C]; NaN for classes that neither occur nor are predicted."""


def checked_num_classes(num_classes: int) -> int:
    """Returns a number of classes; raises a `ValueError` if it is no integer of at least 2."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise InputValueError(f"num_classes must be an integer of at least 2, got {num_classes!r}")
    return num_classes
