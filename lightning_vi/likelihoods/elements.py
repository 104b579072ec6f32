"""Values of the elements of a target, of which some may be missing, and their sums over each datum."""

import torch
from torch import Tensor


def weighted(elements: Tensor, observed: Tensor | None, weight: Tensor | None) -> Tensor:
    """Multiplies the values of elements by their weights.

    Args:
        elements: Shape [S, B, ...].
        observed: True for elements that are not missing, shape [B, ...]; None for all.
        weight: Shape [B] or [B, ...]; None for one.

    Returns:
        The shape of `elements`, zero where they are missing.
    """
    if observed is not None:
        elements = torch.where(observed, elements, elements.new_zeros(()))
    if weight is not None:
        elements = elements * weight.to(elements.dtype).view(*weight.shape, *[1] * (elements.dim() - 1 - weight.dim()))
    return elements


def sum_over_datum(elements: Tensor) -> Tensor:
    """Sums over the elements of each datum.

    Args:
        elements: Shape [S, B, ...].

    Returns:
        Shape [S, B].
    """
    return elements.flatten(2).sum(-1) if elements.dim() > 2 else elements
