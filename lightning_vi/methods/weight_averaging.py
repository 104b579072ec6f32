"""What methods share that average the weights which training passes through."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.func import functional_call
from torch.optim import Optimizer

from lightning_vi.likelihoods import Likelihood, Prediction
from lightning_vi.methods.arguments import check_at_least
from lightning_vi.methods.averaging_schedule import AveragingRate, AveragingSchedule
from lightning_vi.methods.batch_norm import KeptRows, estimate_statistics, first_rows, running_statistics
from lightning_vi.methods.fitted import FittedMethod
from lightning_vi.methods.optimizers import LRSchedulerFactory, OptimizerFactory
from lightning_vi.methods.point import PointMethod
from lightning_vi.sampling import NetworkInput, call, map_tensors
from lightning_vi.sampling.network import call_with

Result = TypeVar("Result")


class FlatParameters:
    """The trainable parameters of a module as one vector, tied ones once.

    Args:
        module: Any module; what is trainable now, counts.

    Attributes:
        num_weights: The vector's length P.

    Example:
        >>> flat = FlatParameters(nn.Linear(2, 1))
        >>> {name: value.shape for name, value in flat.split(torch.zeros(5, 3)).items()}
        {'weight': torch.Size([5, 1, 2]), 'bias': torch.Size([5, 1])}
    """

    def __init__(self, module: nn.Module) -> None:
        self._shapes = {name: value.shape for name, value in module.named_parameters() if value.requires_grad}
        self.num_weights = sum(shape.numel() for shape in self._shapes.values())

    def join(self, module: nn.Module) -> Tensor:
        """The present values.

        Args:
            module: The module, or a copy of it.

        Returns:
            Shape [P].
        """
        values = [module.get_parameter(name).detach().flatten() for name in self._shapes]
        return torch.cat(values) if values else torch.empty(0)

    def split(self, vectors: Tensor) -> dict[str, Tensor]:
        """Vectors cut into parameters.

        Args:
            vectors: Shape [..., P].

        Returns:
            Views by name, each of its parameter's shape behind ``...``.
        """
        parts = torch.split(vectors, [shape.numel() for shape in self._shapes.values()], -1) if self._shapes else ()
        return {
            name: part.view(*vectors.shape[:-1], *shape)
            for part, (name, shape) in zip(parts, self._shapes.items(), strict=True)
        }


class WeightAveragingMethod(FittedMethod, PointMethod):
    """A network whose weights are averaged over the last part of training.

    From `start_epoch` on, a snapshot of the weights is taken at the end of each cycle of `snapshot_every` epochs,
    before the epoch's validation. Learned parameters of the likelihood are averaged too. Until the fit is over, the
    network is the trained one; then `forward` and predictions use the mean of the snapshots, and the trained weights
    stay where they are, so that a fit can go on. A new fit starts from no snapshots; one that is resumed within the
    phase of averaging keeps those that it has.

    The mean's statistics of batch normalisation are estimated at the end, on the first training inputs. These are kept
    and become part of checkpoints.

    Args:
        backbone: Any network; it is copied. What is trainable now, is averaged.
        likelihood: The observation model; it is copied.
        start_epoch: The first epoch of averaging, counted from 0, or which fraction of all epochs comes before it. It
            is never earlier than the end of the burn-in.
        snapshot_every: Epochs from one snapshot to the next.
        averaging_lr: Learning rate from `start_epoch` on; a pair for a rate that falls from the first number to the
            second within each cycle; None for that of optimizer and scheduler. Parameters with a rate of their own
            keep its ratio.
        batch_norm_rows: Training inputs that are kept where the network has batch normalisation with running
            statistics.
        num_mc_samples_test: Samples for validation, test and prediction.
        burnin_epochs: Epochs on the likelihood's point loss.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

    Raises:
        ValueError: If a number is out of range, or the network has no trainable parameters.

    Attributes:
        num_snapshots: How many snapshots there are, a scalar tensor.
        weight_mean: The mean of the snapshots, shape [P]: the network's trainable parameters in order, tied ones once.
        likelihood_mean: The same of the likelihood's trainable parameters, shape [L].
    """

    num_snapshots: Tensor
    weight_mean: Tensor
    likelihood_mean: Tensor
    norm_statistics: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        start_epoch: int | float,
        snapshot_every: int,
        averaging_lr: AveragingRate,
        batch_norm_rows: int,
        num_mc_samples_test: int = 1,
        burnin_epochs: int,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        schedule = AveragingSchedule(start_epoch, snapshot_every, averaging_lr)
        check_at_least("batch_norm_rows", batch_norm_rows, 2)
        super().__init__(
            backbone,
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self.schedule = schedule
        self.batch_norm_rows = batch_norm_rows
        self.kept_rows = KeptRows()
        self._weights = FlatParameters(self.backbone)
        if self._weights.num_weights == 0:
            raise ValueError("backbone must have trainable parameters to average, got none")
        self._likelihood_parameters = FlatParameters(self.likelihood)
        self._first_averaged_epoch = 0
        self._rate_factors: list[float] = []
        self._statistics: list[str] = []
        self.register_buffer("num_snapshots", torch.tensor(0))
        self._register_statistic("weight_mean", self._weights.num_weights)
        self._register_statistic("likelihood_mean", self._likelihood_parameters.num_weights)
        num_statistics = sum(value.numel() for value in running_statistics(self.backbone).values())
        self._register_statistic("norm_statistics", num_statistics)

    def _register_statistic(self, name: str, *shape: int) -> None:
        """A buffer of zeros that a new fit sets to zero again."""
        self.register_buffer(name, next(self.backbone.parameters()).detach().new_zeros(shape))
        self._statistics.append(name)

    def collect(self) -> None:
        """Takes a snapshot of the present weights, for a training loop of your own.

        Afterwards the method can predict; with batch normalisation `fit_posterior` has to be called first.
        """
        self._take_snapshot()
        self.is_fitted.fill_(self.norm_statistics.numel() == 0)

    @torch.no_grad()
    def _take_snapshot(self) -> None:
        self.num_snapshots += 1
        weights = self._weights.join(self.backbone)
        previous_mean = self.weight_mean.clone()
        self.weight_mean.lerp_(weights, 1 / int(self.num_snapshots))
        noise = self._likelihood_parameters.join(self.likelihood).to(self.likelihood_mean)
        self.likelihood_mean.lerp_(noise, 1 / int(self.num_snapshots))
        self.update_spread(weights, previous_mean)

    def update_spread(self, weights: Tensor, previous_mean: Tensor) -> None:
        """Takes note of a snapshot beyond its part in the mean; nothing by default.

        Args:
            weights: The snapshot, shape [P]; `num_snapshots` and `weight_mean` have it already.
            previous_mean: The mean of the snapshots before, shape [P].
        """

    @torch.no_grad()
    def fit_posterior(self, data: Iterable[Any]) -> None:
        """Estimates the mean network's statistics of batch normalisation, where it has any.

        Without a snapshot the present weights become the only one, with a warning.

        Args:
            data: The training data in batches; not looked at where there is no batch normalisation.

        Raises:
            ValueError: If there are no data.
        """
        is_empty = int(self.num_snapshots) == 0
        rows, statistics = None, self.norm_statistics
        if statistics.numel():
            rows = self._same_on_all_ranks(first_rows(data, self.batch_norm_rows))
            mean = self._weights.join(self.backbone) if is_empty else self.weight_mean
            estimates = estimate_statistics(self.backbone, self._weights.split(mean.unsqueeze(0)), rows)
            statistics = torch.cat([value[0] for value in estimates.values()])
        if is_empty:
            rank_zero_warn(
                f"{type(self).__name__} has no snapshot of the weights, because training ended before the first one "
                f"(start_epoch={self.schedule.start_epoch}, snapshot_every={self.schedule.snapshot_every}); it takes "
                "the present weights as the only one"
            )
            self._take_snapshot()
        self.kept_rows.rows = rows
        self.norm_statistics.copy_(statistics)
        self.is_fitted.fill_(True)

    def _same_on_all_ranks(self, rows: NetworkInput) -> NetworkInput:
        if self._trainer is not None and self.trainer.world_size > 1:
            rows = self.trainer.strategy.broadcast(map_tensors(lambda tensor: tensor.cpu(), rows))
        return map_tensors(lambda tensor: tensor.to(self.device), rows)

    def mean_network(self) -> dict[str, Tensor]:
        """Parameters and statistics of batch normalisation of the averaged network.

        Returns:
            By their names in the backbone; the statistics are copies, which a pass in training mode may change.
        """
        own = running_statistics(self.backbone)
        statistics = torch.split(self.norm_statistics.clone(), [value.numel() for value in own.values()]) if own else ()
        return self._weights.split(self.weight_mean) | dict(zip(own, statistics, strict=True))

    def trained_network(self) -> nn.Module:
        """A copy of the network with the averaged weights, and their statistics of batch normalisation.

        Returns:
            The network; that of the present weights where the method is not fitted.
        """
        network = copy.deepcopy(self.backbone)
        if self.is_fitted:
            network.load_state_dict(self.mean_network(), strict=False)
        return network

    def point_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return call_with(self.backbone, self.mean_network(), x) if self.is_fitted else call(self.backbone, x)

    def training_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return call(self.backbone, x)

    def _predict(self, x: NetworkInput, num_samples: int, seed: int, return_samples: bool) -> Prediction:
        self.require_fitted()
        predict = super()._predict
        return self._with_averaged_likelihood(lambda: predict(x, num_samples, seed, return_samples))

    def _metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:
        metric_inputs = super()._metric_inputs
        if not self.is_fitted:
            return metric_inputs(x, target)
        return self._with_averaged_likelihood(lambda: metric_inputs(x, target))

    def _with_averaged_likelihood(self, function: Callable[[], Result]) -> Result:
        averaged = self._likelihood_parameters.split(self.likelihood_mean)
        named = {f"module.{name}": value for name, value in averaged.items()}
        result: Result = functional_call(_Around(self.likelihood), named, (function,))
        return result

    def on_train_start(self) -> None:
        """Plans the phase of averaging, and forgets the snapshots of an earlier fit."""
        super().on_train_start()
        trainer = self.trainer
        if self.schedule.is_cyclical and math.isinf(trainer.num_training_batches):
            raise ValueError(
                f"averaging_lr={self.schedule.averaging_lr} needs training data of known length to divide the cycle "
                "into steps; give one number instead"
            )
        self._first_averaged_epoch = max(self.schedule.first_epoch(self._planned_epochs()), self.burnin_epochs)
        if trainer.global_step == 0 or trainer.current_epoch < self._first_averaged_epoch:
            self.kept_rows.rows = None
            for name in ("num_snapshots", *self._statistics):
                self.get_buffer(name).zero_()

    def _planned_epochs(self) -> float:
        trainer, num_batches = self.trainer, self.trainer.num_training_batches
        epochs = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs or 0)
        if trainer.max_steps == -1 or math.isinf(num_batches):
            return epochs
        steps_per_epoch = math.ceil(num_batches / trainer.accumulate_grad_batches)
        return min(epochs, math.ceil(trainer.max_steps / max(steps_per_epoch, 1)))

    @property
    def _age(self) -> int:
        """The current epoch's number in the phase of averaging."""
        return self.current_epoch - self._first_averaged_epoch

    def make_optimizer(self) -> Optimizer:  # noqa: D102
        optimizer = super().make_optimizer()
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        self._rate_factors = [rate / rates[0] if rates[0] else 1.0 for rate in rates]
        return optimizer

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Sets the learning rate of the phase of averaging."""
        rate = self.schedule.learning_rate(self._age, batch_idx, self.trainer.num_training_batches)
        if rate is None:
            return
        for optimizer in self.trainer.optimizers:
            for group, factor in zip(optimizer.param_groups, self._rate_factors, strict=True):
                _set_rate(group, rate * factor)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Takes a snapshot after the last step of a cycle, so that the epoch's validation comes after it."""
        if self.trainer.is_last_batch and self.schedule.ends_cycle(self._age):
            self._take_snapshot()
        super().on_train_batch_end(outputs, batch, batch_idx)


def _set_rate(group: dict[str, Any], rate: float) -> None:
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


class _Around(nn.Module):
    """Calls a function; `functional_call` exchanges the module's parameters meanwhile."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, function: Callable[[], Result]) -> Result:
        return function()
