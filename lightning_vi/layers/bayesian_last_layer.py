r"""Variational Bayesian last layers with output moments in closed form.

Harrison, Willes and Snoek, "Variational Bayesian last layers", ICLR 2024. Output k of K is :math:`w_k^\top \phi` with

.. math:: q(w_k) = \mathcal{N}(\mu_k, S_k), \qquad p(w_k) = \mathcal{N}(0, s^2 I), \qquad
    w_k^\top \phi \sim \mathcal{N}(\mu_k^\top \phi,\ \phi^\top S_k \phi),

and the outputs are independent. A bias is treated as the weight of an additional last feature that is always one.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.errors import InputValueError
from lightning_vi.functional import gaussian_kl
from lightning_vi.noise import sample_noise
from lightning_vi.posteriors import inverse_softplus


class BayesianLastLayer(nn.Module, ABC):
    r"""Base class of linear heads with a Gaussian posterior over the weights of each output.

    The number of features F includes the feature of the bias.

    Args:
        layer: Linear layer whose weight and bias become posterior means; it is not modified.
        prior_std: s, the prior standard deviation of each weight and bias.
        init_std: Initial posterior standard deviation of each weight and bias.

    Raises:
        ValueError: If a standard deviation is not positive and finite.
    """

    def __init__(self, layer: nn.Linear, *, prior_std: float, init_std: float) -> None:
        super().__init__()
        for name, value in (("prior_std", prior_std), ("init_std", init_std)):
            if not (value > 0 and math.isfinite(value)):
                raise InputValueError(f"{name} must be positive and finite, got {value}")
        columns = [layer.weight] if layer.bias is None else [layer.weight, layer.bias.unsqueeze(1)]
        self.in_features = layer.in_features
        self.out_features = layer.out_features
        self.has_bias = layer.bias is not None
        self.prior_std = prior_std
        self.weight_mu = nn.Parameter(torch.cat(columns, dim=1).detach().clone())
        self.weight_rho = nn.Parameter(torch.full_like(self.weight_mu, inverse_softplus(init_std)))

    @property
    def num_noise(self) -> int:
        """Number of standard normal numbers needed for one sample of the weights."""
        return self.weight_mu.numel()

    @abstractmethod
    def covariance(self) -> Tensor:
        """Posterior covariance of the weights of each output, shape [K, F, F]."""

    @torch.no_grad()
    def marginal_std(self) -> Tensor:
        """Computes the marginal standard deviations of the weights, shape of `weight_mu`."""
        return self.covariance().diagonal(dim1=-2, dim2=-1).sqrt()

    @abstractmethod
    def kl(self) -> Tensor:
        """KL divergence from posterior to prior in nats, summed over all weights; a scalar tensor."""

    @abstractmethod
    def _variance(self, phi: Tensor) -> Tensor:
        """Variance of the outputs [..., K] for features [..., F]."""

    @abstractmethod
    def _deviations(self, noise: Tensor) -> Tensor:
        """Transforms standard normal noise [S, num_noise] to deviations from the mean [S, K, F]."""

    def forward(self, features: Tensor) -> Tensor:
        """Posterior mean of the outputs.

        Args:
            features: Shape [..., in_features].

        Returns:
            Shape [..., K].

        Raises:
            ValueError: If the last dimension of the features is not `in_features`.
        """
        return F.linear(self._with_bias(features), self.weight_mu)

    def moments(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance of the outputs, computed in the precision of the weights even under autocast.

        Args:
            features: Shape [..., in_features].

        Returns:
            Each of shape [..., K].

        Raises:
            ValueError: If the last dimension of the features is not `in_features`.
        """
        with torch.autocast(features.device.type, enabled=False):
            phi = self._with_bias(features.to(self.weight_mu.dtype))
            return F.linear(phi, self.weight_mu), self._variance(phi)

    def draw(self, first: int, stop: int, seed: int) -> Tensor:
        """Weight samples of a range of indices; each sample depends only on the seed and its index.

        Args:
            first: Index of the first sample.
            stop: Index after the last sample.
            seed: Random seed.

        Returns:
            Shape [stop - first, K, F].
        """
        noise = sample_noise(seed, first, stop, self.num_noise)
        return self.weight_mu + self._deviations(noise.to(self.weight_mu))

    def sampled_outputs(self, features: Tensor, weights: Tensor) -> Tensor:
        """Outputs for sampled weights.

        Args:
            features: Shape [..., in_features].
            weights: Weights from `draw`, shape [S, K, F].

        Returns:
            Shape [S, ..., K].
        """
        phi = self._with_bias(features)
        outputs = phi.reshape(-1, phi.shape[-1]) @ weights.mT
        return outputs.view(len(weights), *phi.shape[:-1], self.out_features)

    def extra_repr(self) -> str:  # noqa: D102
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.has_bias}, "
            f"prior_std={self.prior_std:g}"
        )

    @property
    def _std(self) -> Tensor:
        return F.softplus(self.weight_rho)

    def _with_bias(self, features: Tensor) -> Tensor:
        if features.shape[-1] != self.in_features:
            raise InputValueError(
                f"the layer takes {self.in_features} features, got an input of shape {tuple(features.shape)}"
            )
        return F.pad(features, (0, 1), value=1.0) if self.has_bias else features

    def _diagonal_kl(self) -> Tensor:
        return gaussian_kl(self.weight_mu, self._std, 0.0, self.prior_std)


