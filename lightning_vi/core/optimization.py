"""Base class of predictors that are trained: optimizer, learning rates by parameter and schedule."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_vi.core.fit_progress import is_searching
from lightning_vi.core.optimizers import (
    LRSchedulerFactory,
    OptimizerFactory,
    build_optimizer,
    configure_scheduler,
    default_optimizer,
)
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.optim import JointOptimizer


class OptimizedPredictor(Predictor):
    """Base class of predictors whose parameters an optimizer trains.

    Args:
        likelihood: The observation model.
        num_mc_samples_test: Number of samples for validation, test and prediction.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler; None for a constant learning rate.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        *,
        num_mc_samples_test: int,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        super().__init__(likelihood, num_mc_samples_test=num_mc_samples_test)
        self._optimizer_factory = optimizer
        self._lr_scheduler_factory = lr_scheduler
        self._learning_rate: float | None = None
        self._rate_factors: list[float] = []

    def undecayed_parameters(self) -> Iterable[nn.Parameter]:
        """Returns the parameters that take no weight decay; the likelihood's by default."""
        return self.likelihood.parameters()

    def learning_rate_factors(self) -> Mapping[nn.Parameter, float]:
        """Returns factors of the learning rate by parameter.

        The likelihood's parameters, such as the std of the noise, are few and start far from their optimum: 10 by
        default.
        """
        return dict.fromkeys(self.likelihood.parameters(), 10.0)

    @property
    def has_default_optimizer(self) -> bool:
        """True if the optimizer is `default_optimizer`, whose learning rates a method may choose."""
        return self._optimizer_factory is default_optimizer

    @property
    def num_steps(self) -> float:
        """Number of optimizer steps of the Trainer's fit; infinite if it is unknown or there is no Trainer."""
        steps = math.inf if self._trainer is None else float(self.trainer.estimated_stepping_batches)
        return steps if steps >= 0 else math.inf

    def make_optimizer(self) -> Optimizer:
        """Makes the optimizer of all trainable parameters; variational and likelihood parameters take no weight decay.

        Returns:
            The optimizer.
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return build_optimizer(
            self._optimizer_factory, trained, self.undecayed_parameters(), self.learning_rate_factors()
        )

    @property
    def main_factor(self) -> float:
        """Factor of the learning rate of most parameters, which `lr` names."""
        return 1.0

    @property
    def default_lr(self) -> float:
        """Learning rate for most parameters unless `lr` is set."""
        return self.main_factor * float(self._optimizer_factory([nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"])

    @property
    def lr(self) -> float:
        """Learning rate of the optimizer for most parameters; others have a multiple of it.

        Setting it replaces the rate of the optimizer's factory, as the Trainer's search for a learning rate does.
        """
        if self._learning_rate is not None:
            return self._learning_rate
        return self.default_lr

    @lr.setter
    def lr(self, rate: float) -> None:
        if not (rate >= 0 and math.isfinite(rate)):
            raise InputValueError(f"lr must be nonnegative and finite, got {rate}")
        self._learning_rate = float(rate)

    def own_optimizers(self) -> list[Optimizer]:
        """Returns the optimizers of the fit that train this method, also where it is a member of an ensemble."""
        optimizers = self.trainer.optimizers
        parts = [part for each in optimizers for part in (each.parts if isinstance(each, JointOptimizer) else [each])]
        own = {id(parameter) for parameter in self.parameters()}
        return [part for part in parts if any(id(p) in own for group in part.param_groups for p in group["params"])]

    def _restore_rates(self) -> None:
        """Gives the parameter groups their multiples of a learning rate that a search has found for all."""
        if self._learning_rate is None or not self.takes_rates:
            return
        for optimizer in self.own_optimizers():
            self._set_rates(optimizer, self._learning_rate)
        if not self.is_member:
            self.restart_schedules()

    @property
    def takes_rates(self) -> bool:
        """True at the start of a fit, but not in a search for a learning rate."""
        return self.trainer.global_step == 0 and not is_searching(self.trainer)

    def restart_schedules(self) -> None:
        """Makes the schedules of the fit anew, from the present learning rates."""
        for optimizer in self.trainer.optimizers:
            for config in self.trainer.lr_scheduler_configs:
                for group in optimizer.param_groups:
                    group.pop("initial_lr", None)
                config.scheduler = self._make_scheduler(optimizer)["scheduler"]

    def _make_scheduler(self, optimizer: Optimizer) -> dict[str, Any]:
        if self._lr_scheduler_factory is None:
            return {}
        return configure_scheduler(self._lr_scheduler_factory, optimizer, self.num_steps)

    def _set_rates(self, optimizer: Optimizer, rate: float) -> None:
        for group, factor in zip(optimizer.param_groups, self._rate_factors, strict=True):
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate * factor)
            else:
                group["lr"] = rate * factor

    def prepare_optimizer(self) -> Optimizer:
        """Makes the optimizer of a fit, with the learning rate that was set.

        Returns:
            The optimizer.

        Raises:
            ValueError: If there are parameters in float16.
        """
        if any(parameter.dtype == torch.float16 for parameter in self.parameters() if parameter.requires_grad):
            raise InputValueError(
                "precision='16-true' cannot train: gradients below 6e-8, and the eps of Adam, are zero in float16; use "
                "precision='16-mixed' or 'bf16-true'"
            )
        optimizer = self.make_optimizer()
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        main = rates[0] * self.main_factor
        self._rate_factors = [rate / main if main else 1.0 for rate in rates]
        if self._learning_rate is not None:
            self._set_rates(optimizer, self._learning_rate)
        return optimizer

    def configure_optimizers(self) -> Any:
        """Builds the optimizer and the scheduler."""
        optimizer = self.prepare_optimizer()
        scheduler = self._make_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler} if scheduler else optimizer
