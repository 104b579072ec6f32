"""Fully factorized Gaussian posterior."""

import math
from collections.abc import Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.errors import InputValueError


class GaussianDivergence(Protocol):
    """A prior with a KL divergence from a Gaussian."""

    def kl_from_gaussian(self, mean: Tensor, std: Tensor) -> Tensor:
        """Summed KL divergence from a diagonal Gaussian, in nats."""


class MeanFieldGaussian:
    r"""A Gaussian with independent elements (Blundell et al., 2015).

    .. math:: q(w) = \prod_i \mathcal{N}(w_i \mid \mu_i, \sigma_i^2), \qquad \sigma_i = \ln(1 + e^{\rho_i})

    It is a view of two tensors, without parameters.

    Args:
        mu: Means, any shape.
        rho: Unconstrained scales, the shape of `mu`; None if `std` is given.
        std: The softplus of `rho`, if it has been computed already.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> import torch
        >>> from lightning_vi.posteriors import inverse_softplus
        >>> posterior = MeanFieldGaussian(torch.zeros(2), torch.full((2,), inverse_softplus(0.5)))
        >>> posterior.std
        tensor([0.5000, 0.5000])
    """

    def __init__(self, mu: Tensor, rho: Tensor | None, std: Tensor | None = None) -> None:
        if std is None and rho is not None and mu.shape != rho.shape:
            raise InputValueError(f"mu and rho must have one shape, got {tuple(mu.shape)} and {tuple(rho.shape)}")
        self.mu = mu
        self.rho = rho
        self._std = std

    @classmethod
    def join(cls, posteriors: "Sequence[MeanFieldGaussian]") -> "MeanFieldGaussian":
        """The joint posterior of several tensors, as one of shape [number of elements]."""
        if len(posteriors) == 1:
            return posteriors[0]
        mu = torch.cat([posterior.mu.flatten() for posterior in posteriors])
        stds = [posterior._std.flatten() for posterior in posteriors if posterior._std is not None]
        if len(stds) == len(posteriors):
            return cls(mu, None, torch.cat(stds))
        return cls(mu, torch.cat([cast(Tensor, posterior.rho).flatten() for posterior in posteriors]))

    def with_std(self) -> "MeanFieldGaussian":
        """The posterior with its standard deviations computed."""
        return self if self._std is not None else MeanFieldGaussian(self.mu, self.rho, self.std)

    @property
    def mean(self) -> Tensor:
        """Posterior means, the shape of `mu`."""
        return self.mu

    @property
    def std(self) -> Tensor:
        """Posterior standard deviations, the shape of `mu`; at least float32 under mixed precision."""
        return F.softplus(cast(Tensor, self.rho)) if self._std is None else self._std

    def rsample(self, noise: Tensor) -> Tensor:
        """Reparameterized draws, differentiable in `mu` and `rho`.

        Args:
            noise: Standard normal, the shape of `mu` with any leading dimensions.

        Returns:
            Draws of the shape of `noise`.
        """
        return torch.addcmul(self.mu, self.std, noise)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density of each element.

        Args:
            value: The shape of `mu` with any leading dimensions.

        Returns:
            Nats, the shape of `value`.
        """
        std = self.std
        return -0.5 * ((value - self.mu) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)

    def kl(self, prior: GaussianDivergence) -> Tensor:
        """KL divergence to `prior`, summed over the elements, in nats."""
        return prior.kl_from_gaussian(self.mu, self.std)


def draw_together(means: Sequence[Tensor], stds: Sequence[Tensor], noises: Sequence[Tensor]) -> Sequence[Tensor]:
    """Reparameterized draws of several tensors, differentiable in means and standard deviations, in one node.

    Args:
        means: Posterior means, any shapes.
        stds: Posterior standard deviations, the same shapes.
        noises: Standard normal, the same shapes with a leading dimension S each. They may be computed from parameters.

    Returns:
        Draws of the shapes of `noises`.

    Example:
        >>> draw_together([torch.zeros(2)], [torch.ones(2)], [torch.tensor([[0.5, -1.0]])])
        (tensor([[ 0.5000, -1.0000]]),)
    """
    is_computed = any(noise.requires_grad for noise in noises)  # deviations of a coupling
    if not noises or is_computed or torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return [torch.addcmul(*each) for each in zip(means, stds, noises, strict=True)]
    draws: tuple[Tensor, ...] = _Draws.apply(noises, *means, *stds)  # type: ignore[no-untyped-call]
    return draws


class _Draws(torch.autograd.Function):
    """The derivative of `torch.addcmul` by a factor multiplies the other one by its coefficient 1 first."""

    @staticmethod
    def forward(ctx: Any, noises: Sequence[Tensor], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*noises)
        return tuple(torch._foreach_addcmul(tensors[: len(noises)], tensors[len(noises) :], tuple(noises)))

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        of_means, of_stds = list[Tensor | None](), list[Tensor | None]()
        for gradient, noise in zip(grad_outputs, ctx.saved_tensors, strict=True):
            of_means.append(None if gradient is None else _summed(gradient))
            of_stds.append(None if gradient is None else _summed(gradient * noise))
        return None, *of_means, *of_stds


def _summed(gradient: Tensor) -> Tensor:
    return gradient.sum(0) if gradient.shape[0] > 1 else gradient.squeeze(0)
