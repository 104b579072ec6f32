"""Base class of methods that train several networks together, with stacked weights."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import default_collate

from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, Predictive, UQMethod
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.divergence import watched_step
from lightning_vi.core.members import call_member, call_members, clip_members, make_networks, stack_likelihood
from lightning_vi.core.separate_orders import SeparateOrders
from lightning_vi.core.strategies import involving_all_parameters
from lightning_vi.errors import InputValueError
from lightning_vi.functional import RunningMoments
from lightning_vi.likelihoods import Likelihood, Prediction, join_members
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.sampling import (
    NetworkInput,
    StackedRunner,
    StackedVectorization,
    map_tensors,
    stack_networks,
    stacked_tensors,
    unstack_network,
)


class StackedMethod(SeparateOrders, UQMethod):
    """Base class of methods that train M networks of one architecture independently, in one fit.

    The weights of all networks are stacked in one tensor for each parameter, and so are the parameters of the
    likelihood. The loss is the sum of the networks' losses.

    Args:
        backbone: Any network, or a function that returns one, see `make_networks`.
        likelihood: The observation model; it is copied for each network.
        num_networks: M.
        num_mc_samples_test: Number of samples for validation, test and prediction.
        own_data_order: Whether each network sees the training data in a different order.
        vectorization: How networks are run, see `StackedRunner`.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss.
        num_data: Size of the training set; by default it is read from the training dataloader.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.
    """

    def __init__(
        self,
        backbone: nn.Module | Callable[[], nn.Module],
        likelihood: Likelihood,
        *,
        num_networks: int,
        num_mc_samples_test: int,
        own_data_order: bool,
        vectorization: StackedVectorization,
        burnin_epochs: int,
        num_data: int | None = None,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        super().__init__(
            stack_networks(make_networks(backbone, num_networks)),
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            num_data=num_data,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self._runner = StackedRunner(self.backbone, vectorization)
        self.likelihood = stack_likelihood(self.likelihood, num_networks)
        self.num_networks = num_networks
        self.own_data_order = own_data_order

    def trained_networks(self) -> list[nn.Module]:  # noqa: D102
        return [unstack_network(self.backbone, index) for index in range(self.num_networks)]

    def point_outputs(self, x: NetworkInput) -> Tensor:
        """Computes the mean of the networks' outputs.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        return self._outputs(x).mean(0)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: ARG002, D102
        yield self._outputs(x)[:num_samples]

    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:  # noqa: ARG002, D102
        return StackedPredictive(self.likelihood, self._outputs(x)[:num_samples])

    def _outputs(self, x: NetworkInput, *, own_inputs: bool = False) -> Tensor:
        """Computes the outputs [M, B, ...] of all networks, for the same inputs or for one input per network."""
        return self._runner(stacked_tensors(self.backbone), x, own_inputs=own_inputs)

    def objective(  # noqa: D102
        self,
        x: NetworkInput,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        num_data: int | None,
        kl_weight: float,  # noqa: ARG002
    ) -> tuple[Tensor, ObjectiveTerms]:
        outputs = self._outputs(x)
        self.likelihood.check(outputs, target)
        shared = [part.expand(self.num_networks, *part.shape) for part in (target, weight) if part is not None]
        return outputs, self._terms(outputs, *shared, num_data=num_data)

    def regularizer(self, num_data: int | None) -> Tensor | float:  # noqa: ARG002
        """Computes what the loss has besides the NLL; 0 by default.

        Args:
            num_data: N, None if unknown.

        Returns:
            Sum over the networks, a scalar.
        """
        return 0.0

    def _terms(self, outputs: Tensor, targets: Tensor, *weights: Tensor, num_data: int | None) -> ObjectiveTerms:
        """Returns the sum of the networks' losses and the mean of their NLLs, for targets [M, B, ...]."""
        log_prob = call_members(self.likelihood, "observed_log_prob", outputs, targets, *weights)
        nll = -log_prob.sum() / targets.shape[1]
        return ObjectiveTerms(nll + self.regularizer(num_data), nll.detach() / self.num_networks, nll.new_zeros(()))

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Computes the loss of all networks."""
        x, targets, weight = self._stacked_rows(self.member_batches(batch, batch_idx, self.num_networks))
        flat = targets.flatten(0, 1)
        self._begin_step(x, flat, weight)
        check_batch = partial(self._check_values, x, flat, weight)
        weight = self.likelihood.element_weights(flat, weight)
        weights = [] if weight is None else [weight.view(*targets.shape[:2], *weight.shape[1:])]
        with (
            watched_step(self, check_batch),
            explained(self, map_tensors(itemgetter(0), x)),
            self.noise.fresh(self.global_rank, self.device),
        ):
            outputs = self._outputs(x, own_inputs=True)
            self.likelihood.check(outputs.flatten(0, 1).unsqueeze(0), flat)
            if self.in_burnin:
                mean_loss = call_members(self.likelihood, "point_loss", outputs, targets, *weights).mean()
                loss = involving_all_parameters(mean_loss * self.num_networks, self)
                logged = {"train_loss": mean_loss}
            else:
                terms = self._terms(outputs, targets, *weights, num_data=self.num_data)
                loss = terms.loss
                logged = {"train_loss": loss.detach() / self.num_networks, "train_nll": terms.nll}
            self._check_layout(map_tensors(itemgetter(0), x), outputs)
        self._end_step(outputs.detach(), flat, logged, check_batch, batch_idx)
        return loss

    def _stacked_rows(self, batches: Sequence[Any]) -> tuple[NetworkInput, Tensor, Tensor | None]:
        """Stacks inputs and targets of all networks, [M, B, ...], and joins weights, [M B]; one batch serves all."""
        rows = [self._labeled(batch) for batch in batches]
        weights = [weight for _, _, weight in rows if weight is not None]
        if len(rows) == 1:
            x, target, _ = rows[0]
            inputs = map_tensors(lambda tensor: tensor.expand(self.num_networks, *tensor.shape), x)
            joined = torch.cat(weights * self.num_networks) if weights else None
            return inputs, target.expand(self.num_networks, *target.shape), joined
        try:
            stacked: NetworkInput = default_collate([x for x, _, _ in rows])
            joined = torch.cat(weights) if weights else None
            return stacked, torch.stack([target for _, target, _ in rows]), joined
        except RuntimeError as error:
            raise InputValueError(
                "the members' batches differ in shape and cannot be stacked: give own_data_order=False"
            ) from error

    def mean_prediction(self, outputs: Tensor) -> Tensor:  # noqa: D102
        prediction: Tensor = call_member(self.likelihood, 0, "point_prediction", outputs)
        return prediction

    def _point_prediction(self, outputs: Tensor) -> Tensor:
        means: Tensor = call_members(self.likelihood, "predictive_moments", outputs)[0]
        return means.flatten(0, 1)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients of each network separately."""
        if gradient_clip_val:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            clip_members(gradients, float(gradient_clip_val), by_value=gradient_clip_algorithm == "value")


class StackedPredictive(Predictive):
    """Predictive distribution of an ensemble with a stacked likelihood.

    Args:
        likelihood: See `lightning_vi.core.members.stack_likelihood`.
        outputs: Outputs of the first m members, shape [m, B, ...].
    """

    def __init__(self, likelihood: Likelihood, outputs: Tensor) -> None:
        self.likelihood = likelihood
        self.outputs = outputs

    def keep(self) -> None:
        """Does nothing, because the outputs are already computed."""

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        means, spreads = call_members(self.likelihood, "predictive_moments", self.outputs)
        moments = RunningMoments()
        moments.update(means)
        return self.likelihood.prediction(
            moments,
            spreads.mean(0),
            samples=means if return_samples else None,
            metadata={"num_samples": len(means)},
        )

    def log_probs(self) -> Tensor:  # noqa: D102
        log_probs: Tensor = call_members(self.likelihood, "log_probs", self.outputs)
        return log_probs.logsumexp(0) - math.log(len(log_probs))

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        self.likelihood.check(self.outputs, target)
        return join_members(
            [
                call_member(self.likelihood, index, "metric_inputs", outputs.unsqueeze(0), target)
                for index, outputs in enumerate(self.outputs)
            ]
        )
