"""Constants on the device of other tensors."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def constant_like(values: Sequence[float] | np.ndarray, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Puts numbers on the device of a tensor, without waiting for what the device has still to do.

    Args:
        values: The numbers.
        like: A tensor whose device, and dtype unless `dtype` is given, the result has.
        dtype: Another dtype.

    Returns:
        The numbers, in the shape that they have.

    Example:
        >>> import torch
        >>> constant_like([1, 2], like=torch.zeros(3))
        tensor([1., 2.])
    """
    constants = torch.tensor(values, dtype=dtype or like.dtype, device="cpu")
    # Backends have read or copied memory that is not pinned when the call returns, but for Apple's.
    return constants.to(like.device, non_blocking=like.device.type != "mps")


def kept_constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Puts numbers on a device once, for calls in each step.

    Args:
        values: The numbers.
        dtype: Their type.
        device: Their device.

    Returns:
        Shape [number of values], the same tensor for the same arguments; it must not be modified.

    Example:
        >>> kept_constant((1.0, 2.0), torch.float32, torch.device("cpu"))
        tensor([1., 2.])
    """
    if torch.compiler.is_compiling():  # it cannot see caches
        return torch.tensor(values, dtype=dtype, device=device)
    return _kept(values, dtype, device)


@lru_cache(maxsize=256)
def _kept(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