class DiagonalLastLayer(BayesianLastLayer):
    r"""Last layer with diagonal covariance, :math:`S_k = \mathrm{diag}(d_k^2)` with :math:`d = \ln(1 + e^\rho)`.

    Args:
        layer: Linear layer whose weight and bias become posterior means.
        prior_std: s, the prior standard deviation of each weight and bias.
        init_std: Initial posterior standard deviation of each weight and bias.

    Raises:
        ValueError: If a standard deviation is not positive and finite.

    Example:
        >>> head = DiagonalLastLayer(nn.Linear(3, 2), prior_std=1.0, init_std=0.5)
        >>> mean, variance = head.moments(torch.ones(4, 3))
        >>> mean.shape, variance[0]
        (torch.Size([4, 2]), tensor([1., 1.], grad_fn=<SelectBackward0>))
    """

    def covariance(self) -> Tensor:  # noqa: D102
        return torch.diag_embed(self._std.square())

    def kl(self) -> Tensor:  # noqa: D102
        return self._diagonal_kl()

    def _variance(self, phi: Tensor) -> Tensor:
        return F.linear(phi.square(), self._std.square())

    def _deviations(self, noise: Tensor) -> Tensor:
        return self._std * noise.view(-1, *self.weight_mu.shape)


class LowRankLastLayer(BayesianLastLayer):
    r"""Last layer with low-rank plus diagonal covariance, :math:`S_k = \mathrm{diag}(d_k^2) + U_k U_k^\top`.

    U has shape [K, F, R]. By the matrix determinant lemma, the KL divergence is that of the diagonal plus
    :math:`\|U_k\|^2 / 2 s^2 - \tfrac12 \ln\det(I + U_k^\top \mathrm{diag}(d_k^{-2}) U_k)`.

    Args:
        layer: Linear layer whose weight and bias become posterior means.
        prior_std: s, the prior standard deviation of each weight and bias.
        init_std: Initial posterior standard deviation of each weight and bias, nearly all of it due to d.
        rank: Rank R of the low-rank part.

    Raises:
        ValueError: If a standard deviation is not positive and finite, or `rank` is less than 1.

    Example:
        >>> head = LowRankLastLayer(nn.Linear(3, 2), prior_std=1.0, init_std=0.5, rank=2)
        >>> head.covariance().shape
        torch.Size([2, 4, 4])
    """

    def __init__(self, layer: nn.Linear, *, prior_std: float, init_std: float, rank: int) -> None:
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise InputValueError(f"rank must be an integer of at least 1, got {rank!r}")
        super().__init__(layer, prior_std=prior_std, init_std=init_std)
        start = torch.randn(*self.weight_mu.shape, rank).to(self.weight_mu)
        self.weight_factor = nn.Parameter(start * (INITIAL_FACTOR * init_std / math.sqrt(rank)))

    @property
    def num_noise(self) -> int:  # noqa: D102
        return self.weight_mu.numel() + self.out_features * self.weight_factor.shape[-1]

    def covariance(self) -> Tensor:  # noqa: D102
        return torch.diag_embed(self._std.square()) + self.weight_factor @ self.weight_factor.mT

    def kl(self) -> Tensor:  # noqa: D102
        factor = self.weight_factor.to(torch.promote_types(self.weight_factor.dtype, torch.float32))
        with torch.autocast(factor.device.type, enabled=False):
            scaled = factor / self._std.unsqueeze(-1)
            identity = torch.eye(scaled.shape[-1], dtype=scaled.dtype, device=scaled.device)
            root = torch.linalg.cholesky(identity + scaled.mT @ scaled)
        half_log_det: Tensor = root.diagonal(dim1=-2, dim2=-1).log().sum()
        return self._diagonal_kl() + 0.5 * factor.square().sum() / self.prior_std**2 - half_log_det

    def _variance(self, phi: Tensor) -> Tensor:
        diagonal = F.linear(phi.square(), self._std.square())
        return diagonal + torch.einsum("...f,kfr->...kr", phi, self.weight_factor).square().sum(-1)

    def _deviations(self, noise: Tensor) -> Tensor:
        diagonal, low_rank = noise.tensor_split([self.weight_mu.numel()], dim=1)
        low_rank = low_rank.view(len(noise), self.out_features, -1, 1)
        return self._std * diagonal.view(-1, *self.weight_mu.shape) + (self.weight_factor @ low_rank).squeeze(-1)


