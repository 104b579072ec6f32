r"""Laplace approximation with a linearized predictive.

MacKay, "A practical Bayesian framework for backpropagation networks", Neural Computation 1992; Ritter, Botev and
Barber, "A scalable Laplace approximation for neural networks", ICLR 2018; Immer, Korzepa and Bauer, "Improving
predictions of Bayesian neural nets via local linearization", AISTATS 2021; Daxberger et al., "Laplace redux", NeurIPS
2021.

.. math:: q(w) = \mathcal{N}\Big(w^*, \Big(\sum_n J_n^\top \Lambda_n J_n + s^{-2} I\Big)^{-1}\Big), \qquad
    f(x) \sim \mathcal{N}\big(f_{w^*}(x), J(x) \Sigma J(x)^\top\big)

=================== ============================================================
symbol              argument
=================== ============================================================
:math:`w`           weights of `stochastic_module_names`; the rest are points
:math:`w^*`         the trained weights
:math:`J`           Jacobian of the network's outputs
:math:`\Lambda_n`   Fisher information of the likelihood at the outputs of n
:math:`\sum_n`      `structure`: whole, a block for each output, a Kronecker
                    product for each layer, or diagonal
:math:`s`           `prior_std`
=================== ============================================================
"""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_vi.conversion import LastLayerCheck, ModuleSelector, last_selected, named_layers
from lightning_vi.core import InformedMethod, LRSchedulerFactory, OptimizerFactory, Predictive, default_optimizer
from lightning_vi.core.batch import joined_batches
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.hyperparameters import is_plain
from lightning_vi.curvature import (
    Block,
    Curvature,
    DiagonalCurvature,
    FullCurvature,
    KroneckerCurvature,
    Linearization,
    PerOutputCurvature,
    best_prior_precision,
    choose_blocks,
    flat_weights,
    linearize,
    log_evidence,
)
from lightning_vi.errors import InputValueError
from lightning_vi.functional.special import flat_at_zero
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.deterministic.base import PointMethod
from lightning_vi.methods.laplace.prior_choice import choose_precision
from lightning_vi.methods.laplace.probit import ProbitPredictive
from lightning_vi.noise import sample_noise
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.sampling import (
    DrawCache,
    NetworkInput,
    chunk_ranges,
    evaluating,
    memory,
    num_fitting,
)

Structure = Literal["full", "per_output", "kronecker", "diagonal"]
PredictiveName = Literal["probit", "sampling"]
PriorStd = float | Literal["auto", "marginal_likelihood"]


