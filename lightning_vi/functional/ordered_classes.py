"""Scores of ordered classes."""

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

__all__ = ["class_distance", "ranked_probability_score"]


def class_distance(probs: Tensor, target: Tensor) -> Tensor:
    """Returns the distance of the most probable class from the observed one, in classes.

    Args:
        probs: probabilities of ordered classes, shape ``[B, C]`` or ``[B, C, ...]``.
        target: class numbers, an integer tensor of shape ``[B]`` or ``[B, ...]``.

    Returns:
        Integers, the shape of `target`.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> class_distance(torch.tensor([[0.2, 0.1, 0.7]]), torch.tensor([0]))
        tensor([2])
    """
    _check(probs, target)
    return (probs.argmax(1) - target).abs()


def ranked_probability_score(probs: Tensor, target: Tensor) -> Tensor:
    r"""Returns the ranked probability score of ordered classes (Epstein, 1969), the CRPS of the class number.

    .. math:: \mathrm{RPS} = \sum_{k = 0}^{C - 2} \Big( \sum_{c \le k} p_c - 1\{y \le k\} \Big)^2

    It is a proper score: 0 is perfect, and a forecast that is certain and wrong by d classes has the score d.

    Args:
        probs: probabilities of ordered classes, shape ``[B, C]`` or ``[B, C, ...]``.
        target: class numbers, an integer tensor of shape ``[B]`` or ``[B, ...]``.

    Returns:
        The shape of `target`.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> ranked_probability_score(torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([0]))
        tensor([0.2500])
    """
    _check(probs, target)
    probs = probs.to(torch.promote_types(probs.dtype, torch.float32))
    numbers = torch.arange(probs.shape[1] - 1, device=probs.device).view(-1, *[1] * (target.dim() - 1))
    at_most = target.unsqueeze(1) <= numbers
    return (probs.cumsum(1)[:, :-1] - at_most.to(probs.dtype)).square().sum(1)


def _check(probs: Tensor, target: Tensor) -> None:
    if probs.dim() < 2 or probs[:, 0].shape != target.shape:
        raise InputValueError(
            f"one class of probs must have the shape of target {list(target.shape)}, got {list(probs.shape)} with the "
            "classes"
        )
