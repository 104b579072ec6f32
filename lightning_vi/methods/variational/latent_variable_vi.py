r"""Bayesian neural networks with latent variables (BNN+LV).

Depeweg, Hernandez-Lobato, Doshi-Velez and Udluft, "Decomposition of uncertainty in Bayesian deep learning for efficient
and risk-sensitive learning", ICML 2018.

.. math:: y_n \sim p(y \mid f_w(x_n, z_n)), \qquad z_n \sim \mathcal{N}(0, \gamma^2 I), \qquad
    \mathcal{L} = \frac1N \sum_n \Big( -\mathrm{E}_{q(w) q(z_n)}[\ln p(y_n \mid f_w(x_n, z_n))]
    + \beta\, \mathrm{KL}[q(z_n \mid x_n, y_n) \| p(z)] \Big) + \frac{\beta}{N} \mathrm{KL}[q(w) \| p(w)]

and at prediction, where z comes from its prior,

.. math:: \mathrm{Var}[y] = \underbrace{\mathrm{Var}_w\, \mathrm{E}_z[\mu]}_\text{epistemic}
    + \underbrace{\mathrm{E}_w[\mathrm{Var}_z[\mu] + \mathrm{E}_z[\sigma^2]]}_\text{aleatoric}

=================== ==============================================================
symbol              argument
=================== ==============================================================
:math:`f_w`         `backbone`, whose first layer takes z beside x
:math:`z`           `latent_dim` numbers for each datum, of std `latent_std`
:math:`q(z|x, y)`   `inference_network`
:math:`\mathrm E_z` `num_latent_samples_train` and `num_latent_samples_test` draws
=================== ==============================================================
"""

import copy
from collections.abc import Iterator
from functools import partial
from typing import Unpack

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F
from torch.quasirandom import SobolEngine

from lightning_vi.arguments import check_at_least, check_instance, check_positive
from lightning_vi.backbones import MLP
from lightning_vi.conversion import widened
from lightning_vi.core import Predictive, SampledPredictive
from lightning_vi.errors import InputValueError
from lightning_vi.functional import gaussian_kl
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.variational.base import VariationalArguments, VariationalMethod
from lightning_vi.noise import mix_seed
from lightning_vi.objectives import ObjectiveTerms, negative_elbo
from lightning_vi.sampling import NetworkInput
from lightning_vi.tracing import constant


