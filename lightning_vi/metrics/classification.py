"""Metrics of class probabilities."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_vi.errors import InputValueError
from lightning_vi.functional.scoring import brier_score, expected_calibration_error, top_label, top_label_bins
from lightning_vi.metrics.base import MeanScore

__all__ = ["Accuracy", "BrierScore", "ExpectedCalibrationError"]


class Accuracy(MeanScore):
    """Fraction of the data whose most probable class is the observed class.

    The same value as ``torchmetrics.classification.MulticlassAccuracy(average="micro")``, which however synchronizes
    with the GPU to validate the labels.

    Args:
        num_classes: number of classes C; predictions of another width are rejected. None: not checked.

    Example:
        >>> import torch
        >>> metric = Accuracy(num_classes=2)
        >>> metric.update(torch.tensor([[0.3, 0.7], [0.9, 0.1]]), torch.tensor([1, 1]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better: bool | None = True

    def __init__(self, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes

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
        self._accumulate(top_label(preds, target)[1], observed)


class BrierScore(MeanScore):
    r"""Mean Brier score of class probabilities, summed over the classes.

    .. math::
        \mathrm{BS} = \frac{1}{N} \sum_{n=1}^{N} \sum_{c=1}^{C} (p_{nc} - 1\{c = y_n\})^2

    Brier (1950), "Verification of forecasts expressed in terms of probability". A proper scoring rule between 0 and 2;
    lower is better.

    Args:
        num_classes: number of classes C; predictions of another width are rejected. None: not checked.

    Example:
        >>> import torch
        >>> metric = BrierScore(num_classes=2)
        >>> metric.update(torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([0, 0]))
        >>> metric.compute()
        tensor(0.2600)
    """

    def __init__(self, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes

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
        labels = target if observed is None else target * observed
        self._accumulate(brier_score(preds, labels), observed)


class ExpectedCalibrationError(Metric):
    r"""Expected calibration error (ECE) of the most probable class, over confidence bins of equal width.

    .. math::
        \mathrm{ECE} = \sum_{b=1}^{M} \frac{n_b}{N} \, |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    Guo, Pleiss, Sun and Weinberger (2017), "On Calibration of Modern Neural Networks". Between 0 and 1; lower is
    better. It is not a proper scoring rule: constant class frequencies reach 0.

    ``torchmetrics.classification.MulticlassCalibrationError(norm="l1")`` stores all predictions until the end of the
    epoch, has a separate bin for a confidence of exactly 1, and treats a batch as logits if one probability is rounded
    to more than 1. This metric stores the sums of each bin, and never interprets probabilities as logits.

    Args:
        num_classes: number of classes C; predictions of another width are rejected. None: not checked.
        num_bins: number of bins M.

    Raises:
        ValueError: if ``num_bins`` is not a positive integer.

    Example:
        >>> import torch
        >>> metric = ExpectedCalibrationError(num_classes=2)
        >>> metric.update(torch.tensor([[0.1, 0.9], [0.1, 0.9]]), torch.tensor([1, 0]))
        >>> metric.compute()
        tensor(0.4000)
    """

    is_differentiable: bool = False
    higher_is_better: bool = False
    full_state_update: bool = False

    bins: Tensor

    def __init__(self, num_classes: int | None = None, num_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(num_bins, int) or num_bins < 1:
            raise InputValueError(f"num_bins must be a positive integer, got {num_bins!r}")
        self.num_classes = num_classes
        self.num_bins = num_bins
        self.add_state("bins", default=torch.zeros(3, num_bins), dist_reduce_fx="sum")

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
        bins = top_label_bins(*top_label(preds, target), self.num_bins, observed)
        self.bins = self.bins + bins.to(self.bins.dtype)

    def compute(self) -> Tensor:
        """Returns the expected calibration error, a scalar tensor; NaN without data."""
        return expected_calibration_error(self.bins)


def check_width(preds: Tensor, num_classes: int | None) -> None:
    """Raises a `ValueError` if predictions do not have the given number of classes; None allows any."""
    if num_classes is not None and preds.shape[1:2] != (num_classes,):
        raise InputValueError(
            f"preds must have shape [B, {num_classes}] or [B, {num_classes}, ...], got {list(preds.shape)}"
        )
