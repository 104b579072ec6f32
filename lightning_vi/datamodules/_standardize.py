"""Standardization of columns."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Standardizer:
    """Standardization of columns to mean 0 and standard deviation 1 over the rows that it was fitted on.

    Attributes:
        mean: Column means, [D].
        std: Column standard deviations (ddof = 0), [D]; 1 for columns that are constant or whose standard deviation is
            too small for float32. Such columns are only centered.
    """

    mean: FloatArray
    std: FloatArray

    @classmethod
    def fit(cls, values: FloatArray) -> Self:
        """Returns the standardizer of the rows, [N, D]."""
        std = values.std(axis=0)
        constant = (values.max(axis=0) == values.min(axis=0)) | (std < np.finfo(np.float32).tiny)
        return cls(mean=values.mean(axis=0), std=np.where(constant, 1.0, std))

    def __call__(self, values: FloatArray) -> FloatArray:
        """Returns the standardized values, [N, D]."""
        return np.asarray((values - self.mean) / self.std, dtype=np.float64)


def as_float32(values: FloatArray) -> Tensor:
    """Returns a float32 tensor that shares no memory with `values`."""
    return torch.tensor(values, dtype=torch.float32)
