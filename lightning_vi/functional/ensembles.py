"""Diversity of an ensemble's members."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from lightning_vi.errors import InputValueError

__all__ = ["disagreement"]


def disagreement(predictions: Tensor, task: Literal["regression", "classification"]) -> Tensor:
    r"""Distance between the predictions of an ensemble's members, averaged over pairs of members and over data.

    Args:
        predictions: Each member's means [M, B, ..., D] or class probabilities [M, B, C, ...].
        task: ``"regression"`` for means, ``"classification"`` for probabilities.

    Returns:
        A scalar tensor: the fraction of pairs whose most probable classes differ (Fort et al., "Deep ensembles: a loss
        landscape perspective", 2019), or the root mean square difference of two means, in target units; 0 for one
        member.

    Raises:
        ValueError: If `task` is unknown.

    Example:
        >>> import torch
        >>> disagreement(torch.tensor([[[0.0]], [[3.0]]]), "regression")
        tensor(3.)
        >>> disagreement(torch.tensor([[[0.9, 0.1], [0.2, 0.8]], [[0.6, 0.4], [0.7, 0.3]]]), "classification")
        tensor(0.5000)
    """
    if task not in ("regression", "classification"):
        raise InputValueError(f"task must be 'regression' or 'classification', got {task!r}")
    num_members = len(predictions)
    pairs = max(num_members * (num_members - 1), 1)
    if task == "regression":
        return (2 * num_members * num_members / pairs * predictions.var(0, correction=0).mean()).sqrt()
    votes = F.one_hot(predictions.argmax(2), predictions.shape[2]).sum(0)
    agreeing = (votes * (votes - 1)).sum(-1)
    return 1 - agreeing.to(predictions.dtype).mean() / pairs if num_members > 1 else predictions.new_zeros(())
