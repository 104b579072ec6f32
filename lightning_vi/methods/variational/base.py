"""Base class of methods of variational inference with stochastic modules."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Self, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_vi.arguments import check_at_least, check_instance
from lightning_vi.conversion import (
    ConversionReport,
    LastLayerCheck,
    ModuleSelector,
    convert,
    largest_factor_rate,
    last_selected,
    num_joint_layers,
)
from lightning_vi.core import (
    DEFAULT_LEARNING_RATE,
    LRSchedulerFactory,
    OptimizerFactory,
    Predictor,
    default_optimizer,
)
from lightning_vi.core.hyperparameters import is_plain
from lightning_vi.diagnostics import DiagnosedMethod, WeightPosterior, weight_posteriors
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.moments import engine_moments
from lightning_vi.objectives import ObjectiveTerms, negative_elbo
from lightning_vi.optim import cosine_decay
from lightning_vi.posteriors import DEFAULT_STD, InitialStd, NoiseCoupling, ProportionalStd
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior, Prior
from lightning_vi.sampling import DrawCache, NetworkInput, SamplingEngine, Vectorization

BURNIN_SHARE = 0.25
"""Share of a fit with noise that depends on the input in which all stochastic weights train on squared errors."""
USUAL_STEPS = 2000
"""Number of steps for which a learning rate is chosen where the length of the fit is unknown."""


def posterior_learning_rate(fan_in: int, num_steps: float, has_bounded_gradient: bool, num_layers: int = 1) -> float:
    r"""Learning rate of means and scales of a posterior with the default optimizer.

    .. math:: \eta = \min\Big(0.2\, d,\ \frac{c\, d}{\sqrt T},\ \frac{300}{F \sqrt T}\Big)

    Adam moves each parameter by about the learning rate, and scales have to move far from their start, so that a short
    fit takes a high rate. It is limited by the numbers of inputs and of layers that move together, and where small
    changes of the outputs may cost much: with likelihoods whose gradient is bounded, c is 4.8 and
    :math:`d = (2 / L)^2` for L > 2 layers; with others, c is 1.7, d is 3 / L for L > 3 layers, and T is at least
    1000. Depth alone takes no rate below 0.003, the default of deterministic networks.

    Args:
        fan_in: Largest number F of inputs of a unit.
        num_steps: Number T of optimizer steps; infinite if unknown.
        has_bounded_gradient: See `Likelihood.has_bounded_gradient`.
        num_layers: Number L of layers with a posterior.

    Returns:
        The learning rate.

    Example:
        >>> round(posterior_learning_rate(fan_in=50, num_steps=1700, has_bounded_gradient=False), 3)
        0.041
        >>> [round(posterior_learning_rate(50, 400, True, num_layers), 3) for num_layers in (2, 3, 9)]
        [0.2, 0.089, 0.01]
    """
    steps = num_steps if 0 < num_steps < math.inf else USUAL_STEPS
    if has_bounded_gradient:
        limit, depth = 4.8, min(1.0, 4 / num_layers**2)
    else:
        limit, depth, steps = 1.7, min(1.0, 3 / num_layers), max(steps, 1000)
    shallow = min(0.2, min(limit, 300 / fan_in) / math.sqrt(steps))
    return min(shallow, max(DEFAULT_LEARNING_RATE, min(0.2, limit / math.sqrt(steps)) * depth))


def feature_learning_rate(fan_in: int, num_steps: float, num_data: int | None) -> float:
    r"""Learning rate of the deterministic weights of a stochastic network with the default optimizer.

    .. math:: \eta = \max\Big(\eta_0,\ \min\Big(4 \eta_0,\ 2 \eta_0 \frac{N}{T},\
        \frac{\min(0.4, 100 / F)}{\sqrt T}\Big)\Big)

    The rate of a deterministic network, :math:`\eta_0 = 0.003`, is for a constant rate. Here the rate decays, and
    starts higher in a short fit of a narrow network. With many steps per datum a higher one would only fit the noise.

    Args:
        fan_in: Largest number F of inputs of a unit.
        num_steps: Number T of optimizer steps; infinite if unknown.
        num_data: Size N of the training set; None if unknown.

    Returns:
        The learning rate.

    Example:
        >>> [round(feature_learning_rate(50, 1700, num_data), 4) for num_data in (500, 2000, 50000)]
        [0.003, 0.0071, 0.0097]
    """
    if not 0 < num_steps < math.inf or num_data is None:
        return DEFAULT_LEARNING_RATE
    rate = min(4 * DEFAULT_LEARNING_RATE, 2 * DEFAULT_LEARNING_RATE * num_data / num_steps)
    return max(DEFAULT_LEARNING_RATE, min(rate, min(0.4, 100 / fan_in) / math.sqrt(num_steps)))


def largest_fan_in(weights: Iterable[Tensor]) -> int:
    """Largest number of inputs of a unit.

    Args:
        weights: Weights [out, in, ...]; vectors are ignored.

    Returns:
        The number, 1 without any.
    """
    return max((weight[0].numel() for weight in weights if weight.dim() > 1), default=1)


class VariationalOptions(TypedDict, total=False):
    """Types of the keyword arguments that subclasses pass to `VariationalMethod`."""

    prior: Prior | Mapping[str, Prior] | None
    estimator: str
    init_std: InitialStd
    stochastic_biases: bool
    freeze_backbone: bool
    vectorization: Vectorization
    antithetic: bool
    num_mc_samples_train: int
    num_mc_samples_test: int
    burnin_epochs: int | None
    kl_weight: float
    kl_warmup_epochs: int | None
    num_data: int | None
    optimizer: OptimizerFactory
    lr_scheduler: LRSchedulerFactory | None


class VariationalArguments(VariationalOptions, total=False):
    """Types of the keyword arguments of subclasses without a default for `stochastic_module_names`."""

    stochastic_module_names: Sequence[ModuleSelector] | None


class VariationalMethod(DiagnosedMethod):
    """Base class of methods that train a network with stochastic modules on the evidence lower bound.

    Subclasses may override `convert_backbone`, which makes the network stochastic, and `make_coupling`, which makes the
    joint posterior of all weights. The constructor calls both, so attributes that they use must be set before
    ``super().__init__``.

    Args:
        backbone: Any network; it is copied, and its weights become posterior means.
        likelihood: The observation model; it is copied.
        stochastic_module_names: The stochastic modules by name, glob, index, class or predicate, see
            `lightning_vi.conversion.convert`; None for every module with parameters.
        prior: Prior of each parameter, or a mapping from dotted names or globs to priors; `EmpiricalBayesPrior` by
            default, which finds the scale of each tensor.
        estimator: ``"auto"``, ``"reparameterization"``, ``"local_reparameterization"`` or ``"flipout"``.
        init_std: Initial posterior standard deviation, a number or `ProportionalStd`.
        stochastic_biases: Whether biases are stochastic too.
        freeze_backbone: Whether to freeze the deterministic parameters of the network.
        vectorization: How samples are run: ``"auto"``, ``"repeat"``, ``"vmap"`` or ``"loop"``, see `SamplingEngine`.
        antithetic: Whether to draw samples in antithetic pairs, whose noise has opposite signs.
        num_mc_samples_train: Number of samples in each training step.
        num_mc_samples_test: Number of samples for validation, test and prediction.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss, without KL divergence
            and sampling; None for a quarter of a fit of known length if all weights are stochastic and the likelihood
            reads its noise from the network's output, and for none otherwise.
        kl_weight: Weight of the KL divergence; 1 is the evidence lower bound.
        kl_warmup_epochs: Number of epochs after burn-in over which the weight increases linearly to `kl_weight`; None
            for an increase in each step over 90% of a fit.
        num_data: Size of the training set; by default it is read from the training dataloader.
        optimizer: Function from an iterable of parameters to an optimizer. A Trainer without `gradient_clip_val` clips
            the norm of the gradient at 1; 0 disables it.
        lr_scheduler: Function from the optimizer to a scheduler, see `UQMethod`; None for a constant learning rate.

    Raises:
        ValueError: If a count or weight is out of range, the estimator is unknown, or a selector matches nothing.
    """

    has_kl = True
    draws_weights = False
    """True if the method samples weights and does not support estimators that sample a layer's outputs."""
    coupling_learning_rate = 1.0
    """Factor of the learning rate of the coupling's parameters."""
    max_gradient_norm = 1.0
    """Default limit of the norm of a step's gradient in a Trainer, in nats per example."""

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        stochastic_module_names: Sequence[ModuleSelector] | None = None,
        prior: Prior | Mapping[str, Prior] | None = None,
        estimator: str = "auto",
        init_std: InitialStd = DEFAULT_STD,
        stochastic_biases: bool = True,
        freeze_backbone: bool = False,
        vectorization: Vectorization = "auto",
        antithetic: bool = False,
        num_mc_samples_train: int = 10,
        num_mc_samples_test: int = 50,
        burnin_epochs: int | None = None,
        kl_weight: float = 1.0,
        kl_warmup_epochs: int | None = None,
        num_data: int | None = None,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = cosine_decay,
    ) -> None:
        check_instance("backbone", backbone, nn.Module)
        check_at_least("num_mc_samples_train", num_mc_samples_train, 1)
        if self.draws_weights:
            if estimator not in ("auto", "reparameterization"):
                raise InputValueError(
                    f"estimator must be 'auto' or 'reparameterization', because weights are sampled, got {estimator!r}"
                )
            estimator = "reparameterization"
        network, conversion = self.convert_backbone(
            backbone,
            stochastic_module_names,
            prior=prior,
            estimator=estimator,
            init_std=init_std,
            stochastic_biases=stochastic_biases,
        )
        engine = SamplingEngine(network, vectorization, antithetic=antithetic, coupling=self.make_coupling)
        if freeze_backbone:
            _freeze_deterministic(network, engine)
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
        last = last_selected(backbone, stochastic_module_names)
        if not is_plain(stochastic_module_names) or last not in (None, conversion.modules[-1].name):
            positions = [position for position, row in enumerate(conversion.modules) if row.stochastic]
            self.hparams["stochastic_module_names"] = positions
        engine.check_input = LastLayerCheck(network, last)
        self.engine = engine
        self.coupling = engine.coupling
        self._conversion = conversion
        self._variances = DrawCache[list[dict[str, Any]]]()
        self._is_pretrained = isinstance(init_std, ProportionalStd)
        self._given_scales = set[str]()
        if prior is not None and not isinstance(prior, EmpiricalBayesPrior):
            self._given_scales.add("prior")
        if isinstance(init_std, float) and init_std > DEFAULT_STD:
            self._given_scales.add("init_std")
        self.num_mc_samples_train = num_mc_samples_train

    def convert_backbone(
        self,
        backbone: nn.Module,
        stochastic_module_names: Sequence[ModuleSelector] | None,
        *,
        prior: Prior | Mapping[str, Prior] | None,
        estimator: str,
        init_std: InitialStd,
        stochastic_biases: bool,
    ) -> tuple[nn.Module, ConversionReport]:
        """Makes a stochastic copy of the network; by default with `lightning_vi.conversion.convert`.

        Args:
            backbone: The network.
            stochastic_module_names: The stochastic modules, as in the constructor.
            prior: Prior of each parameter.
            estimator: The estimator.
            init_std: Initial posterior standard deviation.
            stochastic_biases: Whether biases are stochastic too.

        Returns:
            The stochastic network and a report of the conversion.
        """
        return convert(
            backbone,
            stochastic_module_names,
            prior=prior,
            estimator=estimator,
            init_std=init_std,
            stochastic_biases=stochastic_biases,
        )

    def make_coupling(self, shapes: Sequence[torch.Size]) -> NoiseCoupling | None:  # noqa: ARG002
        """Makes the joint posterior of all stochastic weights.

        Args:
            shapes: Shapes of the stochastic tensors, in the order of their noise.

        Returns:
            The coupling; None by default, for independent weights.
        """
        return None

    @classmethod
    def from_pretrained(
        cls,
        backbone: nn.Module,
        likelihood: Likelihood | None = None,
        *,
        delta: float = 0.1,
        prior_std: float | Literal["fan_in"] = 1.0,
        **arguments: Any,
    ) -> Self:
        r"""Makes the method from a trained network, whose weights become the prior and posterior means.

        This is the warm start MOPED (Krishnan et al., AAAI 2020), with prior :math:`\mathcal{N}(w^*, s^2)` and initial
        posterior :math:`\mathcal{N}(w^*, (\delta |w^*|)^2)`. Checkpoints include the prior.

        Args:
            backbone: The trained network, or a fitted method that has one.
            likelihood: The observation model; by default that of the fitted method, whose scaling of the targets it
                takes over.
            delta: Ratio :math:`\delta` of posterior standard deviation to weight.
            prior_std: Prior standard deviation s, a positive number or ``"fan_in"``.
            **arguments: The other arguments of the method, except `prior` and `init_std`.

        Returns:
            The method.

        Raises:
            TypeError: If there is no likelihood, the method has several networks, or `prior` or `init_std` is given.
            ValueError: If `delta` or `prior_std` is not positive and finite, or as for the method.

        Example:
            >>> import torch
            >>> from lightning_vi import MeanFieldVI
            >>> from lightning_vi.likelihoods import Gaussian
            >>> method = MeanFieldVI.from_pretrained(torch.nn.Linear(2, 1), Gaussian(), prior_std=0.5)
            >>> method.backbone
            VariationalLinear(in_features=2, out_features=1, bias=True, estimator='local_reparameterization',
                prior=GaussianPrior(mean=<tensor (1, 2)>, std=0.5))
        """
        taken = sorted({"prior", "init_std"} & arguments.keys())
        if taken:
            raise InputTypeError(f"from_pretrained sets {taken} by delta and prior_std")
        if isinstance(backbone, Predictor):
            likelihood = backbone.likelihood if likelihood is None else likelihood.scaled_as(backbone.likelihood)
            networks = backbone.trained_networks()
            if len(networks) != 1:
                name = type(backbone).__name__
                raise InputTypeError(
                    f"backbone must have one network, but {name} has {len(networks)}: give one of its members"
                )
            backbone = networks[0]
        if likelihood is None:
            raise InputTypeError("likelihood is required unless backbone is a fitted method")
        prior, init_std = GaussianPrior("pretrained", prior_std), ProportionalStd(delta)
        return cls(backbone, likelihood, prior=prior, init_std=init_std, **arguments)

    @property
    def conversion(self) -> ConversionReport:
        """Table of the network's modules and their posteriors."""
        return self._conversion.updated(self.backbone)

    def weight_posteriors(self) -> Sequence[WeightPosterior]:  # noqa: D102
        return weight_posteriors(self.backbone, self.engine)

    def posterior_dependence(self) -> float:  # noqa: D102
        return 0.0 if self.coupling is None else self.coupling.marginals()[1].item()

    def open_remedies(self) -> frozenset[str]:  # noqa: D102
        warmup, num_epochs = self.kl_warmup_epochs, self.current_epoch - self.num_burnin_epochs
        is_open = {
            "kl_warmup_epochs": warmup is not None and 2 * warmup < num_epochs,
            "fewer_kl_warmup_epochs": bool(warmup),
            "optimizer": not self.has_default_optimizer,
            "lr_scheduler": self._lr_scheduler_factory is not cosine_decay,
            "correlations": self.coupling is None,
        }
        if not self._is_pretrained:
            is_open |= dict.fromkeys(self._given_scales, True) | {"from_pretrained": True}
        return frozenset(name for name, value in is_open.items() if value)

    def undecayed_parameters(self) -> Iterable[nn.Parameter]:
        """Returns the likelihood's parameters and the variational parameters, which the prior regularizes."""
        yield from super().undecayed_parameters()
        yield from self.engine.parameters()

    @property
    def burnin_share(self) -> float:
        """`BURNIN_SHARE` if all weights are stochastic, none pretrained, and the noise is an output too; else 0."""
        is_wanted = self.likelihood.has_output_noise and not (self.has_deterministic_weights or self._is_pretrained)
        return BURNIN_SHARE if is_wanted else 0.0

    @property
    def needs_whole_fit(self) -> bool:
        """True in regression if all weights are stochastic: the weight of their KL divergence grows until the end."""
        return self.likelihood.task == "regression" and not self.has_deterministic_weights

    @property
    def has_deterministic_weights(self) -> bool:
        """True if a weight matrix of the network has no posterior, and may overfit; vectors do not count."""
        posterior = set(self.engine.parameters())
        return any(each not in posterior for each in self.backbone.parameters() if each.dim() > 1)

    @property
    def main_factor(self) -> float:
        """Factor of the learning rate of the posterior, see `posterior_learning_rate`."""
        if not self.has_default_optimizer:
            return 1.0
        moving, is_bounded = self.engine.parameters()[::2], self.likelihood.has_bounded_gradient
        coupling = set() if self.coupling is None else set(self.coupling.parameters())
        fan_in = largest_fan_in(each for each in moving if each not in coupling)
        # The matrices of a coupling count as layers, but their columns are no inputs of a unit.
        num_layers = num_joint_layers(self.backbone, sum(each.dim() > 1 for each in moving))
        rate = posterior_learning_rate(fan_in, self.num_steps, is_bounded, num_layers)
        return min(rate, largest_factor_rate(self.backbone, is_bounded)) / DEFAULT_LEARNING_RATE

    @property
    def feature_factor(self) -> float:
        """Factor of the learning rate of deterministic weights, see `feature_learning_rate`."""
        if not self.has_default_optimizer:
            return 1.0
        posterior = set(self.engine.parameters())
        fan_in = largest_fan_in(each for each in self.backbone.parameters() if each not in posterior)
        return feature_learning_rate(fan_in, self.num_steps, self.size_of_fit()) / DEFAULT_LEARNING_RATE

    def learning_rate_factors(self) -> Mapping[nn.Parameter, float]:  # noqa: D102
        factor = self.main_factor
        coupling = [] if self.coupling is None else self.coupling.parameters()
        return {
            **dict.fromkeys(self.backbone.parameters(), self.feature_factor),
            **super().learning_rate_factors(),
            **dict.fromkeys(self.engine.parameters(), factor),
            **dict.fromkeys(coupling, factor * self.coupling_learning_rate),
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradient, by default its norm at `max_gradient_norm`.

        Under ``precision="16-mixed"`` there is no default, because a fused optimizer has scaled gradients.

        Args:
            optimizer: The optimizer.
            gradient_clip_val: The Trainer's limit; None for the default, 0 for none.
            gradient_clip_algorithm: ``"norm"`` or ``"value"``, for a limit of the Trainer.
        """
        if gradient_clip_val is not None:
            super().configure_gradient_clipping(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif self.trainer.precision != "16-mixed":
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            nn.utils.clip_grad_norm_(parameters, self.max_gradient_norm)

    def point_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return self.engine.mean_output(x)

    def propagated_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:  # noqa: D102
        is_exact = self.output_moments(x) is not None
        if is_exact or type(self).sampled_outputs is not VariationalMethod.sampled_outputs:
            return super().propagated_moments(x)
        return engine_moments(self.engine, x, self._variances)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        return self.engine.prediction_samples(x, num_samples, seed)

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        num_data = self.require_num_data(num_data)
        outputs, kl = self.engine.training_pass(x, self.num_mc_samples_train)
        self.likelihood.check(outputs, target)
        log_prob = self.likelihood.log_prob(outputs, target, weight)
        return outputs, negative_elbo(log_prob, kl, num_data, kl_weight)


def _freeze_deterministic(network: nn.Module, engine: SamplingEngine) -> None:
    variational = {id(parameter) for parameter in engine.parameters()}
    frozen = [parameter for parameter in network.parameters() if id(parameter) not in variational]
    if not frozen:
        raise InputValueError(
            "freeze_backbone=True has nothing to freeze: every parameter of the network is stochastic"
        )
    for parameter in frozen:
        parameter.requires_grad_(False)
