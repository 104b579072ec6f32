"""Consecutive parts of a vector."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from lightning_vi.functional.constants import kept_constant

_SMALL = 2**12
"""Number of elements up to which a CPU takes less time for all sums in one operation."""


def sums_of_parts(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Sums over consecutive parts of a vector.

    Args:
        values: Shape [n].
        sizes: Sizes of the parts, positive, with sum n.

    Returns:
        Shape [number of parts].

    Example:
        >>> sums_of_parts(torch.tensor([1.0, 2.0, 3.0]), sizes=[2, 1])
        tensor([3., 3.])
    """
    if not values.requires_grad and (values.device.type == "cuda" or len(values) <= _SMALL):
        lengths = kept_constant(tuple(sizes), torch.int64, values.device)
        return torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)  # it has no second derivative
    return torch.stack([part.sum() for part in values.split_with_sizes(list(sizes))])


def spread_over_parts(values: Tensor, sizes: Sequence[int]) -> Tensor:
    """Repeats one number for each part of a vector over the elements of that part.

    Args:
        values: Shape [number of parts].
        sizes: Sizes of the parts.

    Returns:
        Shape [sum of `sizes`].

    Example:
        >>> spread_over_parts(torch.tensor([1.0, 2.0]), sizes=[2, 1])
        tensor([1., 1., 2.])
    """
    return values.index_select(0, _indices(tuple(sizes), values.device))


@lru_cache(maxsize=64)
def _indices(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Index of the part of each element."""
    with torch.inference_mode(False):
        lengths = torch.tensor(sizes, device="cpu")
        return torch.repeat_interleave(lengths).to(device)
