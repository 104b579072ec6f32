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

    Some posteriors have the form :math:`u = \epsilon_1 + m(\epsilon_2)` with one element of :math:`\epsilon_1` for each
    weight. Given :math:`\epsilon_2`, weights are then independent with standard deviations :math:`\sigma`, and a layer
    can draw its outputs instead of its weights in training.

    Attributes:
        num_noise: Length of :math:`\epsilon`.
        num_shared: Length of :math:`\epsilon_2`, which comes last; None if u does not have this form.
        has_gaussian_marginals: Whether each :math:`u_i` is Gaussian.
    """

    num_noise: int
    num_shared: int | None = None
    has_gaussian_marginals: bool = True

    @abstractmethod
    def forward(self, noise: Tensor) -> Tensor:
        """Standardized deviations; an odd function of the noise.

        Args:
            noise: Standard normal, shape [S, num_noise].

        Returns:
            u, shape [S, number of weights].
        """

    def conditional_means(self, shared: Tensor) -> Tensor:
        r"""Means of the standardized deviations given the shared noise, if `num_shared` is not None.

        Args:
            shared: Standard normal, shape [S, num_shared].

        Returns:
            :math:`m(\epsilon_2)`, shape [S, number of weights].
        """
        raise NotImplementedError(f"{type(self).__name__} has no shared noise")

    @abstractmethod
    def marginals(self) -> tuple[Tensor, Tensor]:
        """Marginal standard deviations, and divergence from independent marginals.

        Returns:
            The standard deviations c, shape [number of weights]; and D in nats, a scalar tensor.
        """


CouplingFactory = Callable[[Sequence[torch.Size]], NoiseCoupling | None]
"""Makes a coupling from the shapes of the stochastic tensors, tied ones once; None for independent weights. The weights
are numbered in this order, the elements of each tensor as `flatten` orders them."""
