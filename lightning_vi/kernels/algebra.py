"""Linear algebra of covariance matrices."""

import torch
from torch import Tensor

JITTER = 1e-6
"""Added to the diagonal of a covariance matrix, relative to its mean."""


def precise(x: Tensor) -> Tensor:
    """Converts a tensor to float64, or to float32 where the device has nothing more precise.

    Args:
        x: Any shape.

    Returns:
        The shape of `x`.
    """
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def cholesky(matrix: Tensor) -> Tensor:
    """Cholesky factor of a covariance matrix with a small addition to its diagonal.

    Args:
        matrix: Shape [..., M, M].

    Returns:
        Lower triangular, the shape of `matrix`.
    """
    mean = matrix.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    root: Tensor = torch.linalg.cholesky(matrix + JITTER * mean * eye)
    return root