class LatentVariableVI(VariationalMethod):
    r"""Bayesian neural network with latent input variables (Depeweg et al., 2018), for skewed or multimodal noise.

    In training, the posterior :math:`q(z \mid x, y)` of the latent variables z is computed by an inference network from
    input *and target*. Validation, test and prediction do not use it: z is sampled from the prior, with the same values
    for all rows. Variance over the weights is epistemic, variance over z is aleatoric. ``kl`` is the sum of both KL
    divergences, with that of the latent variables scaled to all N data. The latter has its full weight from the first
    step, because z would explain the noise while it costs nothing; `kl_warmup_epochs` is for the weights.

    Args:
        backbone: A network for the inputs of the data that begins with a linear layer or a convolution; it is copied,
            and its weights become posterior means. In the copy the first layer has `latent_dim` additional inputs, or
            channels that are constant over an image. Pretrained weights are kept.
        likelihood: The observation model; it is copied.
        latent_dim: Number of latent variables of each datum.
        latent_std: Prior standard deviation :math:`\gamma` of the latent variables.
        inference_network: Network from flattened inputs and `Likelihood.target_features`, concatenated to [B, F + D],
            to means and raw scales of z, [B, 2 `latent_dim`] (std = softplus, in units of :math:`\gamma`); a copy is
            used. By default an MLP with two hidden layers of 50 units, on means over the steps of a sequence and over
            4 x 4 cells of an image.
        num_latent_samples_train: Number of samples of z for each datum in a training step.
        num_latent_samples_test: Number of samples of z for each sample of the weights in validation, test and
            prediction.
        **arguments: The other arguments of `VariationalMethod`.

    Raises:
        ValueError: If a count or scale is out of range, the backbone begins with another layer, or as for
            `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = LatentVariableVI(MLP(1, [50], 1), Gaussian(), num_data=8)
        >>> prediction = method.predict(torch.zeros(8, 1))
        >>> prediction.aleatoric_var.shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        latent_dim: int = 1,
        latent_std: float = 1.0,
        inference_network: nn.Module | None = None,
        num_latent_samples_train: int = 1,
        num_latent_samples_test: int = 16,
        **arguments: Unpack[VariationalArguments],
    ) -> None:
        check_instance("backbone", backbone, nn.Module)
        check_at_least("latent_dim", latent_dim, 1)
        check_at_least("num_latent_samples_train", num_latent_samples_train, 1)
        check_at_least("num_latent_samples_test", num_latent_samples_test, 1)
        check_positive("latent_std", latent_std)
        network, first_layer = widened(backbone, latent_dim)
        self._first_layer = first_layer
        super().__init__(network, likelihood, **arguments)
        self._summarizes = inference_network is None
        self.inference_network = (
            MLP(first_layer.summary_size + likelihood.num_target_features, [50, 50], 2 * latent_dim).to(
                next(self.backbone.parameters())
            )
            if inference_network is None
            else copy.deepcopy(inference_network)
        )
        self.latent_dim = latent_dim
        self.latent_std = latent_std
        self.num_latent_samples_train = num_latent_samples_train
        self.num_latent_samples_test = num_latent_samples_test

    def latent_posterior(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Computes the posterior of the latent variables of each datum, for training only.

        Args:
            x: Shape [B, ...].
            target: Target in its original units, shape [B, ...].

        Returns:
            Means and standard deviations, each of shape [B, latent_dim].

        Raises:
            ValueError: If `inference_network` is required, because a datum has several rows of targets.
        """
        x = self._first_layer.aligned(x)
        x = self._first_layer.summary(x) if self._summarizes else x.flatten(1)
        features = self.likelihood.target_features(self.likelihood.fill(target)).to(x.dtype).reshape(len(x), -1)
        observed = self.likelihood.observed(target)
        if observed is not None:
            features = torch.where(observed.reshape(len(x), -1), features, features.new_zeros(()))
        if self._summarizes and features.shape[1] != self.likelihood.num_target_features:
            raise InputValueError(
                f"targets of shape {tuple(target.shape)} need an inference_network for {x.shape[1]} features of an "
                f"input and {features.shape[1]} of a target"
            )
        mean, raw_scale = self.inference_network(torch.cat([x, features], 1)).chunk(2, 1)
        return self.latent_std * mean, self.latent_std * F.softplus(raw_scale)

    def _checked(self, x: NetworkInput) -> Tensor:
        """Returns an input that latent variables can be appended to."""
        if not isinstance(x, Tensor):
            raise InputValueError(f"LatentVariableVI needs tensors as inputs, got a {type(x).__name__}")
        return self._first_layer.aligned(x)

    def _with_latents(self, x: NetworkInput, latents: Tensor) -> Tensor:
        """Returns inputs [L B, ...] that latent variables [L, B or 1, latent_dim] are appended to."""
        x = self._checked(x)
        copies = x.expand(latents.shape[0], *x.shape)
        return self._first_layer.append(copies, latents.to(x).expand(-1, x.shape[0], -1)).flatten(0, 1)

    def point_outputs(self, x: NetworkInput) -> Tensor:
        """Computes outputs at the posterior means, with latent variables zero.

        Args:
            x: Shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        return super().point_outputs(self._with_latents(x, torch.zeros(1, 1, self.latent_dim)))

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        num_data = self.require_num_data(num_data)
        x = self._checked(x)
        mean, std = self.latent_posterior(x, target)
        latents = mean + std * torch.randn(
            self.num_latent_samples_train, *mean.shape, dtype=mean.dtype, device=x.device
        )
        outputs, kl = self.engine.training_pass(self._with_latents(x, latents), self.num_mc_samples_train)
        outputs = self._unflatten(outputs, self.num_latent_samples_train).flatten(0, 1)
        self.likelihood.check(outputs, target)
        log_prob = self.likelihood.log_prob(outputs, target, weight)
        factor = self._latent_weights(target, weight)
        if factor is None:
            latent_kl = gaussian_kl(mean, std, 0.0, self.latent_std)
        else:
            of_rows = kl_divergence(Normal(mean, std), Normal(0.0, self.latent_std)).sum(-1)
            latent_kl = (of_rows * factor).sum()
        latent_kl = latent_kl * (num_data / len(x))
        loss, nll, total_kl = negative_elbo(log_prob, kl + latent_kl, num_data, kl_weight)
        rest = (self.kl_weight - kl_weight) / num_data * latent_kl  # its weight is not warmed up
        return outputs, ObjectiveTerms(loss + rest, nll, total_kl)

    def _latent_weights(self, target: Tensor, weight: Tensor | None) -> Tensor | None:
        """Returns factors [B] of the KL divergences of the latent variables; None if all are one."""
        observed = self.likelihood.observed(target)
        weight = weight if weight is not None and weight.dim() == 1 else None
        if observed is None:
            return weight
        rows = observed.reshape(len(target), -1).any(1)
        return rows.float() if weight is None else rows * weight

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:
        """Computes outputs for each sample of the weights and each sample of the latent variables.

        Args:
            x: Shape [B, ...].
            num_samples: S.
            seed: Random seed.

        Yields:
            Shape [chunk L, B, ...], with L successive outputs of each network.
        """
        latents = self.latent_std * constant(partial(self._prior_noise, seed)).unsqueeze(1)
        for outputs in super().sampled_outputs(self._with_latents(x, latents), num_samples, seed):
            yield self._unflatten(outputs, self.num_latent_samples_test).flatten(0, 1)

    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:  # noqa: D102
        run = partial(self.sampled_outputs, x, num_samples, seed)
        size = self.num_latent_samples_test
        return SampledPredictive(self.likelihood, run, outputs_per_network=size, metadata={"num_latent_samples": size})

    def _unflatten(self, outputs: Tensor, num_latents: int) -> Tensor:
        """Reshapes outputs [S, L B, ...] to [S, L, B, ...]."""
        return outputs.reshape(len(outputs), num_latents, -1, *outputs.shape[2:])

    def _prior_noise(self, seed: int) -> Tensor:
        """Draws quasi-random standard normal numbers [L, latent_dim] in float64, from a scrambled Sobol sequence."""
        engine = SobolEngine(self.latent_dim, scramble=True, seed=mix_seed(seed, 1) % 2**31)  # type: ignore[no-untyped-call]
        uniform = engine.draw(self.num_latent_samples_test, dtype=torch.float64).clamp(1e-9, 1 - 1e-9)
        normal: Tensor = torch.special.ndtri(uniform)
        return normal
