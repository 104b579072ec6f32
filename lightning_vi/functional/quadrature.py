"""Deterministic rules for expectations under a standard normal density."""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.quasirandom import SobolEngine

from lightning_vi.errors import InputValueError
from lightning_vi.functional.constants import constant_like

__all__ = [
    "NUM_EQUAL_POINTS",
    "NUM_NODES",
    "NUM_POINTS",
    "at_nodes",
    "equal_points",
    "gauss_hermite",
    "gaussian_nodes",
    "sobol_gaussian",
]

NUM_NODES, NUM_POINTS = 32, 512
"""Numbers of nodes of `gaussian_nodes` in one dimension, and in several."""
NUM_EQUAL_POINTS = 64
"""Number of points of `equal_points`."""


def gauss_hermite(num_nodes: int, dtype: torch.dtype | None = None) -> tuple[Tensor, Tensor]:
    r"""Nodes and weights of Gauss-Hermite quadrature under the standard normal density.

    .. math:: \mathrm{E}_{z \sim \mathcal{N}(0, 1)}[g(z)] \approx \sum_i \omega_i\, g(z_i)

    The rule is exact for polynomials of degree ``2 * num_nodes - 1``.

    Args:
        num_nodes: Number of nodes.
        dtype: Their type; None for the default dtype.

    Returns:
        Nodes and weights, each of shape [num_nodes]; the weights add up to one.

    Raises:
        ValueError: If `num_nodes` is not positive.

    Example:
        >>> nodes, weights = gauss_hermite(5)
        >>> (weights * nodes**4).sum()
        tensor(3.)
    """
    if num_nodes < 1:
        raise InputValueError(f"num_nodes must be positive, got {num_nodes}")
    nodes, weights = _gauss_hermite(num_nodes)
    dtype = torch.get_default_dtype() if dtype is None else dtype
    return torch.tensor(nodes, dtype=dtype), torch.tensor(weights, dtype=dtype)


def sobol_gaussian(num_points: int, dim: int) -> Tensor:
    r"""Quasi-Monte Carlo points of the standard normal density in several dimensions.

    Unscrambled Sobol points, each moved to the center of its cell, are mapped by the normal quantile function (Joe and
    Kuo, "Constructing Sobol sequences with better two-dimensional projections", 2008). If there are at least four times
    as many points as dimensions, a linear map then gives them zero mean and unit covariance, so that the average over
    the points is exact for quadratic functions.

    Args:
        num_points: Number of points, a power of two.
        dim: Number of dimensions.

    Returns:
        Shape [num_points, dim], in the default dtype.

    Raises:
        ValueError: If `num_points` is not a power of two or `dim` is not positive.

    Example:
        >>> points = sobol_gaussian(64, 2)
        >>> (points[:, 0] * points[:, 1]).mean().abs() < 1e-6
        tensor(True)
    """
    if num_points < 1 or num_points & (num_points - 1):
        raise InputValueError(f"num_points must be a power of two, got {num_points}")
    if dim < 1:
        raise InputValueError(f"dim must be positive, got {dim}")
    return torch.tensor(_sobol_gaussian(num_points, dim), dtype=torch.get_default_dtype())


def gaussian_nodes(dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    r"""Nodes and weights for the expectation of a function of independent standard normal variables.

    .. math:: \mathrm{E}_{z \sim \mathcal{N}(0, I)}[g(z)] \approx \sum_i \omega_i\, g(z_i)

    One variable has the 32 nodes of `gauss_hermite`, several variables have the 512 points of `sobol_gaussian`.

    Args:
        dim: K, the number of variables.
        like: Sets the device and the dtype, which is at least float32.

    Returns:
        Nodes [Q, K] and weights [Q]; the weights add up to one.

    Raises:
        ValueError: If `dim` is not positive.

    Example:
        >>> nodes, weights = gaussian_nodes(3, like=torch.zeros(()))
        >>> weights @ nodes.square().sum(1)
        tensor(3.)
    """
    if dim < 1:
        raise InputValueError(f"dim must be positive, got {dim}")
    if dim == 1:
        nodes, weights = _gauss_hermite(NUM_NODES)
        nodes = nodes[:, None]
    else:
        nodes, weights = _sobol_gaussian(NUM_POINTS, dim), np.full(NUM_POINTS, 1 / NUM_POINTS)
    dtype = torch.promote_types(like.dtype, torch.float32)
    return constant_like(nodes, like, dtype), constant_like(weights, like, dtype)


def equal_points(dim: int, like: Tensor) -> Tensor:
    """Points of the standard normal density with equal weights, in the place of samples.

    They are the 64 points of `sobol_gaussian`, in many dimensions with the mean and the variance of each made exact.

    Args:
        dim: K, the number of variables.
        like: Sets the device and the dtype, which is at least float32.

    Returns:
        Shape [64, K].

    Raises:
        ValueError: If `dim` is not positive.

    Example:
        >>> equal_points(3, like=torch.zeros(())).square().mean(0)
        tensor([1.0000, 1.0000, 1.0000])
    """
    if dim < 1:
        raise InputValueError(f"dim must be positive, got {dim}")
    points = _sobol_gaussian(NUM_EQUAL_POINTS, dim)
    if 4 * dim > NUM_EQUAL_POINTS:
        points = (points - points.mean(0)) / points.std(0)
    return constant_like(points, like, torch.promote_types(like.dtype, torch.float32))


def at_nodes(nodes: Tensor, mean: Tensor, std: Tensor, dim: int = -1) -> Tensor:
    """Values of independent Gaussian variables at standardized nodes, of which groups of K variables have the same.

    The j-th variables of all groups are next to each other: the first one of each group, the second one, etc.

    Args:
        nodes: Shape [Q, K].
        mean: Means, shape [B, ...].
        std: Standard deviations, the shape of `mean`.
        dim: The dimension of `mean` that has the variables, a multiple of K; not the first.

    Returns:
        Shape [Q, B, ...].

    Example:
        >>> at_nodes(torch.tensor([[-1.0, 0.0], [0.0, 2.0]]), torch.zeros(1, 4), torch.ones(1, 4))
        tensor([[[-1., -1.,  0.,  0.]],
        <BLANKLINE>
                [[ 0.,  0.,  2.,  2.]]])
    """
    nodes = nodes.repeat_interleave(mean.shape[dim] // nodes.shape[1], dim=1)
    mean_last, std_last = (moment.movedim(dim, -1) for moment in (mean, std))
    values = mean_last + std_last * nodes.view(len(nodes), *[1] * (mean.dim() - 1), -1)
    return values.movedim(-1, dim + 1 if dim >= 0 else dim)


@lru_cache(maxsize=32)
def _gauss_hermite(num_nodes: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return nodes, weights / weights.sum()


@lru_cache(maxsize=32)
def _sobol_gaussian(num_points: int, dim: int) -> NDArray[np.float64]:
    uniform = SobolEngine(dim).draw(num_points, dtype=torch.float64) + 0.5 / num_points  # type: ignore[no-untyped-call]
    points: NDArray[np.float64] = torch.special.ndtri(uniform).numpy()
    if 4 * dim > num_points:
        return points
    centered = points - points.mean(0)
    root = np.linalg.cholesky(centered.T @ centered / num_points)
    return np.linalg.solve(root, centered.T).T