class DenseLastLayer(BayesianLastLayer):
    r"""Last layer with dense covariance, :math:`S_k = L_k L_k^\top` with Cholesky factor L.

    The diagonal of L is the softplus of `weight_rho`; `weight_lower` [K, F (F - 1) / 2] holds the entries below it,
    row by row. The KL divergence is that of the diagonal plus half the sum of squares of these entries over
    :math:`s^2`.

    Args:
        layer: Linear layer whose weight and bias become posterior means.
        prior_std: s, the prior standard deviation of each weight and bias.
        init_std: Initial posterior standard deviation of each weight and bias; the initial covariance is diagonal.
        max_mebibytes: Maximum memory for L. Gradients and optimizer state need several times as much.

    Raises:
        ValueError: If a standard deviation is not positive and finite, or L exceeds `max_mebibytes`.

    Example:
        >>> head = DenseLastLayer(nn.Linear(3, 2), prior_std=1.0, init_std=0.5)
        >>> head.weight_lower.shape
        torch.Size([2, 6])
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, layer: nn.Linear, *, prior_std: float, init_std: float, max_mebibytes: float = 256.0) -> None:
        super().__init__(layer, prior_std=prior_std, init_std=init_std)
        size = self.weight_mu.shape[1]
        needed = self.weight_mu.numel() * size * self.weight_mu.element_size() / 2**20
        if needed > max_mebibytes:
            raise InputValueError(
                f"a dense posterior of {self.out_features} outputs with {size} weights each needs {needed:.0f} MiB, "
                f"more than max_mebibytes={max_mebibytes:g}: use a low-rank or diagonal posterior, or raise the limit"
            )
        rows, columns = torch.tril_indices(size, size, offset=-1, device=self.weight_mu.device)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.weight_lower = nn.Parameter(self.weight_mu.new_zeros(self.out_features, len(rows)))

    @property
    def cholesky_factor(self) -> Tensor:
        """Cholesky factor L of the covariance, shape [K, F, F]."""
        factor = torch.diag_embed(self._std)
        return factor.index_put((torch.arange(len(factor), device=factor.device)[:, None], self.rows, self.columns),
                                self.weight_lower)  # fmt: skip

    def covariance(self) -> Tensor:  # noqa: D102
        factor = self.cholesky_factor
        return factor @ factor.mT

    def kl(self) -> Tensor:  # noqa: D102
        lower = self.weight_lower.to(torch.promote_types(self.weight_lower.dtype, torch.float32))
        return self._diagonal_kl() + 0.5 * lower.square().sum() / self.prior_std**2

    def _variance(self, phi: Tensor) -> Tensor:
        return torch.einsum("...f,kfg->...kg", phi, self.cholesky_factor).square().sum(-1)

    def _deviations(self, noise: Tensor) -> Tensor:
        return (self.cholesky_factor @ noise.view(-1, *self.weight_mu.shape, 1)).squeeze(-1)


INITIAL_FACTOR = 0.1
"""Initial scale of the low-rank part relative to `init_std`. It is not zero because zero is a saddle point."""
