r"""Stochastic weight averaging.

Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging weights leads to wider optima and better generalization",
UAI 2018.

.. math:: \bar w = \frac1T \sum_{i=1}^T w_i

=================================== =====================================
symbol                              argument
=================================== =====================================
:math:`w_i`                         the weights at the ends of cycles
first cycle                         `start_epoch`
length c of a cycle                 `snapshot_every`, in epochs
:math:`\alpha_1, \alpha_2`          `averaging_lr`
statistics of batch normalization   on `batch_norm_rows` training inputs
=================================== =====================================
"""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_vi.arguments import check_at_least
from lightning_vi.core import FittedMethod, LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.core.batch import split_batch
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.fit_progress import planned_epochs
from lightning_vi.core.intake import network_input
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.deterministic.base import PointMethod
from lightning_vi.noise import private_random_state
from lightning_vi.optim.averaging_schedule import AveragingRate, AveragingSchedule
from lightning_vi.sampling import (
    FlatParameters,
    KeptRows,
    NetworkInput,
    call,
    call_with,
    estimate_statistics,
    first_rows,
    map_tensors,
    running_statistics,
)
from lightning_vi.tracing import known


class SWA(FittedMethod, PointMethod):
    """Stochastic weight averaging (Izmailov et al., 2018), without epistemic uncertainty.

    From `start_epoch` on, a snapshot of the weights is taken at the end of each cycle of `snapshot_every` epochs,
    before the epoch's checkpoints and validation. Learned parameters of the likelihood are averaged too. From the first
    snapshot on, `forward`, validation and predictions use the mean of the snapshots; before, `forward` and validation
    use the trained weights. The trained weights are kept, so that training can be continued. A new fit discards earlier
    snapshots; a fit that is resumed within the averaging phase continues with those of the checkpoint.

    The batch normalization statistics of the averaged network are estimated after each snapshot on the first training
    inputs, which are stored in checkpoints.

    Args:
        backbone: Any network; it is copied. Its trainable parameters are averaged.
        likelihood: The observation model; it is copied.
        start_epoch: First epoch of the averaging phase, counted from 0, or the fraction of all epochs before it. The
            phase never starts before the end of the burn-in.
        snapshot_every: Number of epochs between snapshots.
        averaging_lr: Learning rate from `start_epoch` on. A pair gives a rate that decreases from the first to the
            second number within each cycle; None keeps the rate of optimizer and scheduler. Ratios between parameter
            groups are unchanged.
        batch_norm_rows: Number of training inputs on which running statistics of batch normalization are estimated.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        ValueError: If a number is out of range, or the network has no trainable parameters.

    Attributes:
        num_snapshots: Number of snapshots, a scalar tensor.
        weight_mean: Mean of the snapshots, shape [P]: the network's trainable parameters in order, tied ones once.
        averaged_likelihood: Likelihood with averaged parameters.

    Example:
        >>> import torch
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = SWA(nn.Linear(1, 1, bias=False), Gaussian(0.5))
        >>> for weight in (1.0, 2.0, 6.0):
        ...     _ = nn.init.constant_(method.backbone.weight, weight)
        ...     method.collect()
        >>> method.predict(torch.ones(1, 1)).mean
        tensor([[3.]])
    """

    num_snapshots: Tensor
    weight_mean: Tensor
    norm_statistics: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        start_epoch: int | float = 0.5,
        snapshot_every: int = 1,
        averaging_lr: AveragingRate = None,
        batch_norm_rows: int = 1024,
        burnin_epochs: int = 0,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        schedule = AveragingSchedule(start_epoch, snapshot_every, averaging_lr)
        check_at_least("batch_norm_rows", batch_norm_rows, 2)
        super().__init__(
            backbone,
            likelihood,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self.schedule = schedule
        self.batch_norm_rows = batch_norm_rows
        self.kept_rows = KeptRows()
        self._weights = FlatParameters(self.backbone)
        if self._weights.num_weights == 0:
            raise InputValueError("backbone must have trainable parameters to average, got none")
        self.averaged_likelihood = copy.deepcopy(self.likelihood).requires_grad_(False)
        self._first_averaged_epoch = 0
        self._statistics: list[str] = []
        self.register_buffer("num_snapshots", torch.tensor(0))
        self._register_statistic("weight_mean", self._weights.num_weights)
        num_statistics = sum(value.numel() for value in running_statistics(self.backbone).values())
        self._register_statistic("norm_statistics", num_statistics)

    def _register_statistic(self, name: str, *shape: int) -> None:
        """Registers a buffer of zeros that a new fit resets."""
        like = self._weights.join(self.backbone)
        self.register_buffer(name, like.new_zeros(shape, dtype=torch.promote_types(like.dtype, torch.float32)))
        self._statistics.append(name)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Casts and moves the module, but keeps averages at least in single precision."""
        exact = [average.detach() for average in self._averages()]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for new, old in zip(self._averages(), exact, strict=True):
            if new.dtype in (torch.float16, torch.bfloat16):
                new.data = old.to(new.device, torch.promote_types(old.dtype, torch.float32))
        return self

    def _averages(self) -> list[Tensor]:
        """Tensors that are means over snapshots."""
        return [*map(self.get_buffer, self._statistics), *self.averaged_likelihood.parameters()]

    def collect(self) -> None:
        """Takes a snapshot of the current weights, for custom training loops.

        Afterwards the method can predict. With batch normalization, `fit_posterior` must be called first.
        """
        self._take_snapshot()
        self.is_fitted.fill_(self.norm_statistics.numel() == 0)

    @torch.no_grad()
    def _take_snapshot(self) -> None:
        self.num_snapshots += 1
        share = 1 / int(self.num_snapshots)
        weights = self._weights.join(self.backbone).to(self.weight_mean)
        previous_mean = self.weight_mean.clone()
        self.weight_mean.lerp_(weights, share)
        self.update_spread(weights, previous_mean)
        for mean, value in zip(self.averaged_likelihood.parameters(), self.likelihood.parameters(), strict=True):
            mean.lerp_(value.to(mean), share)
        for copied, buffer in zip(self.averaged_likelihood.buffers(), self.likelihood.buffers(), strict=True):
            copied.copy_(buffer)

    def update_spread(self, weights: Tensor, previous_mean: Tensor) -> None:
        """Updates second-moment statistics with a new snapshot; SWA has none.

        Args:
            weights: The snapshot, shape [P]. `num_snapshots` and `weight_mean` already include it.
            previous_mean: Mean of the earlier snapshots, shape [P].
        """

    @torch.no_grad()
    def fit_posterior(self, data: Iterable[Any]) -> None:
        """Estimates the batch normalization statistics of the averaged network, if it has any.

        If there are no snapshots, takes one of the current weights and issues a warning.

        Args:
            data: The training data in batches; unused without batch normalization.

        Raises:
            ValueError: If there are no data.
        """
        self._finish_network(self._first_rows(data) if self.norm_statistics.numel() else None)

    def _first_rows(self, data: Iterable[Any]) -> NetworkInput:
        inputs = (split_batch(batch)[0] for batch in data)
        rows = self._same_on_all_ranks(first_rows(inputs, self.batch_norm_rows))
        return network_input(rows, self)

    @torch.no_grad()
    def _finish_network(self, rows: NetworkInput | None) -> None:
        """Estimates the batch normalization statistics on some rows, and marks the method as fitted."""
        is_empty, statistics = int(self.num_snapshots) == 0, self.norm_statistics
        if rows is not None:
            mean = self._rounded(self._weights.join(self.backbone) if is_empty else self.weight_mean)
            with explained(self, rows):
                estimates = estimate_statistics(
                    self.backbone, self._weights.split(self._rounded(mean.unsqueeze(0))), rows
                )
            statistics = torch.cat([value[0] for value in estimates.values()])
        if is_empty:
            rank_zero_warn(
                f"{type(self).__name__} has no snapshot of the weights, because training ended before the first one "
                f"(start_epoch={self.schedule.start_epoch}, snapshot_every={self.schedule.snapshot_every}); it uses "
                "the current weights as the only one"
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
        """Returns the parameters and batch normalization statistics of the averaged network.

        Returns:
            Tensors by their names in the backbone. The statistics are copies, so that passes in training mode do not
            change them.
        """
        sizes = {name: value.numel() for name, value in running_statistics(self.backbone).items()}
        statistics = torch.split(self._rounded(self.norm_statistics.clone()), list(sizes.values())) if sizes else ()
        return self._weights.split(self._rounded(self.weight_mean)) | dict(zip(sizes, statistics, strict=True))

    def _rounded(self, weights: Tensor) -> Tensor:
        """The same weights in the network's type."""
        return weights.to(next(self.backbone.parameters()).dtype.to_real())

    def trained_networks(self) -> list[nn.Module]:
        """Returns a copy of the network with the averaged weights and their batch normalization statistics.

        Returns:
            One network; with the current weights if the method is not fitted.
        """
        network = copy.deepcopy(self.backbone)
        if self.is_fitted:
            network.load_state_dict(self.mean_network(), strict=False)
        return [network]

    @property
    def needs_whole_fit(self) -> bool:
        """True: the snapshots are taken at the end."""
        return True

    @property
    def predictive_likelihood(self) -> Likelihood:
        """Likelihood with averaged parameters."""
        return self.averaged_likelihood

    def point_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        if known(self, "is_fitted"):
            return call_with(self.backbone, self.mean_network(), x)
        return call(self.backbone, x)

    def training_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return call(self.backbone, x)

    def on_train_start(self) -> None:
        """Determines the averaging phase and discards the snapshots of an earlier fit."""
        was_fitted = bool(self.is_fitted)
        super().on_train_start()
        trainer = self.trainer
        if self.schedule.is_cyclical and math.isinf(trainer.num_training_batches):
            raise InputValueError(
                f"averaging_lr={self.schedule.averaging_lr} needs training data of known length to divide the cycle "
                "into steps; give one number instead"
            )
        self._first_averaged_epoch = max(self.schedule.first_epoch(planned_epochs(trainer)), self.num_burnin_epochs)
        if trainer.global_step == 0 or trainer.current_epoch < self._first_averaged_epoch:
            self.kept_rows.rows = None
            for name in ("num_snapshots", *self._statistics):
                self.get_buffer(name).zero_()
        self.is_fitted.fill_(was_fitted and int(self.num_snapshots) > 0)

    @property
    def _averaging_epoch(self) -> int:
        """Index of the current epoch, counted from the start of the averaging phase."""
        return self.current_epoch - self._first_averaged_epoch

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Sets the learning rate of the averaging phase."""
        super().on_train_batch_start(batch, batch_idx)
        rate = self.schedule.learning_rate(self._averaging_epoch, batch_idx, self.trainer.num_training_batches)
        if rate is None:
            return
        for optimizer in self.own_optimizers():
            self._set_rates(optimizer, rate)

    def after_step(self) -> bool:
        """Takes a snapshot after the last step of a cycle, before the epoch's checkpoints and validation.

        Returns:
            Whether a snapshot was taken.
        """
        if not (self.trainer.is_last_batch and self.schedule.ends_cycle(self._averaging_epoch)):
            return False
        rows = self.kept_rows.rows
        if rows is None and self.norm_statistics.numel():
            with private_random_state(self.noise.seed, self.device):
                rows = self._first_rows(self._training_batches())
        self._take_snapshot()
        self._finish_network(rows)
        return True
