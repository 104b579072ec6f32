r"""Deep ensembles.

Lakshminarayanan, Pritzel and Blundell, "Simple and scalable predictive uncertainty estimation using deep ensembles",
NeurIPS 2017.

.. math:: p(y \mid x) = \frac1M \sum_m p(y \mid f_{w_m}(x)), \qquad
    w_m = \arg\min_w -\frac1N \sum_n \ln p(y_n \mid f_w(x_n))

=================================  ===============================================================
symbol                             argument
=================================  ===============================================================
:math:`M`                          `num_members`
:math:`w_m`                        one network each, with its own initial values and order of data
:math:`f`                          `backbone`
first epochs on squared error      `burnin_epochs`
=================================  ===============================================================
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import repeat
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import default_collate

from lightning_vi.arguments import check_at_least
from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, Predictive, Predictor, UQMethod, default_optimizer
from lightning_vi.core.batch import to_device
from lightning_vi.core.data_order import DataOrders, can_reorder
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.divergence import watched_step
from lightning_vi.core.members import (
    call_member,
    call_members,
    clip_members,
    make_networks,
    stack_likelihood,
    unstack_likelihood,
)
from lightning_vi.core.strategies import involving_all_parameters
from lightning_vi.errors import InputValueError
from lightning_vi.functional import RunningMoments, disagreement
from lightning_vi.likelihoods import Likelihood, Prediction, join_members
from lightning_vi.methods.deterministic.base import PointMethod
from lightning_vi.methods.ensembles.ensemble import Ensemble
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


class DeepEnsemble(UQMethod):
    """Deep ensemble of M networks (Lakshminarayanan et al., 2017), trained together by maximum likelihood.

    The first member starts at the weights of the backbone, the others at new weights from `reset_parameters` of each
    module. If the dataloader shuffles, each member sees the training data in a different order; without shuffling, or
    with a custom sampler, all members see the same batches. Members are trained independently: the loss is the sum of
    their losses, and gradients are clipped for each member separately. The weights of all members are stacked in one
    tensor for each parameter, so the optimizer must be elementwise, such as SGD and Adam.

    The members are the samples of predictions. A `num_samples` larger than M has no effect.

    Args:
        backbone: Any network; it is copied. Or a function that returns a network, which is called for each member, for
            modules without `reset_parameters`.
        likelihood: The observation model; it is copied for each member.
        num_members: Number of members M.
        own_data_order: Whether each member sees the training data in a different order.
        vectorization: How members are run: ``"auto"``, ``"vmap"`` or ``"loop"``, see `StackedRunner`.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        TypeError: If `backbone` is neither a network nor a function that returns one.
        ValueError: If a count is out of range, or a module with parameters has no `reset_parameters`.

    Example:
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = DeepEnsemble(MLP(2, [16], 2), HeteroscedasticGaussian(), num_members=3)
        >>> method.predict(torch.zeros(4, 2), return_samples=True).samples.shape
        torch.Size([3, 4, 1])
    """

    def __init__(
        self,
        backbone: nn.Module | Callable[[], nn.Module],
        likelihood: Likelihood,
        *,
        num_members: int = 5,
        own_data_order: bool = True,
        vectorization: StackedVectorization = "auto",
        burnin_epochs: int = 0,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        check_at_least("num_members", num_members, 1)
        super().__init__(
            stack_networks(make_networks(backbone, num_members)),
            likelihood,
            num_mc_samples_test=num_members,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self._runner = StackedRunner(self.backbone, vectorization)
        self.likelihood = stack_likelihood(self.likelihood, num_members)
        self.num_members = num_members
        self.own_data_order = own_data_order
        self._orders: DataOrders | None = None
        self._other_batches: Iterator[tuple[Any, ...]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_orders": None, "_other_batches": None}

    @staticmethod
    def from_methods(methods: Sequence[Predictor]) -> Ensemble:
        """Makes an ensemble of fitted methods of any class.

        Args:
            methods: See `Ensemble`.

        Returns:
            The ensemble.
        """
        return Ensemble(methods)

    @staticmethod
    def from_checkpoints(method: type[Predictor], paths: Sequence[str | Path], **arguments: Any) -> Ensemble:
        """Loads an ensemble of methods from checkpoints.

        Args:
            method: Class of the methods.
            paths: Paths of the checkpoints.
            **arguments: Further constructor arguments, such as `backbone` and `likelihood`.

        Returns:
            The ensemble, see `Ensemble.from_checkpoints`.
        """
        return Ensemble.from_checkpoints(method, paths, **arguments)

    def member(self, index: int) -> PointMethod:
        """Returns a copy of one member as a deterministic method.

        Args:
            index: Index of the member, from 0 to M - 1.

        Returns:
            A method with the member's weights and likelihood.

        Raises:
            IndexError: If `index` is out of range.
        """
        if not 0 <= index < self.num_members:
            raise IndexError(f"index must lie between 0 and {self.num_members - 1}, got {index}")
        member = PointMethod(
            unstack_network(self.backbone, index),
            unstack_likelihood(self.likelihood, index),
            burnin_epochs=self.burnin_epochs,
            optimizer=self._optimizer_factory,
            lr_scheduler=self._lr_scheduler_factory,
        )
        member._train_size = self._train_size
        return member

    def trained_networks(self) -> list[nn.Module]:  # noqa: D102
        return [unstack_network(self.backbone, index) for index in range(self.num_members)]

    def diversity(self, x: NetworkInput) -> Tensor:
        """Computes the distance between the members' predictions, see `disagreement`.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            A scalar tensor.
        """
        samples = self.predict(x, return_samples=True).samples
        return disagreement(torch.as_tensor(samples), self.likelihood.task)

    def point_outputs(self, x: NetworkInput) -> Tensor:
        """Computes the mean of the members' outputs.

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
        """Computes the outputs [M, B, ...] of all members, for the same inputs or for one input per member."""
        return self._runner(stacked_tensors(self.backbone), x, own_inputs=own_inputs)

    def objective(  # noqa: D102
        self,
        x: NetworkInput,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        num_data: int | None,  # noqa: ARG002
        kl_weight: float,  # noqa: ARG002
    ) -> tuple[Tensor, ObjectiveTerms]:
        outputs = self._outputs(x)
        self.likelihood.check(outputs, target)
        shared = [part.expand(self.num_members, *part.shape) for part in (target, weight) if part is not None]
        return outputs, self._terms(outputs, *shared)

    def _terms(self, outputs: Tensor, targets: Tensor, *weights: Tensor) -> ObjectiveTerms:
        """Returns the sum of the members' losses and the mean of their NLLs, for targets [M, B, ...]."""
        log_prob = call_members(self.likelihood, "observed_log_prob", outputs, targets, *weights)
        loss = -log_prob.sum() / targets.shape[1]
        return ObjectiveTerms(loss, loss.detach() / self.num_members, loss.new_zeros(()))

    def on_train_start(self) -> None:
        """Releases the batches of an interrupted fit."""
        super().on_train_start()
        self._other_batches = None

    def on_train_epoch_start(self) -> None:
        """Releases the batches of the previous epoch."""
        super().on_train_epoch_start()
        self._other_batches = None

    def _start_orders(self, first_batch: int) -> Iterator[tuple[Any, ...]]:
        """Shuffles the data for all members except the first; a fit may be resumed within an epoch."""
        loader = self.trainer.train_dataloader
        if not (self.own_data_order and self.num_members > 1 and can_reorder(loader)):
            self._orders = None
            return repeat(())
        if self._orders is None or self._orders.dataloader is not loader:
            self._orders = DataOrders(loader, self.num_members - 1, self.noise.seed)
        return self._orders.epoch(self.current_epoch, first_batch)

    def on_train_end(self) -> None:
        """Releases the dataloaders."""
        super().on_train_end()
        self._orders = self._other_batches = None

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Computes the loss of all members."""
        if self._other_batches is None:
            self._other_batches = self._start_orders(batch_idx)
        batches = [batch, *(to_device(self, other) for other in next(self._other_batches))]
        x, targets, weight = self._stacked_rows(batches)
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
                loss = involving_all_parameters(mean_loss * self.num_members, self)
                logged = {"train_loss": mean_loss}
            else:
                terms = self._terms(outputs, targets, *weights)
                loss, logged = terms.loss, {"train_loss": terms.nll, "train_nll": terms.nll}
            self._check_layout(map_tensors(itemgetter(0), x), outputs)
        self._end_step(outputs.detach(), flat, logged, check_batch, batch_idx)
        return loss

    def _stacked_rows(self, batches: Sequence[Any]) -> tuple[NetworkInput, Tensor, Tensor | None]:
        """Stacks inputs and targets of all members, [M, B, ...], and joins weights, [M B]; one batch serves all."""
        rows = [self._labeled(batch) for batch in batches]
        weights = [weight for _, _, weight in rows if weight is not None]
        if len(rows) == 1:
            x, target, _ = rows[0]
            inputs = map_tensors(lambda tensor: tensor.expand(self.num_members, *tensor.shape), x)
            joined = torch.cat(weights * self.num_members) if weights else None
            return inputs, target.expand(self.num_members, *target.shape), joined
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
        """Clips the gradients of each member separately."""
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
