"""Metrics of classifiers whose classes are of very different frequency."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import binary_average_precision

from lightning_vi.functional.scoring import top_label
from lightning_vi.functional.selective import auroc
from lightning_vi.metrics.base import StoredScores
from lightning_vi.metrics.class_counts import ClassCounts, checked_num_classes
from lightning_vi.metrics.classification import check_width

__all__ = ["AUROC", "AveragePrecision", "F1Score"]


class AUROC(StoredScores):
    r"""Area under the ROC curve of the probability of each class, averaged over the classes.

    .. math::
        \mathrm{AUROC}_c = P(p_c(x) > p_c(x')) + \tfrac12 P(p_c(x) = p_c(x'))

    for a datum x of class c and one x' of another class. With two classes it is that of class 1. 1 is perfect, 1/2 is
    chance. Classes without data, or with all data, have no part in the mean. It stores all probabilities, and needs no
    data of the training frequencies: thresholds are not involved.

    Args:
        num_classes: number of classes C, at least 2.

    Raises:
        ValueError: if ``num_classes`` is below 2.

    Example:
        >>> import torch
        >>> metric = AUROC(num_classes=2)
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]), torch.tensor([0, 1, 1]))
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better = True
    stored = ("probs", "labels")

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = checked_num_classes(num_classes)

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
        top_label(preds, target)  # checks shapes and dtypes
        labels = target if observed is None else torch.where(observed, target, -1)
        probs = preds.movedim(1, -1).flatten(0, -2)
        # One dimension, so that a process without data can join the others.
        self._store(probs=probs.flatten())
        self._store(labels=labels.flatten())

    def _value(self, *columns: Tensor) -> Tensor:
        probs, labels = columns[0].view(-1, self.num_classes), columns[1]
        probs, labels = probs[labels >= 0], labels[labels >= 0]
        classes = [1] if self.num_classes == 2 else range(self.num_classes)
        values = [self._of_class(probs[:, index], labels == index) for index in classes]
        return torch.stack([value for value in values if value is not None] or [self._nan()]).mean()

    def _of_class(self, probs: Tensor, is_class: Tensor) -> Tensor | None:
        inside, outside = probs[is_class], probs[~is_class]
        return self._score(outside, inside) if len(inside) and len(outside) else None

    def _score(self, outside: Tensor, inside: Tensor) -> Tensor:
        return auroc(outside, inside)


class AveragePrecision(AUROC):
    r"""Area under the precision-recall curve (AUPRC) of each class as average precision, averaged over the classes.

    .. math::
        \mathrm{AP}_c = \sum_k (\mathrm{recall}_k - \mathrm{recall}_{k-1})\, \mathrm{precision}_k

    over the thresholds of the probability of class c. With two classes it is that of class 1, which should be the rare
    one: chance has the frequency of the class, so that the score shows what the AUROC hides. Classes without data, or
    with all data, have no part in the mean. It stores all probabilities.

    Args:
        num_classes: number of classes C, at least 2.

    Raises:
        ValueError: if ``num_classes`` is below 2.

    Example:
        >>> import torch
        >>> metric = AveragePrecision(num_classes=2)
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.7, 0.3]]), torch.tensor([0, 0, 1]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def _score(self, outside: Tensor, inside: Tensor) -> Tensor:
        probs = torch.cat([outside, inside]).clamp(0, 1)  # torchmetrics takes other values for logits
        is_class = torch.cat([torch.zeros_like(outside), torch.ones_like(inside)]).long()
        value: Tensor = binary_average_precision(probs, is_class, validate_args=False)
        return value.to(inside.dtype)


class F1Score(ClassCounts):
    r"""F1 score of the most probable class, averaged over the classes.

    .. math::
        F_{1, c} = \frac{2\, \mathrm{TP}_c}{2\, \mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c}

    With two classes it is that of class 1. The mean over several classes, the macro average, gives rare classes the
    weight of frequent ones; classes that neither occur nor are predicted have no part in it.

    Args:
        num_classes: number of classes C, at least 2.

    Raises:
        ValueError: if ``num_classes`` is below 2.

    Example:
        >>> import torch
        >>> metric = F1Score(num_classes=2)
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]]), torch.tensor([0, 0, 1]))
        >>> metric.compute()
        tensor(0.6667)
    """

    def _of_classes(self, true_positive: Tensor, false_positive: Tensor, false_negative: Tensor) -> Tensor:
        return 2 * true_positive / (2 * true_positive + false_positive + false_negative)
