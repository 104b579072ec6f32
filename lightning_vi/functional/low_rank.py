"""Factors of a matrix."""

import torch
from torch import Tensor


def best_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""Factors of the best approximation of a matrix by one of lower rank, in the Frobenius norm (Eckart and Young).

    .. math:: W = U S V^\top, \qquad A = U_r S_r^{1/2}, \qquad B = V_r S_r^{1/2}

    Args:
        matrix: W, shape [m, n].
        rank: r, at most the smaller of m and n.

    Returns:
        A, shape [m, r], and B, shape [n, r], with columns of equal norms; :math:`A B^\top` approximates W.

    Example:
        >>> a, b = best_factors(torch.tensor([[3.0, 0.0], [0.0, 1.0]]), rank=1)
        >>> (a @ b.mT).abs().round()
        tensor([[3., 0.],
                [0., 0.]])
    """
    dtype = torch.promote_types(matrix.dtype, torch.float32)
    left, values, right = torch.linalg.svd(matrix.to(dtype), full_matrices=False)
    roots = values[:rank].sqrt()
    return (left[:, :rank] * roots).to(matrix.dtype), (right[:rank].mT * roots).to(matrix.dtype)


def random_factors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""Gaussian factors whose product has elements of the same mean square as a matrix.

    .. math:: A_{ik}, B_{jk} \sim \mathcal{N}(0, \sqrt{v / r}), \qquad \mathrm{Var}[(A B^\top)_{ij}] = v

    Args:
        matrix: Matrix of mean square v, shape [m, n].
        rank: r.

    Returns:
        A, shape [m, r], and B, shape [n, r].

    Example:
        >>> a, b = random_factors(torch.ones(300, 200), rank=50)
        >>> round((a @ b.mT).square().mean().item(), 1)
        1.0
    """
    std = (matrix.square().mean() / rank) ** 0.25
    left, right = (std * torch.randn(len(m), rank, dtype=m.dtype, device=m.device) for m in (matrix, matrix.mT))
    return left, right
