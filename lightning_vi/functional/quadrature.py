"""Expectations of functions of one Gaussian variable."""

import numpy as np
import torch
from torch import Tensor


def gauss_hermite(num_nodes: int) -> tuple[Tensor, Tensor]:
    r"""Nodes and weights of Gauss-Hermite quadrature under the standard normal density.

    .. math:: \mathrm{E}_{z \sim \mathcal{N}(0, 1)}[g(z)] \approx \sum_i \omega_i\, g(z_i)

    It is exact for polynomials of degree ``2 * num_nodes - 1``.

    Args:
        num_nodes: How many nodes.

    Returns:
        Nodes and weights, each of shape [num_nodes], in the default type; the weights add up to one.

    Raises:
        ValueError: If `num_nodes` is not positive.

    Example:
        >>> nodes, weights = gauss_hermite(5)
        >>> (weights * nodes**4).sum()
        tensor(3.)
    """
    if num_nodes < 1:
        raise ValueError(f"num_nodes must be positive, got {num_nodes}")
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    dtype = torch.get_default_dtype()
    return torch.tensor(nodes, dtype=dtype), torch.tensor(weights / weights.sum(), dtype=dtype)
