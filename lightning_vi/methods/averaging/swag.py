r"""Stochastic weight averaging-Gaussian (SWAG).

Maddox, Garipov, Izmailov, Vetrov and Wilson, "A simple baseline for Bayesian uncertainty in deep learning", NeurIPS
2019.

.. math:: w = \bar w + s \Big(\frac{1}{\sqrt 2} \operatorname{std}(w_i) \odot z_1
    + \frac{1}{\sqrt{2 (K - 1)}} \sum_{k=1}^K d_k z_{2,k}\Big), \qquad
    d_k = w_{T-K+k} - \bar w_{T-K+k}

=================================== ==========================================================
symbol                              argument
=================================== ==========================================================
:math:`w_i, \bar w_i`               the weights at the end of cycle i of T, and their mean then
first cycle, length of a cycle      `start_epoch`, `snapshot_every`
learning rate in a cycle            `averaging_lr`
K                                   `max_rank`, or T where that is less
:math:`s`                           `scale`
:math:`z_1, z_2`                    standard normal, `num_mc_samples_test` draws
statistics of batch normalization   on `batch_norm_rows` training inputs, for each draw
=================================== ==========================================================

With K = 0 it is SWAG-Diagonal, :math:`w = \bar w + s \operatorname{std}(w_i) \odot z_1`.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lightning_vi.arguments import check_at_least, check_positive
from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.core.intake import network_input
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.averaging.swa import SWA
from lightning_vi.moments import network_moments
from lightning_vi.noise import sample_noise
from lightning_vi.optim.averaging_schedule import AveragingRate
from lightning_vi.sampling import (
    DrawCache,
    NetworkInput,
    StackedRunner,
    batch_size,
    chunk_ranges,
    estimate_statistics,
    memory,
    tensors,
)
from lightning_vi.tracing import known


class SWAG(SWA):
    r"""Gaussian posterior from the snapshots of stochastic weight averaging (Maddox et al., 2019).

    Its mean is that of `SWA` and its covariance is
    :math:`s^2 (\operatorname{diag}(v) / 2 + \sum_k d_k d_k^\top / 2 (K - 1))`, where v is the population variance of
    the snapshots. With `max_rank` 0 the covariance is :math:`s^2 \operatorname{diag}(v)`, and with a single snapshot it
    is zero. The parameters of the likelihood are averaged, not sampled.

    Args:
        backbone: As for `SWA`.
        likelihood: The observation model; it is copied.
        start_epoch: As for `SWA`.
        snapshot_every: As for `SWA`.
        averaging_lr: As for `SWA`.
        max_rank: Maximum number of deviations to keep: 0 for a diagonal covariance, or at least 2.
        scale: Factor of every standard deviation.
        batch_norm_rows: As for `SWA`. The statistics are estimated for each sampled network.
        num_mc_samples_test: Number of samples for validation, test and prediction.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        ValueError: If `max_rank` or `scale` is out of range, or as for `SWA`.

    Attributes:
        weight_variance: Population variance of the snapshots, shape [P].
        deviations: Differences of the last snapshots from the running mean, shape [max_rank, P]. A new one replaces
            the oldest one.

    Example:
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = SWAG(MLP(1, [8], 2), HeteroscedasticGaussian())
        >>> for _ in range(3):
        ...     _ = method.backbone.apply(lambda part: part.reset_parameters() if hasattr(part, "weight") else None)
        ...     method.collect()
        >>> method.predict(torch.zeros(4, 1)).epistemic_var.shape
        torch.Size([4, 1])
        >>> method.sample_parameters(num_samples=5)["0.weight"].shape
        torch.Size([5, 8, 1])
    """

    weight_variance: Tensor
    deviations: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        start_epoch: int | float = 0.5,
        snapshot_every: int = 1,
        averaging_lr: AveragingRate = None,
        max_rank: int = 20,
        scale: float = 1.0,
        batch_norm_rows: int = 1024,
        num_mc_samples_test: int = 50,
        burnin_epochs: int = 0,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        check_at_least("num_mc_samples_test", num_mc_samples_test, 1)
        check_at_least("max_rank", max_rank, 0)
        if max_rank == 1:
            raise InputValueError("max_rank must be 0 or at least 2, because one deviation has no covariance, got 1")
        check_positive("scale", scale)
        super().__init__(
            backbone,
            likelihood,
            start_epoch=start_epoch,
            snapshot_every=snapshot_every,
            averaging_lr=averaging_lr,
            batch_norm_rows=batch_norm_rows,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self.num_mc_samples_test = num_mc_samples_test
        self.max_rank = max_rank
        self.scale = scale
        self._register_statistic("weight_variance", self._weights.num_weights)
        self._register_statistic("deviations", max_rank, self._weights.num_weights)
        self._runner = StackedRunner(self.backbone)
        self._cache = DrawCache[dict[str, Tensor]]()

    def update_spread(self, weights: Tensor, previous_mean: Tensor) -> None:  # noqa: D102
        count = int(self.num_snapshots)
        squared_change = (weights - previous_mean).square()
        self.weight_variance.mul_((count - 1) / count).add_(squared_change, alpha=(count - 1) / count**2)
        if self.max_rank:
            self.deviations[(count - 1) % self.max_rank] = weights - self.weight_mean

    @torch.no_grad()
    def sample_parameters(self, num_samples: int, seed: int | None = None) -> dict[str, Tensor]:
        """Draws weights, the same that `predict` uses with the same seed.

        Args:
            num_samples: S.
            seed: Random seed; by default the same in every call.

        Returns:
            The network's trainable parameters by name, each of shape [S, ...].

        Raises:
            ValueError: If `num_samples` is not positive.
            NotFittedError: If the method is not fitted.
        """
        check_at_least("num_samples", num_samples, 1)
        self.require_fitted()
        return self._weights.split(self._draw(0, num_samples, self.noise.seed if seed is None else seed))

    def _draw(self, first: int, stop: int, seed: int) -> Tensor:
        """Draws the weight vectors of samples `first` to `stop`, shape [stop - first, P]."""
        num_weights, rank = self._weights.num_weights, min(known(self, "num_snapshots"), self.max_rank)
        noise = sample_noise(seed, first, stop, num_weights + rank).to(self.weight_mean)
        spread = self.weight_variance.sqrt() * noise[:, :num_weights]
        if self.max_rank:
            spread = spread / math.sqrt(2)
        if rank > 1:
            spread = spread + noise[:, num_weights:] @ self.deviations[:rank] / math.sqrt(2 * (rank - 1))
        return self.weight_mean + self.scale * spread

    def _networks(self, first: int, stop: int, seed: int) -> dict[str, Tensor]:
        """Draws weights and estimates batch normalization statistics, each of shape [stop - first, ...]."""
        weights = self._weights.split(self._rounded(self._draw(first, stop, seed)))
        if self.norm_statistics.numel() == 0:
            return weights
        return weights | estimate_statistics(
            self.backbone, weights, network_input(self.kept_rows.on(self.device), self)
        )

    def propagated_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:  # noqa: D102
        return network_moments(self.backbone, x, self.mean_network(), self._weights.split(self._marginal_variance()))

    def _marginal_variance(self) -> Tensor:
        """Returns the variance of each weight, shape [P]."""
        if not self.max_rank:
            return self._rounded(self.scale**2 * self.weight_variance)
        rank = min(known(self, "num_snapshots"), self.max_rank)
        squares = self.deviations[:rank].square().sum(0) / max(rank - 1, 1) if rank > 1 else 0.0
        return self._rounded(0.5 * self.scale**2 * (self.weight_variance + squares))

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        chunk = self._runner.num_sets_per_pass(self._weights.num_weights, batch_size(x))
        known = self._known_networks(num_samples, seed)
        for first, stop in chunk_ranges(num_samples, chunk):
            networks = {name: value[first:stop] for name, value in known.items()} or self._networks(first, stop, seed)
            yield self._runner(networks, x)

    def _known_networks(self, num_samples: int, seed: int) -> dict[str, Tensor]:
        """Returns the tensors of all S networks if they fit the memory budget, else an empty dictionary."""
        made_of = [self.num_snapshots, self.weight_mean, self.weight_variance, self.deviations]
        if self.norm_statistics.numel():
            parameters = self.backbone.named_parameters()
            frozen = [value.detach() for name, value in parameters if name not in self._weights.names]
            made_of += [*frozen, *tensors(self.kept_rows.on(self.device))]
        size = num_samples * (self._weights.num_weights + self.norm_statistics.numel())
        if size + sum(tensor.numel() for tensor in made_of) > memory.max_kept(self.device):
            return {}
        return self._cache.get((seed, num_samples), made_of, lambda: self._networks(0, num_samples, seed))
