r"""Variational Bayesian last layers.

Harrison, Willes and Snoek, "Variational Bayesian last layers", ICLR 2024.

.. math:: f_k = w_k^\top \phi(x), \qquad q(w_k) = \mathcal{N}(\mu_k, S_k), \qquad
    \mathcal{L} = -\frac1N \sum_n \mathrm{E}_q[\ln p(y_n \mid f(x_n))] + \frac{\beta}{N} \sum_k \mathrm{KL}[q(w_k) \| p]

with the expectation in closed form, by quadrature, or a bound of it: nothing is sampled in training.

=================== =============================================================
symbol              argument
=================== =============================================================
:math:`\phi`        `backbone` without its last layer
:math:`S_k`         `parameterization`, `rank`; starts at `init_std`
:math:`p(w)`        :math:`\mathcal{N}(0, s^2 I)` with s = `prior_std`
:math:`p(y | f)`    `likelihood`; a learned noise has no prior of its own
:math:`\beta`       `kl_weight`, grows over `kl_warmup_epochs`
:math:`N`           `num_data`
=================== =============================================================
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, cast

from torch import Tensor, nn

from lightning_vi.conversion import ModuleSelector, find_last_layer, named_layers, replace_layer
from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, UQMethod, default_optimizer
from lightning_vi.core.hyperparameters import is_plain
from lightning_vi.layers import BayesianLastLayer, DenseLastLayer, DiagonalLastLayer, LowRankLastLayer
from lightning_vi.likelihoods import Likelihood
from lightning_vi.objectives import ObjectiveTerms, negative_elbo
from lightning_vi.sampling import NetworkInput, call

Parameterization = Literal["dense", "low_rank", "diagonal"]
MAX_OUTPUTS_PER_CHUNK = 2**22


class VBLL(UQMethod):
    r"""A deterministic network whose linear head has a Gaussian posterior, trained without sampling.

    The expected log-likelihood is exact for `Gaussian` and `Poisson` with the log link, exact in the mean and by
    Gauss-Hermite quadrature in the scale for `HeteroscedasticGaussian`, and Jensen's lower bound for `Categorical`
    and `Bernoulli`. For other likelihoods it is computed by quadrature. With `Gaussian` the predictive is in closed
    form too.

    Args:
        backbone: Any network that ends in a linear layer; it is copied, and the layer's weights become posterior means.
        likelihood: The observation model; it is copied.
        stochastic_module_names: The last layer's name, glob, index or class.
        parameterization: ``"dense"``: any covariance of each output's weights; ``"low_rank"``: a diagonal plus `rank`
            directions; ``"diagonal"``.
        rank: Number of directions with ``"low_rank"``.
        max_mebibytes: The most memory for the covariances with ``"dense"``; the optimizer and the gradient need
            several times that.
        prior_std: Prior standard deviation of weights and biases.
        init_std: Initial posterior standard deviation.
        freeze_backbone: Whether the deterministic parameters of the network stay as they are.
        num_mc_samples_test: Samples for validation, test and prediction, where the predictive has no closed form.
        burnin_epochs: Epochs on posterior means and the likelihood's point loss.
        kl_weight: Weight of the KL divergence; 1 is the evidence lower bound.
        kl_warmup_epochs: Epochs after burn-in over which the weight grows linearly from near 0.
        num_data: Size of the training set; by default the training dataloader tells.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

    Raises:
        ValueError: If not one linear layer is selected, its weight is used elsewhere too, `parameterization` is
            unknown, a number is out of range, or the covariances need more memory.

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
        network = copy.deepcopy(backbone)
        layers = named_layers(network)
        name = _last_layer(network, layers, stochastic_module_names)
        makers: dict[str, Callable[..., BayesianLastLayer]] = {
            "dense": partial(DenseLastLayer, max_mebibytes=max_mebibytes),
            "low_rank": partial(LowRankLastLayer, rank=rank),
            "diagonal": DiagonalLastLayer,
        }
        if parameterization not in makers:
            raise ValueError(f"parameterization must be one of {list(makers)}, got {parameterization!r}")
        head = makers[parameterization](cast(nn.Linear, layers[name]), prior_std=prior_std, init_std=init_std)
        network = replace_layer(network, layers[name], head)
        if freeze_backbone:
            own = {id(parameter) for parameter in head.parameters()}
            for parameter in network.parameters():
                parameter.requires_grad_(id(parameter) in own)
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
        if not is_plain(stochastic_module_names):
            self.hparams["stochastic_module_names"] = [list(layers).index(name)]

    @property
    def head(self) -> BayesianLastLayer:
        """The last layer."""
        head = self.backbone.get_submodule(self._head_name)
        if not isinstance(head, BayesianLastLayer):
            raise TypeError(f"the backbone's layer {self._head_name!r} was replaced by a {type(head).__name__}")
        return head

    def undecayed_parameters(self) -> Iterable[nn.Parameter]:
        """Returns the likelihood's and the head's parameters, whose decay is the prior."""
        yield from super().undecayed_parameters()
        yield from self.head.parameters()

    def features(self, x: NetworkInput) -> Tensor:
        r"""The head's input :math:`\phi(x)`.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ..., F].

        Raises:
            ValueError: If the network's output is not the head's.
        """
        seen: list[tuple[Tensor, Tensor]] = []
        handle = self.head.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        try:
            output = call(self.backbone, x)
        finally:
            handle.remove()
        if len(seen) != 1 or seen[0][1] is not output:
            raise ValueError(
                f"the network's output must be that of {self._head_name or 'the root'!r}, called once, but that layer "
                f"was called {len(seen)} times" + (" and more was done with its output" if len(seen) == 1 else "")
            )
        return seen[0][0]

    def point_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return call(self.backbone, x)

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        known = self.require_num_data(num_data)
        mean, variance = self.head.moments(self.features(x))
        outputs = mean.unsqueeze(0)
        self.likelihood.check(outputs, target)
        log_prob = self.likelihood.expected_log_prob(mean, variance, target)
        return outputs, negative_elbo(log_prob, self.head.kl(), known, kl_weight)

    def output_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:  # noqa: D102
        mean, variance = self.head.moments(self.features(x))
        return mean, variance.sqrt()

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        features = self.features(x)
        per_sample = features[..., 0].numel() * self.head.out_features + self.head.weight_mu.numel()
        chunk = max(1, MAX_OUTPUTS_PER_CHUNK // max(per_sample, 1))
        for first in range(0, num_samples, chunk):
            weights = self.head.draw(first, min(first + chunk, num_samples), seed)
            yield self.head.sampled_outputs(features, weights)


def _last_layer(network: nn.Module, layers: Mapping[str, nn.Module], names: Sequence[ModuleSelector]) -> str:
    """The name of the layer to replace."""
    name = find_last_layer(network, layers, names)
    layer, label = layers[name], repr(name) if name else "the root"
    if not isinstance(layer, nn.Linear) or type(layer).forward is not nn.Linear.forward:
        raise ValueError(
            f"stochastic_module_names={names!r} must select a linear layer, but {label} is a {type(layer).__name__}"
        )
    return name
