"""What methods share that put a Gaussian around trained weights and predict with the linearised network."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_vi.conversion import ModuleSelector
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
from lightning_vi.functional import RunningMoments, entropy
from lightning_vi.likelihoods import Likelihood, Prediction
from lightning_vi.methods.arguments import is_plain
from lightning_vi.methods.batch import joined_batches, split_labelled_batch
from lightning_vi.methods.closed_form import ClosedFormMethod
from lightning_vi.methods.fitted import FittedMethod
from lightning_vi.methods.optimizers import LRSchedulerFactory, OptimizerFactory
from lightning_vi.methods.point import PointMethod
from lightning_vi.noise import sample_noise
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.sampling import MAX_KEPT_NUMBERS, DrawCache, NetworkInput, evaluating, map_tensors

Structure = Literal["full", "per_output", "kronecker", "diagonal"]
Predictive = Literal["probit", "sampling"]
PriorStd = float | Literal["marginal_likelihood"]

MAX_NUMBERS_PER_CHUNK = 2**24
TINY = 1e-30


class LaplaceMethod(FittedMethod, ClosedFormMethod, PointMethod):
    """A network trained to a mode, and a Gaussian around some of its weights there.

    Args:
        backbone: Any network; it is copied.
        likelihood: The observation model; it is copied.
        stochastic_module_names: Modules with a posterior, by name, glob, index, class or predicate; None for all.
        structure: ``"full"``, ``"per_output"``, ``"kronecker"`` or ``"diagonal"``.
        prior_std: Prior standard deviation of each weight, or ``"marginal_likelihood"``.
        predictive: How classes are predicted: ``"probit"`` or ``"sampling"``.
        max_mebibytes: The largest size of the matrices of the first two structures.
        num_mc_samples_test: Samples for prediction where it has no closed form.
        burnin_epochs: Epochs on the likelihood's point loss.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

    Raises:
        ValueError: If an option is unknown, a number is out of range, or the modules do not fit the structure.
    """

    prior_precision: Tensor
    log_likelihood: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        stochastic_module_names: Sequence[ModuleSelector] | None,
        structure: Structure,
        prior_std: PriorStd,
        predictive: Predictive,
        max_mebibytes: float,
        num_mc_samples_test: int,
        burnin_epochs: int,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        makers: dict[str, Callable[[Sequence[Block]], Curvature]] = {
            "full": partial(FullCurvature, max_mebibytes=max_mebibytes),
            "per_output": partial(PerOutputCurvature, max_mebibytes=max_mebibytes),
            "kronecker": KroneckerCurvature,
            "diagonal": DiagonalCurvature,
        }
        if structure not in makers:
            raise ValueError(f"structure must be one of {list(makers)}, got {structure!r}")
        if predictive not in ("probit", "sampling"):
            raise ValueError(f"predictive must be 'probit' or 'sampling', got {predictive!r}")
        prior_precision = _precision_of(prior_std)
        super().__init__(
            backbone,
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        matrices_only = structure == "kronecker"
        self._blocks = choose_blocks(self.backbone, stochastic_module_names, matrices_only=matrices_only)
        if stochastic_module_names is not None and not is_plain(stochastic_module_names):
            self.hparams["stochastic_module_names"] = [block.module_name for block in self._blocks]
        self.curvature = makers[structure](self._blocks)
        self.predictive = predictive
        self._cache = DrawCache[Tensor]()
        self._tunes_prior = prior_precision is None
        self.register_buffer("prior_precision", torch.tensor(prior_precision or 1.0))
        self.register_buffer("log_likelihood", torch.tensor(0.0))

    @property
    def prior_std(self) -> Tensor:
        """Prior standard deviation of each weight with a posterior, a scalar tensor."""
        return self.prior_precision.rsqrt()

    def log_marginal_likelihood(self) -> Tensor:
        """Laplace's approximation of the log evidence of the training data, see `log_evidence`.

        Returns:
            Nats, a scalar tensor.

        Raises:
            NotFittedError: If the method is not fitted.
        """
        self.require_fitted()
        squared_norm = flat_weights(self.backbone, self._blocks).detach().square().sum()
        return log_evidence(self.log_likelihood, self.curvature.eigenvalues(), squared_norm, self.prior_precision)

    @torch.no_grad()
    def fit_posterior(self, data: Iterable[Any]) -> None:
        """Measures the curvature at the present weights in one pass, and chooses the prior where that is wanted.

        Args:
            data: The training data in labelled batches; as many rows as they have are N.

        Raises:
            ValueError: If there are no data.
        """
        num_rows, log_likelihood = 0, torch.zeros((), device=self.device)

        def terms() -> Iterator[tuple[Linearization, Tensor]]:
            nonlocal num_rows, log_likelihood
            batches = map(split_labelled_batch, data)
            for inputs, target in joined_batches(batches, self.likelihood.num_outputs):
                x, target = map_tensors(lambda tensor: tensor.to(self.device), inputs), target.to(self.device)
                linearisation = linearize(self.backbone, self._blocks, x)
                outputs = linearisation.outputs.unsqueeze(0)
                self.likelihood.check(outputs, target)
                log_likelihood = log_likelihood + self.likelihood.log_prob(outputs, target).sum()
                num_rows += len(target)
                yield linearisation, self.likelihood.information_factor(linearisation.outputs)
            if num_rows == 0:
                raise ValueError("there are no data to fit the posterior to")

        with evaluating(self):
            self.curvature.fit(terms(), self._sum_over_processes)
        self.log_likelihood.copy_(self._sum_over_processes(log_likelihood))
        if self._tunes_prior:
            squared_norm = flat_weights(self.backbone, self._blocks).square().sum()
            self.prior_precision.copy_(best_prior_precision(self.curvature.eigenvalues(), squared_norm))
        self.is_fitted.fill_(True)

    def _sum_over_processes(self, tensor: Tensor) -> Tensor:
        if self._trainer is None or self.trainer.world_size == 1:
            return tensor
        reduced: Tensor = self.trainer.strategy.reduce(tensor, reduce_op="sum")
        return reduced

    def undecayed_parameters(self) -> Iterable[nn.Parameter]:
        """The likelihood's parameters, and the weights with a posterior where a given prior is their decay."""
        yield from super().undecayed_parameters()
        if not self._tunes_prior:
            yield from (self.backbone.get_parameter(name) for block in self._blocks for name in block.names)

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        outputs, terms = super().objective(x, target, num_data=num_data, kl_weight=kl_weight)
        if self._tunes_prior:
            return outputs, terms
        if num_data is None:
            raise ValueError("num_data is unknown: the training data have no length, so give num_data=...")
        energy = 0.5 * self.prior_precision * flat_weights(self.backbone, self._blocks).square().sum()
        return outputs, ObjectiveTerms(terms.loss + energy / num_data, terms.nll, energy)

    def output_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self._moments(linearize(self.backbone, self._blocks, x))

    def _moments(self, linearisation: Linearization) -> tuple[Tensor, Tensor]:
        variances = self.curvature.variances(linearisation, self.prior_precision)
        outputs = linearisation.outputs
        return outputs, variances.clamp_min(0).sqrt().view_as(outputs)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        return self._samples(linearize(self.backbone, self._blocks, x), num_samples, seed)

    def _samples(self, linearisation: Linearization, num_samples: int, seed: int) -> Iterator[Tensor]:
        outputs, num_weights = linearisation.outputs, self.curvature.num_weights
        chunk = max(1, MAX_NUMBERS_PER_CHUNK // max(outputs.numel(), num_weights))
        known = self._known_draws(num_samples, seed)
        for first in range(0, num_samples, chunk):
            stop = min(first + chunk, num_samples)
            deltas = self._draw(first, stop, seed) if known is None else known[first:stop]
            yield outputs + linearisation.jvp(deltas.to(outputs))

    def _draw(self, first: int, stop: int, seed: int) -> Tensor:
        """Changes of the weights of some samples, shape [stop - first, P]."""
        noise = sample_noise(seed, first, stop, self.curvature.num_weights).to(self.prior_precision)
        return self.curvature.draw(noise, self.prior_precision)

    def _known_draws(self, num_samples: int, seed: int) -> Tensor | None:
        """Those of all samples where there are not too many numbers to keep."""
        made_of = [*self.curvature.buffers(), self.prior_precision]
        size = num_samples * self.curvature.num_weights + sum(tensor.numel() for tensor in made_of)
        if size > MAX_KEPT_NUMBERS:
            return None
        return self._cache.get((seed, num_samples), made_of, lambda: self._draw(0, num_samples, seed))

    def _predict(self, x: NetworkInput, num_samples: int, seed: int, return_samples: bool) -> Prediction:
        self.require_fitted()
        if not self._is_probit or return_samples:
            return super()._predict(x, num_samples, seed, return_samples)
        linearisation = self._linearise_logits(x)
        probs = self._probit(linearisation)
        moments, spreads = RunningMoments(), RunningMoments()
        for outputs in self._samples(linearisation, num_samples, seed):
            sampled, spread = self.likelihood.predictive_moments(outputs)
            moments.update(sampled)
            spreads.update(spread)
        aleatoric_share = (spreads.mean / entropy(moments.mean, dim=1).clamp_min(TINY)).clamp(0, 1)
        moments.mean = probs
        expected_entropy = entropy(probs, dim=1) * aleatoric_share
        return self.likelihood.prediction(moments, expected_entropy, metadata=self._metadata(num_samples, seed))

    def _metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:
        if not self._is_probit or not self.is_fitted:
            return super()._metric_inputs(x, target)
        linearisation = self._linearise_logits(x)
        self.likelihood.check(linearisation.outputs.unsqueeze(0), target)
        probs = self._probit(linearisation)
        chosen = probs.gather(1, target.long().unsqueeze(1)).squeeze(1)
        log_prob = chosen.clamp_min(torch.finfo(probs.dtype).tiny).log().reshape(len(chosen), -1).sum(-1)
        return {"preds": probs, "log_prob": log_prob.unsqueeze(0), "target": target.long()}

    @property
    def _is_probit(self) -> bool:
        return self.likelihood.task == "classification" and self.predictive == "probit"

    def _linearise_logits(self, x: NetworkInput) -> Linearization:
        """Without what all logits share where it does not matter."""
        return linearize(self.backbone, self._blocks, x, centered_dim=self.likelihood.shift_dim)

    def _probit(self, linearisation: Linearization) -> Tensor:
        r"""Probabilities [B, C, ...] of logits divided by :math:`\sqrt{1 + \pi v / 8}` (MacKay, 1992).

        A softmax does not depend on what all logits share, so their mean is taken away first, and v is
        :math:`C / (C - 1)` times the variance of what is left: the variance itself for independent logits of equal
        variance.
        """
        logits, std = self._moments(linearisation)
        num_logits = self.likelihood.num_outputs
        scale = num_logits / (num_logits - 1) if num_logits > 1 else 1.0
        return self.likelihood.point_prediction((logits / (1 + math.pi / 8 * scale * std.square()).sqrt()).unsqueeze(0))


def _precision_of(prior_std: PriorStd) -> float | None:
    if prior_std == "marginal_likelihood":
        return None
    if isinstance(prior_std, str) or not (prior_std > 0 and math.isfinite(prior_std)):
        raise ValueError(f"prior_std must be a positive, finite number or 'marginal_likelihood', got {prior_std!r}")
    return float(prior_std) ** -2
