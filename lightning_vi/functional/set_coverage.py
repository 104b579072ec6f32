"""Coverage of the prediction sets of a datum's pixels or positions."""

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

__all__ = ["covered_share"]


def covered_share(pred_set: Tensor, target: Tensor, observed: Tensor | None = None) -> Tensor:
    """Returns the share of the labels of each datum that are in their prediction sets.

    Args:
        pred_set: membership of each class, boolean, shape ``[B, C]`` or ``[B, C, ...]``.
        target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.
        observed: True for the labels to count, the shape of `target`; by default all.

    Returns:
        Between 0 and 1, shape ``[B]``; NaN for data without labels to count.

    Raises:
        ValueError: if the shapes do not match.

    Example:
        >>> sets = torch.tensor([[[True, True], [True, False]]])  # one row of two pixels
        >>> covered_share(sets, torch.tensor([[0, 1]]))
        tensor([0.5000])
    """
    if pred_set.dim() < 2 or pred_set[:, 0].shape != target.shape:
        raise InputValueError(
            f"one class of pred_set must have the shape of target {list(target.shape)}, got {list(pred_set.shape)} "
            "with the classes"
        )
    counted = torch.ones_like(target, dtype=torch.bool) if observed is None else observed
    labels = torch.where(counted, target, 0).long()
    covered = counted & pred_set.gather(1, labels.unsqueeze(1)).squeeze(1)
    inside, count = (part.unsqueeze(-1).flatten(1).sum(1) for part in (covered, counted))
    return inside / count
