"""Metrics of ordered classes."""

from torch import Tensor

from lightning_vi.functional.ordered_classes import class_distance, ranked_probability_score
from lightning_vi.metrics.base import MeanScore

__all__ = ["ClassDistance", "RankedProbabilityScore"]


class ClassDistance(MeanScore):
    """Mean absolute error of the number of the most probable class, for ordered classes.

    Example:
        >>> import torch
        >>> metric = ClassDistance()
        >>> metric.update(torch.tensor([[0.2, 0.1, 0.7], [0.9, 0.1, 0.0]]), torch.tensor([0, 0]))
        >>> metric.compute()
        tensor(1.)
    """

    higher_is_better: bool | None = False

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: class probabilities, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class numbers, an integer tensor of shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        self._accumulate(class_distance(preds, target), observed)


class RankedProbabilityScore(MeanScore):
    r"""Mean ranked probability score of ordered classes, a proper score that counts how far off a class is.

    .. math:: \sum_{k = 0}^{C - 2} \Big( \sum_{c \le k} p_c - 1\{y \le k\} \Big)^2

    See `lightning_vi.functional.ranked_probability_score`.

    Example:
        >>> import torch
        >>> metric = RankedProbabilityScore()
        >>> metric.update(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([0]))
        >>> metric.compute()
        tensor(0.2500)
    """

    higher_is_better: bool | None = False

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: class probabilities, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class numbers, an integer tensor of shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        self._accumulate(ranked_probability_score(preds, target), observed)
