"""Base class of joint posteriors of many tensors."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class NoiseCoupling(nn.Module, ABC):
    r"""A joint posterior of all stochastic weights, as a map from independent noise to standardized deviations.

    .. math:: w = \mu + \sigma \odot u, \qquad u = g(\epsilon), \qquad \epsilon \sim \mathcal{N}(0, I)

    With u equal to the noise it is the mean-field posterior. For any prior that treats weights independently,

    .. math:: \mathrm{KL}[q \| p] = \mathrm{KL}\Big[\prod_i \mathcal{N}(\mu_i, \sigma_i^2 c_i^2) \Big\| p\Big] + D,
        \qquad c_i = \mathrm{std}[u_i], \quad D = \mathrm{KL}\Big[q(u) \Big\| \prod_i \mathcal{N}(0, c_i^2)\Big]

    where either the :math:`u_i` are Gaussian, and D is their total correlation, or the prior's expected log density
    depends on means and variances alone.

    Attributes:
        num_noise: Length of :math:`\epsilon`.
        has_gaussian_marginals: Whether each :math:`u_i` is Gaussian.
    """

    num_noise: int
    has_gaussian_marginals: bool = True

    @abstractmethod
    def forward(self, noise: Tensor) -> Tensor:
        """Standardized deviations; an odd function of the noise.

        Args:
            noise: Standard normal, shape [S, num_noise].

        Returns:
            u, shape [S, number of weights].
        """

    @abstractmethod
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Marginal standard deviations, and divergence from independent marginals.

        Returns:
            The standard deviations c, shape [number of weights]; and D in nats, a scalar tensor.
        """


CouplingFactory = Callable[[Sequence[torch.Size]], NoiseCoupling | None]
"""Makes a coupling from the shapes of the stochastic tensors, tied ones once; None for independent weights. The weights
are numbered in this order, the elements of each tensor as `flatten` orders them."""
