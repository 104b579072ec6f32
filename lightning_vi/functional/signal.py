"""Signal and noise of weights with a posterior."""

import torch
from torch import Tensor


def signal_to_noise(mean: Tensor, std: Tensor) -> Tensor:
    r"""Ratio :math:`|\mu| / \sigma` of each weight, by which Blundell et al. (2015) prune weights.

    Args:
        mean: Posterior means, any shape.
        std: Posterior standard deviations, the shape of `mean`.

    Returns:
        The ratios, the shape of `mean`.

    Example:
        >>> import torch
        >>> signal_to_noise(torch.tensor([1.0, -3.0]), torch.tensor([0.5, 1.0]))
        tensor([2., 3.])
    """
    return mean.abs() / std


def unit_signal_to_noise(mean: Tensor, std: Tensor, dim: int = 0) -> Tensor:
    r"""Largest signal-to-noise ratio that any input can give to each unit.

    A unit with weights :math:`w \sim \mathcal{N}(\mu, \mathrm{diag}(\sigma^2))` computes :math:`w^\top x`, whose mean
    is :math:`\mu^\top x` and whose variance is :math:`\sum_i \sigma_i^2 x_i^2`. By the inequality of Cauchy and Schwarz

    .. math:: \max_x \frac{|\mu^\top x|}{\sqrt{\sum_i \sigma_i^2 x_i^2}} = \sqrt{\sum_i \mu_i^2 / \sigma_i^2} .

    Args:
        mean: Posterior means, at least two dimensions.
        std: Posterior standard deviations, the shape of `mean`.
        dim: Dimension of the units; the sum is over all others.

    Returns:
        Shape [number of units].

    Example:
        >>> import torch
        >>> unit_signal_to_noise(torch.tensor([[3.0, 4.0], [0.0, 0.1]]), torch.ones(2, 2))
        tensor([5.0000, 0.1000])
    """
    norms: Tensor = torch.linalg.vector_norm((mean / std).movedim(dim, 0).flatten(1), dim=1)
    return norms
