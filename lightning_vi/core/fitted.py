"""Base class of methods that need a pass over the training data after training."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor

from lightning_vi.core.batch import to_device
from lightning_vi.core.method import UQMethod
from lightning_vi.core.predictive import Predictive, SampledPredictive
from lightning_vi.locks import exclusive
from lightning_vi.noise import private_random_state
from lightning_vi.sampling import NetworkInput
from lightning_vi.tracing import known


class FittedMethod(UQMethod):
    """Base class of methods that can predict after `fit_posterior` has processed the training data.

    `Trainer.fit` calls it after the last training step, before the last validation and the last checkpoint. Earlier
    validations score `point_outputs`. A checkpoint of an unfinished fit must be fitted before it can predict.

    The arguments are those of `UQMethod`.
    """

    is_fitted: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("is_fitted", torch.tensor(False))

    @abstractmethod
    def fit_posterior(self, data: Iterable[Any]) -> None:
        """Fits the posterior at the current weights.

        Args:
            data: The training data in labeled batches, such as a dataloader. `Trainer.fit` passes its own.

        Raises:
            ValueError: If there are no data.
        """

    @property
    def unmet_requirement(self) -> str:  # noqa: D102
        if known(self, "is_fitted"):
            return ""
        return "fitted: run Trainer.fit to its end, or call fit_posterior(dataloader) on a trained network"

    def provisional_predictive(self, x: NetworkInput) -> Predictive:  # noqa: D102
        return SampledPredictive(self.likelihood, lambda: [self.point_outputs(x).unsqueeze(0)])

    def on_train_start(self) -> None:
        """Marks the posterior as not fitted."""
        self.is_fitted.fill_(False)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Fits the posterior after the last step, before the last validation and the last checkpoint."""
        trainer = self.trainer
        is_last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        if (is_last_epoch and trainer.is_last_batch) or trainer.global_step == trainer.max_steps:
            self._fit_to_training_data()

    def on_train_end(self) -> None:
        """Fits the posterior if training was stopped early."""
        if not self.is_fitted:
            self._fit_to_training_data()

    def _fit_to_training_data(self) -> None:
        with exclusive(self), private_random_state(self.noise.seed, self.device):
            self.fit_posterior(self._training_batches())

    def _training_batches(self) -> Iterable[Any]:
        limit, loader = self.trainer.num_training_batches, cast(Iterable[Any], self.trainer.train_dataloader)
        for index, batch in enumerate(loader):
            if index >= limit:
                return
            yield to_device(self, batch)
