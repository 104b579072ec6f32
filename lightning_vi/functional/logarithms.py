"""Sums of logarithms."""

import torch
from torch import Tensor

_SMALL = 2**12
"""Number of elements up to which several operations take longer than the logarithms."""


def sum_of_logs(values: Tensor, squares: Tensor) -> Tensor:
    """Sum of natural logarithms, which takes one logarithm of the product of several numbers where that is exact.

    Args:
        values: Positive numbers, shape [n]; at least single precision.
        squares: Sum of their squares, a scalar tensor.

    Returns:
        A scalar tensor.

    Example:
        >>> values = torch.tensor([0.5, 2.0, 3.0])
        >>> sum_of_logs(values, values.dot(values))
        tensor(1.0986)
    """
    size = values.numel()
    if values.device.type != "cpu" or size <= _SMALL or torch.compiler.is_compiling() or not squares < 1e4:
        return values.log().sum()
    for factors, lowest in ((8, 1e-24), (4, 1e-32)):  # no number is above 100, so that parts of products are normal too
        end = size - size % factors
        products = values[:end].view(factors, -1).prod(0)
        if products.min() > lowest:
            total = products.log_().sum()
            return total if end == size else total + values[end:].log().sum()
    return values.log().sum()
