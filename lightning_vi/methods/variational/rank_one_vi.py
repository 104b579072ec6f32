r"""Rank-one Bayesian neural networks.

Dusenberry, Jerfel, Wen, Ma, Snoek, Heller, Lakshminarayanan and Tran, "Efficient and scalable Bayesian neural nets with
rank-1 factors", ICML 2020.

.. math:: W' = W \odot s r^\top, \qquad q(r, s) = \frac1K \sum_k \mathcal{N}(r, s \mid \mu_k, \sigma_k^2), \qquad
    \mathcal{L} = -\frac1N \sum_n \mathrm{E}_q[\ln p(y_n \mid f(x_n))] + \frac{\beta}{N}
    \Big( \frac1K \sum_k \mathrm{KL}[q_k \| p] - \ln p(W) \Big)

=================== =====================================================
symbol              argument
=================== =====================================================
:math:`W`           weights and biases, of prior std `weight_prior_std`
:math:`p(r, s)`     `prior`, around 1
:math:`K`           `num_components`
:math:`\mu_k`       start at 1, with K > 1 `component_std` around it
:math:`\sigma_k`    start at `init_std`
:math:`\mathrm E_q` `num_mc_samples_train` draws, the same for each k
=================== =====================================================
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Unpack

import torch
from torch import Tensor, nn

from lightning_vi.arguments import check_at_least, check_positive
from lightning_vi.conversion import ConversionReport, ModuleSelector, convert_to_rank_one
from lightning_vi.diagnostics import WeightPosterior
from lightning_vi.errors import InputValueError
from lightning_vi.layers import RankOneModule
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.variational.base import VariationalArguments, VariationalMethod
from lightning_vi.moments import engine_moments
from lightning_vi.objectives import ObjectiveTerms, negative_elbo
from lightning_vi.posteriors import InitialStd
from lightning_vi.priors import Prior
from lightning_vi.sampling import NetworkInput, map_tensors, rows_first, tensors


class RankOneVI(VariationalMethod):
    r"""Deterministic weights with stochastic scales of each layer's inputs and outputs (Dusenberry et al., 2020).

    A layer has only a few more parameters than a deterministic one, and the posterior of the scales is a mixture.
    Linear layers and convolutions are supported.

    Args:
        backbone: Any network; it is copied, and its weights are unchanged.
        likelihood: The observation model; it is copied.
        num_components: Number of mixture components K. The S samples use them in turn, and training uses at least one
            sample of each.
        component_std: Standard deviation of the initial means around 1, with several components.
        weight_prior_std: Standard deviation of the Gaussian prior of weights and biases, which are estimated by maximum
            a posteriori; None for a flat prior. ``kl`` includes :math:`-\ln p(W)` up to a constant.
        **arguments: The other arguments of `VariationalMethod`. `stochastic_module_names` selects all linear layers
            and convolutions by default. `prior` is the prior of the scales, by default Gaussian with mean 1 and
            standard deviation 0.1. `stochastic_biases` is whether the output scales multiply the bias too. `estimator`
            must be ``"auto"`` or ``"reparameterization"``.

    Raises:
        ValueError: If a count or scale is out of range, a selected module is not a linear layer or convolution, or as
            for `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = RankOneVI(MLP(1, [50], 2), HeteroscedasticGaussian(), num_components=2)
        >>> print(method.conversion)
        module  kind    parameters  stochastic  estimator           why
        0       Linear  202         yes         reparameterization  selected; scales of inputs and outputs
        2       Linear  206         yes         reparameterization  selected; scales of inputs and outputs
        total           408         206
    """

    draws_weights = True

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        num_components: int = 1,
        component_std: float = 0.5,
        weight_prior_std: float | None = 1.0,
        **arguments: Unpack[VariationalArguments],
    ) -> None:
        check_at_least("num_components", num_components, 1)
        check_positive("component_std", component_std)
        if weight_prior_std is not None:
            check_positive("weight_prior_std", weight_prior_std)
        # used by convert_backbone, which the base constructor calls
        self.num_components = num_components
        self.component_std = component_std
        self.weight_prior_std = weight_prior_std
        super().__init__(backbone, likelihood, **arguments)

    def convert_backbone(  # noqa: D102
        self,
        backbone: nn.Module,
        stochastic_module_names: Sequence[ModuleSelector] | None,
        *,
        prior: Prior | Mapping[str, Prior] | None,
        estimator: str,  # noqa: ARG002
        init_std: InitialStd,
        stochastic_biases: bool,
    ) -> tuple[nn.Module, ConversionReport]:
        return convert_to_rank_one(
            backbone,
            stochastic_module_names,
            prior=prior,
            init_std=init_std,
            scales_biases=stochastic_biases,
            num_components=self.num_components,
            component_std=self.component_std,
        )

    def weight_posteriors(self) -> Sequence[WeightPosterior]:
        """Returns the posterior of the scales of each module, with the mean divergence of the components."""
        posteriors = super().weight_posteriors()
        return [replace(posterior, kl=posterior.kl / self.num_components, unit_dim=None) for posterior in posteriors]

    def _repeat(self, x: NetworkInput) -> NetworkInput:
        """Repeats each row K times, once for each component."""
        if self.num_components == 1:
            return x
        if not rows_first(x):
            shapes = [tuple(tensor.shape) for tensor in tensors(x)]
            raise InputValueError(
                f"num_components={self.num_components} repeats the rows of the input, but the first dimensions of its "
                f"tensors differ: {shapes}. Use num_components=1"
            )
        return map_tensors(lambda part: part.repeat_interleave(self.num_components, 0), x)

    def _split_components(self, outputs: Tensor) -> Tensor:
        """Reshapes outputs [S, B K, ...] of S samples of all components to [S K, B, ...]."""
        if self.num_components == 1:
            return outputs
        samples = outputs.reshape(len(outputs), -1, self.num_components, *outputs.shape[2:])
        return samples.transpose(1, 2).flatten(0, 1)

    def point_outputs(self, x: NetworkInput) -> Tensor:
        """Computes the mean over components of the outputs at the component means.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        return self._split_components(super().point_outputs(self._repeat(x)).unsqueeze(0)).mean(0)

    def propagated_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:
        """Computes means and variances of the mixture of the components' outputs.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Each of shape [B, ...].
        """
        moments = engine_moments(self.engine, self._repeat(x), self._variances)
        means, variances = (self._split_components(moment.unsqueeze(0)) for moment in moments)
        return means.mean(0), variances.mean(0) + means.var(0, correction=0)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        remaining = num_samples
        for outputs in super().sampled_outputs(self._repeat(x), math.ceil(num_samples / self.num_components), seed):
            yield self._split_components(outputs)[:remaining]
            remaining -= len(outputs) * self.num_components

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        num_data = self.require_num_data(num_data)
        num_draws = math.ceil(self.num_mc_samples_train / self.num_components)
        outputs, kl = self.engine.training_pass(self._repeat(x), num_draws)
        outputs = self._split_components(outputs)
        self.likelihood.check(outputs, target)
        log_prob = self.likelihood.log_prob(outputs, target, weight)
        return outputs, negative_elbo(log_prob, kl / self.num_components + self._penalty(), num_data, kl_weight)

    def _penalty(self) -> Tensor | float:
        return 0.0 if self.weight_prior_std is None else weight_penalty([self.backbone], self.weight_prior_std)


def weight_penalty(networks: Iterable[nn.Module], prior_std: float) -> Tensor:
    """Computes the negative log prior density of the deterministic weights, relative to its value at zero.

    Args:
        networks: Networks with rank-one layers.
        prior_std: Standard deviation of the prior.

    Returns:
        Nats, summed over the networks, a scalar tensor.
    """
    layers = [module for network in networks for module in network.modules() if isinstance(module, RankOneModule)]
    weights = {id(w): w for layer in layers for w in (layer.weight, layer.bias) if w is not None}
    norms = torch.stack(torch._foreach_norm(list(weights.values())))
    return 0.5 * norms.square().sum() / prior_std**2
