r"""Variational Bayesian last layers (VBLL).

Harrison, Willes and Snoek, "Variational Bayesian last layers", ICLR 2024.

.. math:: f_k = w_k^\top \phi(x), \qquad q(w_k) = \mathcal{N}(\mu_k, S_k), \qquad
    \mathcal{L} = -\frac1N \sum_n \mathrm{E}_q[\ln p(y_n \mid f(x_n))] + \frac{\beta}{N} \sum_k \mathrm{KL}[q(w_k) \| p]

with the expectation, or a bound on it, in closed form or by quadrature. Training does not sample.

=================== =============================================================
symbol              argument
=================== =============================================================
:math:`\phi`        `backbone` without its last layer
:math:`S_k`         `parameterization`, `rank`; starts at `init_std`
:math:`p(w)`        :math:`\mathcal{N}(0, s^2 I)` with s = `prior_std`
:math:`p(y | f)`    `likelihood`; a learned noise has no prior
:math:`\beta`       `kl_weight`, grows over `kl_warmup_epochs`
:math:`N`           `num_data`
=================== =============================================================
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, cast

import torch
from torch import Tensor, nn

from lightning_vi.arguments import check_instance
from lightning_vi.conversion import ModuleSelector, find_last_layer, named_layers, replace_layer
from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.core.hyperparameters import is_plain
from lightning_vi.diagnostics import DiagnosedMethod, WeightPosterior
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.special import flat_at_zero
from lightning_vi.layers import BayesianLastLayer, DenseLastLayer, DiagonalLastLayer, LowRankLastLayer
from lightning_vi.likelihoods import Likelihood
from lightning_vi.objectives import ObjectiveTerms, negative_elbo
from lightning_vi.sampling import NetworkInput, call, chunk_ranges, memory, num_fitting

Parameterization = Literal["dense", "low_rank", "diagonal"]


class VBLL(DiagnosedMethod):
    r"""Gaussian posterior over the last layer, trained without sampling (Harrison et al., 2024).

    The expected log-likelihood is exact for `Gaussian` and for `Poisson` with log link. For `HeteroscedasticGaussian`
    it is exact in the mean, with Gauss-Hermite quadrature over the scale. For `Categorical` and `Bernoulli` it is
    Jensen's lower bound, and for other likelihoods it is computed by quadrature. With `Gaussian`, the predictive
    distribution has a closed form too.

    Args:
        backbone: Any network that ends in a linear layer; it is copied, and the layer's weights become posterior means.
        likelihood: The observation model; it is copied.
        stochastic_module_names: The last layer by name, glob, index, class or predicate; by default the one that is
            called last.
        parameterization: Covariance of the weights of each output: ``"dense"``; ``"low_rank"``, of rank `rank` plus a
            diagonal; or ``"diagonal"``.
        rank: Rank with ``"low_rank"``.
        max_mebibytes: Maximum size of the covariances with ``"dense"``. The gradient and the optimizer need several
            times as much.
        prior_std: Prior standard deviation of weights and biases.
        init_std: Initial posterior standard deviation.
        freeze_backbone: Whether to freeze the deterministic parameters of the network.
        num_mc_samples_test: Number of samples for validation, test and prediction without closed form.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss, without KL divergence.
        kl_weight: Weight of the KL divergence; 1 is the evidence lower bound.
        kl_warmup_epochs: Number of epochs after burn-in over which the weight increases linearly to `kl_weight`.
        num_data: Size of the training set; by default it is read from the training dataloader.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        ValueError: If the selection is not a single linear layer, its weight is shared, `parameterization` is unknown,
            a number is out of range, or the covariances are too large.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = VBLL(MLP(1, [50], 1), Gaussian(), num_data=8)
        >>> method.predict(torch.zeros(8, 1)).metadata["num_samples"] is None  # closed form
        True
    """

    has_kl = True

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        stochastic_module_names: Sequence[ModuleSelector] = (-1,),
        parameterization: Parameterization = "dense",
        rank: int = 3,
        max_mebibytes: float = 256.0,
        prior_std: float = 1.0,
        init_std: float = 0.1,
        freeze_backbone: bool = False,
        num_mc_samples_test: int = 50,
        burnin_epochs: int = 0,
        kl_weight: float = 1.0,
        kl_warmup_epochs: int = 0,
        num_data: int | None = None,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        check_instance("backbone", backbone, nn.Module)
        network = copy.deepcopy(backbone)
        layers = named_layers(network)
        name = _last_layer(network, layers, stochastic_module_names)
        makers: dict[str, Callable[..., BayesianLastLayer]] = {
            "dense": partial(DenseLastLayer, max_mebibytes=max_mebibytes),
            "low_rank": partial(LowRankLastLayer, rank=rank),
            "diagonal": DiagonalLastLayer,
        }
        if parameterization not in makers:
            raise InputValueError(f"parameterization must be one of {list(makers)}, got {parameterization!r}")
        head = makers[parameterization](cast(nn.Linear, layers[name]), prior_std=prior_std, init_std=init_std)
        network = replace_layer(network, layers[name], head)
        if freeze_backbone:
            network.requires_grad_(False)
            head.requires_grad_(True)
        super().__init__(
            network,
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            kl_weight=kl_weight,
            kl_warmup_epochs=kl_warmup_epochs,
            num_data=num_data,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self._head_name = name
        if not is_plain(stochastic_module_names) or name != next(reversed(layers)):
            self.hparams["stochastic_module_names"] = [list(layers).index(name)]

    @property
    def head(self) -> BayesianLastLayer:
        """Last layer of the network."""
        head = self.backbone.get_submodule(self._head_name)
        if not isinstance(head, BayesianLastLayer):
            raise InputTypeError(f"the backbone's layer {self._head_name!r} was replaced by a {type(head).__name__}")
        return head

    def weight_posteriors(self) -> Sequence[WeightPosterior]:
        """Returns the marginal posterior of the last layer's weights, with the divergence of their joint posterior."""
        head = self.head
        std = head.marginal_std()
        return [WeightPosterior(self._head_name, head.weight_mu.detach(), std, head.kl().detach(), head.prior_std, 0)]

    def undecayed_parameters(self) -> Iterable[nn.Parameter]:
        """Returns the likelihood's parameters and the last layer's, which the prior regularizes."""
        yield from super().undecayed_parameters()
        yield from self.head.parameters()

    def features(self, x: NetworkInput) -> Tensor:
        r"""Computes the input :math:`\phi(x)` of the last layer.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ..., F].

        Raises:
            ValueError: If the network's output is not that of the last layer.
        """
        seen: list[tuple[Tensor, Tensor]] = []
        handle = self.head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        try:
            output = call(self.backbone, x)
        finally:
            handle.remove()
        if len(seen) != 1 or seen[0][1] is not output:
            raise InputValueError(
                f"the network's output must be that of {self._head_name or 'the root'!r}, called once, but that layer "
                f"was called {len(seen)} times" + (" and more was done with its output" if len(seen) == 1 else "")
            )
        return seen[0][0]

    def point_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return call(self.backbone, x)

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        num_data = self.require_num_data(num_data)
        mean, variance = self.head.moments(self.features(x))
        outputs = mean.unsqueeze(0)
        self.likelihood.check(outputs, target)
        log_prob = self.likelihood.expected_log_prob(mean, variance, target, weight)
        return outputs, negative_elbo(log_prob, self.head.kl(), num_data, kl_weight)

    def output_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:  # noqa: D102
        mean, variance = self.head.moments(self.features(x))
        return mean, flat_at_zero(torch.sqrt, variance)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        features = self.features(x)
        per_sample = features[..., 0].numel() * self.head.out_features + self.head.weight_mu.numel()
        max_chunk = num_fitting(memory.MAX_LAST_LAYER_NUMBERS, per_sample)
        for first, stop in chunk_ranges(num_samples, max_chunk):
            yield self.head.sampled_outputs(features, self.head.draw(first, stop, seed))


def _last_layer(network: nn.Module, layers: Mapping[str, nn.Module], names: Sequence[ModuleSelector]) -> str:
    """Returns the name of the layer to replace."""
    name = find_last_layer(network, layers, names)
    layer, label = layers[name], repr(name) if name else "the root"
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
        raise InputValueError(
            f"stochastic_module_names={names!r} must select a linear layer, but {label} is a {type(layer).__name__}"
        )
    return name
