"""Metrics of segmentations."""

from typing import Any

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.set_coverage import covered_share
from lightning_vi.metrics.base import MeanScore
from lightning_vi.metrics.class_counts import ClassCounts

__all__ = ["ImageCoverage", "MeanIoU"]


class MeanIoU(ClassCounts):
    r"""Intersection over union of predicted and true regions, the Jaccard index, averaged over the classes.

    .. math::
        \mathrm{IoU}_c = \frac{\mathrm{TP}_c}{\mathrm{TP}_c + \mathrm{FP}_c + \mathrm{FN}_c}

    with the most probable class of each pixel, and pixels counted over all images. The mean is over all classes, also
    if there are two; classes that neither occur nor are predicted have no part in it. Pixels that are not observed are
    left out.

    Args:
        num_classes: number of classes C, at least 2.

    Raises:
        ValueError: if ``num_classes`` is below 2.

    Example:
        >>> import torch
        >>> metric = MeanIoU(num_classes=2)
        >>> probs = torch.tensor([[[0.9, 0.4, 0.3], [0.1, 0.6, 0.7]]])  # one row of three pixels
        >>> metric.update(probs, torch.tensor([[0, 0, 1]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    averages_two_classes = True

    def _of_classes(self, true_positive: Tensor, false_positive: Tensor, false_negative: Tensor) -> Tensor:
        return true_positive / (true_positive + false_positive + false_negative)


class ImageCoverage(MeanScore):
    """Fraction of the images in which prediction sets contain at least a share of the labels.

    `PredictionSetCoverage` pools the pixels of all images: a few images that are missed altogether hardly change it.
    `lightning_vi.functional.covered_share` returns the share of each image.

    Args:
        share: share of the labels of an image, between 0 (exclusive) and 1.

    Raises:
        ValueError: if ``share`` is out of range.

    Example:
        >>> import torch
        >>> metric = ImageCoverage(share=0.5)
        >>> sets = torch.tensor([[[True, True], [True, False]], [[False, False], [True, True]]])
        >>> metric.update(sets, torch.tensor([[0, 1], [0, 0]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better: bool | None = True

    def __init__(self, share: float = 0.9, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < share <= 1:
            raise InputValueError(f"share must be larger than 0 and at most 1, got {share!r}")
        self.share = share

    def update(self, pred_set: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            pred_set: membership of each class, boolean, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, its shape; by default all. Images without any are
                left out.

        Raises:
            ValueError: if the shapes do not match.
        """
        shares = covered_share(pred_set, target, observed)
        is_counted = shares.isnan().logical_not()
        # The tolerance is less than a pixel of any image, and more than the rounding of the share.
        self._accumulate((shares >= self.share - 1e-6).to(torch.float32), is_counted)
