r"""Stochastic-gradient Hamiltonian Monte Carlo (SGHMC) with cyclical step sizes.

Chen, Fox and Guestrin, "Stochastic gradient Hamiltonian Monte Carlo", ICML 2014; Zhang, Li, Zhang, Chen and Wilson,
"Cyclical stochastic gradient MCMC for Bayesian deep learning", ICLR 2020.

.. math:: w \sim p(w \mid y)^{1 / T} \propto e^{-U(w) / T}, \qquad
    U(w) = -\sum_n \ln p(y_n \mid f_w(x_n)) - \ln p(w), \\
    \mathrm{d}w = v\, \mathrm{d}t, \qquad
    m\, \mathrm{d}v = -\nabla U\, \mathrm{d}t - \gamma m v\, \mathrm{d}t + \sqrt{2 \gamma m T}\, \mathrm{d}B

=================================  ===============================================================
symbol                             argument
=================================  ===============================================================
:math:`f_w`                        `backbone`
:math:`p(y | f)`                   `likelihood`
:math:`p(w)`                       `prior`
:math:`T`                          `temperature`
time h of a step                   `lr`: :math:`h = \sqrt{\mathrm{lr} / N}`
:math:`e^{-\gamma h}`              `momentum`; 0 is Langevin dynamics (SGLD)
:math:`N`                          `num_data`
cycles, their stages               `num_cycles`, `exploration`, `sampling_factor`
independent chains, kept draws     `num_chains`, `num_draws`
=================================  ===============================================================

A cycle explores, while the noise grows to its full temperature and the masses m, one for each weight, adapt to the
gradients; then it samples with these masses.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_vi.arguments import check_at_least, check_positive
from lightning_vi.conversion.named_priors import choose_priors
from lightning_vi.core import FittedMethod, Predictive, SampledPredictive, default_optimizer
from lightning_vi.core.fit_progress import is_searching
from lightning_vi.core.members import stack_likelihood, unstack_likelihood
from lightning_vi.errors import InputValueError
from lightning_vi.layers.module import num_inputs_of
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.ensembles.stacked import StackedMethod, StackedPredictive
from lightning_vi.methods.monte_carlo.draws import join_stacked, split_stacked, spread_order
from lightning_vi.noise import mix_seed
from lightning_vi.optim import CyclicalSchedule, PerStep, SGHMCOptimizer, cyclical_rate
from lightning_vi.optim.sghmc import check_options
from lightning_vi.priors import GaussianPrior, Prior
from lightning_vi.sampling import (
    NetworkInput,
    StackedVectorization,
    batch_size,
    chunk_ranges,
    running_statistics,
    stacked_tensors,
)
from lightning_vi.tracing import constant, known

SomeModule = TypeVar("SomeModule", bound=nn.Module)


class SGHMC(FittedMethod, StackedMethod):
    """Draws from the posterior of all weights by stochastic-gradient Hamiltonian Monte Carlo (Chen et al., 2014).

    Each of `num_cycles` cycles of a fit (Zhang et al., 2020) starts as gradient descent with momentum, to which noise
    is added by and by, then samples. The sampling stages keep `num_draws` sets of weights, evenly spaced, with the
    likelihood's parameters and the running statistics of batch normalization of the same step. They are part of
    checkpoints, and are the samples of predictions. Learned parameters of the likelihood are sampled too, under a flat
    prior. Several independent chains run at once, with stacked weights and separate orders of the data, as the members
    of `DeepEnsemble` do.

    From the first draw on, `forward`, validation and predictions use the draws so far; before, they use the present
    weights. A new fit discards earlier draws, and a resumed fit keeps them. Gradient clipping would change what is
    sampled; there is none by default.

    Args:
        backbone: Any network; it is copied, and is the start of the first chain. The other chains start at new initial
            values. Or a function that returns a network, which is called for each chain.
        likelihood: The observation model; it is copied for each chain.
        prior: Prior of each parameter, or a mapping from dotted names or globs to priors; by default
            `GaussianPrior()`, N(0, 1).
        num_chains: Number of chains.
        num_draws: Number of sets of weights to keep, over all chains; rounded down to a multiple of the chains. A step
            of a sampling stage gives at most one for each chain.
        num_cycles: Number of cycles of a fit, whose number of steps must be known.
        exploration: Share of a cycle before its first draw.
        lr: Learning rate at the start of a cycle, the square of a step's time, times N. It decreases along half a
            cosine over the exploration.
        sampling_factor: Factor of the learning rate in the sampling stage.
        momentum: Share of the velocity that a step keeps, in [0, 1); 0 for stochastic-gradient Langevin dynamics.
        temperature: Temperature T of the posterior; 1 is the posterior, 0 a maximum of it.
        own_data_order: Whether each chain sees the training data in a different order.
        vectorization: How chains are run: ``"auto"``, ``"vmap"`` or ``"loop"``, see `StackedRunner`.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss, without noise, prior and
            draws.
        num_data: Size of the training set; by default it is read from the training dataloader.

    Raises:
        ValueError: If a number is out of range, or a name of `prior` matches no parameter.

    Attributes:
        num_kept: Number of draws so far, a scalar tensor.
        draws: Their trainable parameters, shape [num_draws, P].

    Example:
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = SGHMC(MLP(2, [8], 1), Gaussian(), num_chains=2, num_draws=6, num_data=100)
        >>> optimizer = method.make_optimizer()
        >>> for _ in range(3):
        ...     optimizer.zero_grad()
        ...     method.elbo(torch.randn(20, 2), torch.randn(20, 1)).loss.backward()
        ...     optimizer.step()
        ...     method.collect()
        >>> method.predict(torch.zeros(4, 2), return_samples=True).samples.shape
        torch.Size([6, 4, 1])
        >>> method.sample_parameters(num_samples=6)["0.weight"].shape
        torch.Size([6, 8, 2])
    """

    num_kept: Tensor
    draws: Tensor
    norm_draws: Tensor

    def __init__(
        self,
        backbone: nn.Module | Callable[[], nn.Module],
        likelihood: Likelihood,
        *,
        prior: Prior | Mapping[str, Prior] | None = None,
        num_chains: int = 5,
        num_draws: int = 100,
        num_cycles: int = 1,
        exploration: float = 0.5,
        lr: float = 1e-3,
        sampling_factor: float = 0.03,
        momentum: float = 0.9,
        temperature: float = 1.0,
        own_data_order: bool = True,
        vectorization: StackedVectorization = "auto",
        burnin_epochs: int = 0,
        num_data: int | None = None,
    ) -> None:
        check_at_least("num_chains", num_chains, 1)
        check_at_least("num_draws", num_draws, num_chains)
        check_positive("lr", lr)
        check_options(lr, momentum, temperature)
        schedule = CyclicalSchedule(num_cycles, exploration, sampling_factor)
        super().__init__(
            backbone,
            likelihood,
            num_networks=num_chains,
            num_mc_samples_test=num_draws,
            own_data_order=own_data_order,
            vectorization=vectorization,
            burnin_epochs=burnin_epochs,
            num_data=num_data,
            optimizer=default_optimizer,
            lr_scheduler=PerStep(cyclical_rate, schedule=schedule),
        )
        self.schedule = schedule
        self.num_draws = num_draws // num_chains * num_chains
        self.lr = lr
        self.momentum = momentum
        self.temperature = temperature
        self._total_steps = 1
        self._names = [name for name, value in self.backbone.named_parameters() if value.requires_grad]
        if not self._names:
            raise InputValueError("backbone must have trainable parameters to sample, got none")
        self._priors = nn.ModuleList(self._resolved_priors(GaussianPrior() if prior is None else prior))
        self.drawn_likelihood = _drawn_likelihood(self.likelihood, self.num_draws)
        self.register_buffer("num_kept", torch.tensor(0))
        for name, tensors in (("draws", self._sampled()), ("norm_draws", running_statistics(self.backbone))):
            values = join_stacked(tensors, num_chains)
            self.register_buffer(name, values.new_zeros(self.num_draws, values.shape[1]))

    def _resolved_priors(self, prior: Prior | Mapping[str, Prior]) -> list[Prior]:
        """Returns the prior of each sampled parameter, in order."""
        places = {name: name.rpartition(".")[::2] for name in self._names}
        labels: dict[str, list[str]] = {}
        for module, label in places.values():
            labels.setdefault(module, []).append(label)
        named = choose_priors(labels, prior, GaussianPrior())
        firsts = {name: value[0].detach() for name, value in self._sampled().items()}
        return [
            named[module][label].for_parameter(label, firsts[name], num_inputs_of(firsts[name]))
            for name, (module, label) in places.items()
        ]

    @property
    def needs_whole_fit(self) -> bool:
        """True: each cycle ends with its draws."""
        return True

    @property
    def needs_num_data(self) -> bool:
        """True, because the loss has the prior, divided by N."""
        return True

    def regularizer(self, num_data: int | None) -> Tensor:
        r"""Computes the prior's part of the loss, :math:`-\frac1N \ln p(w)`.

        Args:
            num_data: N.

        Returns:
            Sum over the chains, a scalar tensor.
        """
        log_probs = [
            cast(Prior, prior).log_prob(value).sum(dtype=torch.promote_types(value.dtype.to_real(), torch.float32))
            for prior, value in zip(self._priors, self._sampled().values(), strict=True)
        ]
        return -torch.stack(log_probs).sum() / self.require_num_data(num_data)

    def _sampled(self) -> dict[str, Tensor]:
        """Present values of the sampled parameters by name, each of shape [K, ...]."""
        return {name: self.backbone.get_parameter(name) for name in self._names}

    def make_optimizer(self) -> Optimizer:
        """Makes the sampler of all trainable parameters, at the temperature of the method.

        Returns:
            `SGHMCOptimizer`. In a fit, each step sets its stage.
        """
        return SGHMCOptimizer(
            [parameter for parameter in self.parameters() if parameter.requires_grad],
            lr=self.lr,
            num_data=self.num_data or 1,
            momentum=self.momentum,
            temperature=self.temperature,
            seed=mix_seed(self.noise.seed, 1),
            stacked=True,
        )

    def on_train_start(self) -> None:
        """Discards the draws of an earlier fit."""
        was_fitted = bool(self.is_fitted)
        super().on_train_start()
        if math.isinf(self.num_steps):
            raise InputValueError("SGHMC needs a fit of known length for its cycles: give max_epochs or max_steps")
        self._total_steps = int(self.num_steps)
        if not is_searching(self.trainer):
            self._warn_of_few_draws()
        if self.trainer.world_size > 1:  # the noise must be that of one sampler
            seed = self.trainer.strategy.broadcast(self.own_optimizers()[0].param_groups[0]["seed"])
            for optimizer in self.own_optimizers():
                for group in optimizer.param_groups:
                    group["seed"] = seed
        if self.trainer.global_step == 0:
            self.num_kept.zero_()
        self.is_fitted.fill_(was_fitted and int(self.num_kept) > 0)

    def _warn_of_few_draws(self) -> None:
        num_steps = self.schedule.num_sampling_steps(self._total_steps - 1, self._total_steps)
        planned = num_steps * self.num_networks
        if 0 < planned < self.num_draws:
            rank_zero_warn(
                f"the fit will keep {planned} draws instead of num_draws={self.num_draws}: of its {self._total_steps} "
                f"steps, {num_steps} belong to sampling stages, and each gives one draw of each of the "
                f"{self.num_networks} chains. More epochs, or a smaller exploration or num_cycles, give more"
            )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the stage of the step: exploration, which adapts the masses and heats up, or sampling."""
        super().on_train_batch_start(batch, batch_idx)
        step = self.trainer.global_step
        heat = 0.0 if self.in_burnin else self.schedule.heat(step, self._total_steps)
        for optimizer in self.own_optimizers():
            for group in optimizer.param_groups:
                group.update(
                    num_data=self.require_num_data(self.num_data),
                    temperature=self.temperature * heat,
                    adapt=not self._is_sampling(step),
                )

    def _is_sampling(self, step: int) -> bool:
        return not self.in_burnin and self.schedule.is_sampling(step, self._total_steps)

    def after_step(self) -> bool:
        """Keeps the weights of a step that is one of the draws.

        Returns:
            Whether they are kept.
        """
        step = self.trainer.global_step - 1
        num_rounds = self.num_draws // self.num_networks
        if not (self._is_sampling(step) and self.schedule.is_draw(step, self._total_steps, num_rounds)):
            return False
        self.collect()
        return True

    @torch.no_grad()
    def collect(self) -> None:
        """Keeps the present weights of all chains as draws, for custom training loops; new draws replace the oldest."""
        first, size = int(self.num_kept) % self.num_draws, self.num_networks
        rows = slice(first, first + size)
        self.draws[rows] = join_stacked(self._sampled(), size).to(self.draws)
        self.norm_draws[rows] = join_stacked(running_statistics(self.backbone), size).to(self.norm_draws)
        if self.drawn_likelihood is not None:
            for kept, value in zip(self.drawn_likelihood.parameters(), self.likelihood.parameters(), strict=True):
                kept[rows] = value.to(kept)
            for copied, buffer in zip(self.drawn_likelihood.buffers(), self.likelihood.buffers(), strict=True):
                copied.copy_(buffer[:1])
        self.num_kept += size
        self.is_fitted.fill_(True)

    def fit_posterior(self, data: Iterable[Any]) -> None:  # noqa: ARG002
        """Takes the present weights as the only draws, with a warning, if there are none.

        Args:
            data: Not used.
        """
        if int(self.num_kept) == 0:
            rank_zero_warn(
                f"SGHMC has no draws, because training ended before the first one (exploration="
                f"{self.schedule.exploration}); it uses the present weights of its chains"
            )
            self.collect()
        self.is_fitted.fill_(True)

    def sample_parameters(self, num_samples: int) -> dict[str, Tensor]:
        """Returns draws, the first ones that `predict` uses.

        Args:
            num_samples: S; at most as many as there are draws are returned.

        Returns:
            The network's trainable parameters by name, each of shape [S, ...].

        Raises:
            ValueError: If `num_samples` is not positive.
            NotFittedError: If there are no draws.
        """
        check_at_least("num_samples", num_samples, 1)
        self.require_fitted()
        return split_stacked(self.draws[self._order(num_samples)], self._names, self.backbone)

    def _order(self, num_samples: int) -> Tensor:
        """Indices of the first S draws, in an order whose beginnings are spread over all chains and stages."""
        kept = min(known(self, "num_kept"), self.num_draws)
        return constant(lambda: torch.tensor(spread_order(kept)[:num_samples], device=self.device))

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: ARG002, D102
        return self._outputs_of(self._order(num_samples), x)

    def _outputs_of(self, order: Tensor, x: NetworkInput) -> Iterator[Tensor]:
        """Outputs of the draws of these indices, in parts of shape [S, B, ...]."""
        chunk = self._runner.num_sets_per_pass(self.draws.shape[1], batch_size(x))
        norms = list(running_statistics(self.backbone))
        drawn = {*self._names, *norms}
        of_chains = {name: value for name, value in stacked_tensors(self.backbone).items() if name not in drawn}
        for first, stop in chunk_ranges(len(order), chunk):
            chosen = order[first:stop]
            weights = {name: value[chosen % self.num_networks] for name, value in of_chains.items()}
            weights |= split_stacked(self.draws[chosen], self._names, self.backbone)
            yield self._runner(weights | split_stacked(self.norm_draws[chosen], norms, self.backbone), x)

    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:  # noqa: D102
        if self.drawn_likelihood is None:
            return SampledPredictive(self.likelihood, lambda: self.sampled_outputs(x, num_samples, seed))
        order = self._order(num_samples)
        outputs = torch.cat(list(self._outputs_of(order, x)))
        return StackedPredictive(_rows_of(self.drawn_likelihood, order), outputs)

    def provisional_predictive(self, x: NetworkInput) -> Predictive:  # noqa: D102
        return StackedPredictive(self.likelihood, self._outputs(x))

    def point_outputs(self, x: NetworkInput) -> Tensor:
        """Computes the mean of the outputs of all draws, or of the chains before there are any.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        if not known(self, "is_fitted"):
            return super().point_outputs(x)
        sums = [outputs.sum(0) for outputs in self.sampled_outputs(x, self.num_draws, self.noise.seed)]
        total: Tensor = torch.stack(sums).sum(0)
        return total / min(int(known(self, "num_kept")), self.num_draws)


def _drawn_likelihood(stacked: Likelihood, num_draws: int) -> Likelihood | None:
    """Makes a likelihood for the parameters of all draws; None if it has none."""
    if not any(True for _ in stacked.parameters()):
        return None
    drawn: Likelihood = stack_likelihood(unstack_likelihood(stacked, 0), num_draws).requires_grad_(False)
    return drawn


def _rows_of(likelihood: SomeModule, rows: Tensor) -> SomeModule:
    """Returns a stacked likelihood with some of its sets of parameters; `torch.export` takes no deep copies."""
    chosen = copy.copy(likelihood)
    parameters: dict[str, Any] = {
        name: None if value is None else value[rows] for name, value in likelihood._parameters.items()
    }
    chosen._parameters = parameters
    chosen._modules = {
        name: None if module is None else _rows_of(module, rows) for name, module in likelihood._modules.items()
    }
    return chosen
