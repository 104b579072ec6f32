"""Sums of logarithms."""

from collections.abc import Sequence

import torch
from torch import Tensor

_SMALL = 2**14
"""Number of elements up to which tensors are joined."""
_MAX_FACTOR = 100.0


def sum_of_logs(tensors: Sequence[Tensor], largest: Tensor) -> Tensor:
    """Sum of natural logarithms, which takes one logarithm of the product of several numbers where that is exact.

    Args:
        tensors: Positive numbers, any shapes; at least single precision.
        largest: Bound of all numbers, a scalar tensor.

    Returns:
        A scalar tensor.

    Example:
        >>> sum_of_logs([torch.tensor([0.5, 2.0]), torch.tensor([3.0])], torch.tensor(3.0))
        tensor(1.0986)
    """
    large = [tensor.reshape(-1) for tensor in tensors if tensor.numel() > _SMALL]
    small = [tensor.reshape(-1) for tensor in tensors if tensor.numel() <= _SMALL]
    terms = [torch.cat(small).log().sum()] if small else []
    if not large:
        return terms[0]
    # On other devices the comparison would wait for what the device has still to do.
    takes_products = large[0].device.type == "cpu" and not torch.compiler.is_compiling() and bool(largest < _MAX_FACTOR)
    terms += [_log_of_products(values) if takes_products else values.log().sum() for values in large]
    return torch.stack(terms).sum()


def _log_of_products(values: Tensor) -> Tensor:
    size = values.numel()
    for factors, lowest in ((8, 1e-24), (4, 1e-32)):  # no number is above 100, so that parts of products are normal too
        end = size - size % factors
        products = values[:end].view(factors, -1).prod(0)
        if products.min() > lowest:
            total = products.log_().sum()
            return total if end == size else total + values[end:].log().sum()
    return values.log().sum()