class Laplace(InformedMethod, PointMethod):
    r"""Laplace approximation: a Gaussian posterior around the trained weights of a network.

    The network is trained like `Deterministic`; a final pass over the training data computes the GGN. For a network
    that is already trained, call `fit_posterior` with a dataloader.

    With `Gaussian` noise the predictive distribution has a closed form. Class probabilities use the probit
    approximation: logits divided by :math:`\sqrt{1 + \pi v / 8}`, where logits and variance v exclude the mean over
    classes. The epistemic share of their entropy is estimated from samples of the linearized network. For other
    likelihoods, the predictive distribution is a mixture over samples of the linearized network.

    Args:
        backbone: Any network; it is copied.
        likelihood: The observation model; it is copied.
        stochastic_module_names: Modules with a posterior, by name, glob, index, class or predicate; by default the
            layer that is called last, None for all. Frozen weights have no posterior.
        structure: Structure of the GGN: ``"full"``; ``"per_output"``, one block for each output of a layer, which is
            exact for the last layer with `Gaussian` and `HeteroscedasticGaussian`; ``"kronecker"``, for linear
            layers and convolutions; or ``"diagonal"``.
        prior_std: Prior standard deviation s of each weight with a posterior. With a number, the training loss includes
            the penalty :math:`\lVert w \rVert^2 / 2 s^2 N`. With ``"marginal_likelihood"`` there is no penalty, and s
            maximizes the marginal likelihood after training. ``"auto"`` does so except in classification, where s is
            chosen around the root mean square of the weights by the score on the validation data of the fit; it is that
            root mean square if there are none.
        predictive: Predictive distribution for classification: ``"probit"`` or ``"sampling"``.
        max_mebibytes: Maximum size of the matrices with ``"full"`` and ``"per_output"``.
        num_mc_samples_test: Number of samples for validation, test and prediction without closed form.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss.
        num_data: Size N of the training set, for the penalty; by default it is read from the training dataloader.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        ValueError: If an option is unknown, a number is out of range, or a module does not support the structure.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = Laplace(MLP(1, [50], 1), Gaussian(noise_std=0.5), prior_std=1.0)
        >>> method.fit_posterior([(torch.randn(20, 1), torch.randn(20, 1))])
        >>> method.predict(torch.zeros(8, 1)).epistemic_var.shape
        torch.Size([8, 1])
    """

    prior_precision: Tensor
    log_likelihood: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        stochastic_module_names: Sequence[ModuleSelector] | None = (-1,),
        structure: Structure = "kronecker",
        prior_std: PriorStd = "auto",
        predictive: PredictiveName = "probit",
        max_mebibytes: float = 256.0,
        num_mc_samples_test: int = 50,
        burnin_epochs: int = 0,
        num_data: int | None = None,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        makers: dict[str, Callable[[Sequence[Block]], Curvature]] = {
            "full": partial(FullCurvature, max_mebibytes=max_mebibytes),
            "per_output": partial(PerOutputCurvature, max_mebibytes=max_mebibytes),
            "kronecker": KroneckerCurvature,
            "diagonal": DiagonalCurvature,
        }
        if structure not in makers:
            raise InputValueError(f"structure must be one of {list(makers)}, got {structure!r}")
        if predictive not in ("probit", "sampling"):
            raise InputValueError(f"predictive must be 'probit' or 'sampling', got {predictive!r}")
        prior_precision = _precision_of(prior_std)
        super().__init__(
            backbone,
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            num_data=num_data,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self._blocks = choose_blocks(self.backbone, stochastic_module_names, matrices_only=structure == "kronecker")
        last, names = last_selected(self.backbone, stochastic_module_names), list(named_layers(self.backbone))
        if not is_plain(stochastic_module_names) or last not in (None, names[-1]):
            positions = [names.index(block.module_name) for block in self._blocks]
            self.hparams["stochastic_module_names"] = positions
        weight = self.backbone.get_parameter(self._blocks[0].names[0])
        self.curvature = makers[structure](self._blocks).to(weight)
        self._check_last_layer = LastLayerCheck(self.backbone, last)
        self.predictive = predictive
        self._cache = DrawCache[Tensor]()
        self._optimizes_prior = prior_precision is None
        self._uses_validation_data = prior_std == "auto" and likelihood.task == "classification"
        self.register_buffer("prior_precision", weight.new_tensor(prior_precision or 1.0))
        self.register_buffer("log_likelihood", weight.new_tensor(0.0))

    @property
    def needs_num_data(self) -> bool:
        """True if the loss has a penalty."""
        return not self._optimizes_prior

    @property
    def prior_std(self) -> Tensor:
        """Prior standard deviation of each weight with a posterior, a scalar tensor."""
        return self.prior_precision.rsqrt()

    def log_marginal_likelihood(self) -> Tensor:
        """Computes the Laplace approximation of the log marginal likelihood of the training data, see `log_evidence`.

        Returns:
            A scalar tensor, in nats.

        Raises:
            NotFittedError: If the method is not fitted.
        """
        self.require_fitted()
        squared_norm = flat_weights(self.backbone, self._blocks).detach().square().sum()
        return log_evidence(self.log_likelihood, self.curvature.eigenvalues(), squared_norm, self.prior_precision)

    @torch.no_grad()
    def fit_posterior(self, data: Iterable[Any], validation_data: Iterable[Any] | None = None) -> None:
        """Computes the GGN at the current weights in one pass and, if requested, optimizes the prior.

        Args:
            data: The training data in labeled batches.
            validation_data: Labeled batches for ``prior_std="auto"`` in classification; by default those of a fit.

        Raises:
            ValueError: If there are no data.
        """
        num_rows, log_likelihood = 0, torch.zeros_like(self.log_likelihood)

        def terms() -> Iterator[tuple[Linearization, Tensor, Tensor | None]]:
            nonlocal num_rows, log_likelihood
            joined = joined_batches(map(self.weighted_batch, data), self.likelihood.num_outputs)
            for x, target, weight in (part for batch in joined for part in self.parts_for_information(*batch)):
                self._check_last_layer(x)
                with explained(self, x):
                    linearization = linearize(self.backbone, self._blocks, x)
                outputs = linearization.outputs.unsqueeze(0)
                self.likelihood.check(outputs, target)
                self._check_layout(x, outputs)
                log_likelihood = log_likelihood + self.likelihood.log_prob(outputs, target, weight).sum()
                num_rows += len(target)
                factor = self.likelihood.information_factor(linearization.outputs).to(linearization.outputs)
                weights = self.output_weights(target, weight, linearization.outputs)
                if weights is not None:
                    factor = factor * weights.flatten(1).sqrt().unsqueeze(-1)
                yield linearization, factor, weights
            if num_rows == 0:
                raise InputValueError("there are no data to fit the posterior to")

        with evaluating(self):
            self.curvature.fit(terms(), self.sum_over_processes)
        self.log_likelihood.copy_(self.sum_over_processes(log_likelihood))
        weights = flat_weights(self.backbone, self._blocks)
        if self._uses_validation_data:
            batches = self._validation_batches() if validation_data is None else validation_data
            with evaluating(self):
                self.prior_precision.copy_(choose_precision(weights, partial(self._validation_scores, batches)))
        elif self._optimizes_prior:
            self.prior_precision.copy_(best_prior_precision(self.curvature.eigenvalues(), weights.square().sum()))
        self.is_fitted.fill_(True)

    def _validation_batches(self) -> Iterable[Any]:
        """Returns the validation data of a running fit, if it has any."""
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return []
        loaders = self.trainer.fit_loop.epoch_loop.val_loop._combined_loader
        return [] if loaders is None else itertools.chain.from_iterable(loaders.flattened)

    def _validation_scores(self, batches: Iterable[Any], precisions: Tensor) -> Tensor:
        """Returns summed negative log-likelihoods under the probit approximation, shape [K], for precisions [K]."""
        scores = torch.zeros_like(precisions)
        for x, target, weight in map(self.weighted_batch, batches):
            linearization = linearize(self.backbone, self._blocks, x, centered_dim=self.likelihood.softmax_dim)
            for k, precision in enumerate(precisions):
                variance = self.curvature.variances(linearization, precision).view_as(linearization.outputs)
                predictive = ProbitPredictive(self.likelihood, linearization.outputs, variance, list)
                log_prob = predictive.metric_inputs(target)["log_prob"][0]
                scores[k] -= (log_prob if weight is None or weight.dim() > 1 else log_prob * weight).sum()
        return self.sum_over_processes(scores)

    def undecayed_parameters(self) -> Iterable[nn.Parameter]:
        """Returns the likelihood's parameters and, if their prior is given, the weights with a posterior."""
        yield from super().undecayed_parameters()
        if not self._optimizes_prior:
            yield from (self.backbone.get_parameter(name) for block in self._blocks for name in block.names)

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        self._check_last_layer(x)
        outputs, terms = super().objective(x, target, weight, num_data=num_data, kl_weight=kl_weight)
        if self._optimizes_prior:
            return outputs, terms
        energy = 0.5 * self.prior_precision * flat_weights(self.backbone, self._blocks).square().sum()
        return outputs, ObjectiveTerms(terms.loss + energy / self.require_num_data(num_data), terms.nll, energy)

    def output_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self._moments_of(linearize(self.backbone, self._blocks, x))

    def _moments_of(self, linearization: Linearization) -> tuple[Tensor, Tensor]:
        variances = self.curvature.variances(linearization, self.prior_precision)
        outputs = linearization.outputs
        return outputs, flat_at_zero(torch.sqrt, variances.clamp_min(0)).view_as(outputs)

    def propagated_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:
        """Computes the outputs, and the variances of the linearized network.

        Logits exclude their mean over classes, which a softmax does not depend on.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Each of shape [B, ...].
        """
        dim, num_logits = self.likelihood.softmax_dim, self.likelihood.num_outputs
        outputs, std = self._moments_of(linearize(self.backbone, self._blocks, x, centered_dim=dim))
        return outputs, std.square() * (1.0 if dim is None else num_logits / (num_logits - 1))

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        return self._samples(linearize(self.backbone, self._blocks, x), num_samples, seed)

    def _samples(self, linearization: Linearization, num_samples: int, seed: int) -> Iterator[Tensor]:
        outputs, num_weights = linearization.outputs, self.curvature.num_weights
        max_chunk = num_fitting(memory.MAX_LINEARIZED_NUMBERS, max(outputs.numel(), num_weights))
        known = self._known_draws(num_samples, seed)
        for first, stop in chunk_ranges(num_samples, max_chunk):
            if known is None:
                noise = self._noise(first, stop, seed)
                yield outputs + self.curvature.draw_changes(linearization, noise, self.prior_precision)
            else:
                yield outputs + linearization.jvp(known[first:stop].to(outputs))

    def _noise(self, first: int, stop: int, seed: int) -> Tensor:
        """Noise of the weights of samples `first` to `stop`, shape [stop - first, P]."""
        return sample_noise(seed, first, stop, self.curvature.num_weights).to(self.prior_precision)

    def _known_draws(self, num_samples: int, seed: int) -> Tensor | None:
        """Returns the weight changes of all samples if they fit the memory budget, else None."""
        made_of = [*self.curvature.buffers(), self.prior_precision]
        size = num_samples * self.curvature.num_weights + sum(tensor.numel() for tensor in made_of)
        if size > memory.max_kept(self.device):
            return None

        def draw() -> Tensor:
            return self.curvature.draw(self._noise(0, num_samples, seed), self.prior_precision)

        return self._cache.get((seed, num_samples), made_of, draw)

    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:  # noqa: D102
        if self.likelihood.task != "classification" or self.predictive != "probit":
            return super().make_predictive(x, num_samples, seed)
        linearization = linearize(self.backbone, self._blocks, x, centered_dim=self.likelihood.softmax_dim)
        logits, std = self._moments_of(linearization)
        return ProbitPredictive(
            self.likelihood, logits, std.square(), partial(self._samples, linearization, num_samples, seed)
        )


def _precision_of(prior_std: PriorStd) -> float | None:
    if prior_std in ("auto", "marginal_likelihood"):
        return None
    if isinstance(prior_std, str) or not (prior_std > 0 and math.isfinite(prior_std)):
        raise InputValueError(
            f"prior_std must be a positive, finite number, 'auto' or 'marginal_likelihood', got {prior_std!r}"
        )
    return float(prior_std) ** -2
