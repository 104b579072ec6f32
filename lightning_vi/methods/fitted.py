"""What methods share that look at the data once more before they can predict."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_vi.likelihoods import Prediction
from lightning_vi.methods.base import UQMethod
from lightning_vi.methods.batch import to_device
from lightning_vi.noise import private_random_state
from lightning_vi.sampling import NetworkInput


class NotFittedError(RuntimeError):
    """A method was asked for predictions before it was fitted."""


class FittedMethod(UQMethod):
    """A method that can predict once `fit_posterior` has seen the training data.

    A Trainer's fit ends with it, before the last validation and the last checkpoint. The validations before score
    `point_outputs`; a checkpoint from the middle of a fit has to be fitted before it predicts.

    The arguments are those of `UQMethod`.
    """

    is_fitted: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("is_fitted", torch.tensor(False))

    @abstractmethod
    def fit_posterior(self, data: Iterable[Any]) -> None:
        """Fits what predictions need, at the present weights.

        Args:
            data: The training data in labelled batches, such as a dataloader. A Trainer's fit gives its own.

        Raises:
            ValueError: If there are no data.
        """

    def require_fitted(self) -> None:
        """Refuses to go on before the method is fitted.

        Raises:
            NotFittedError: If it is not.
        """
        if not self.is_fitted:
            raise NotFittedError(
                f"{type(self).__name__} cannot predict before it is fitted: run Trainer.fit to its end, or call "
                "fit_posterior(dataloader) on a trained network"
            )

    def _predict(self, x: NetworkInput, num_samples: int, seed: int, return_samples: bool) -> Prediction:
        self.require_fitted()
        return super()._predict(x, num_samples, seed, return_samples)

    def _metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:
        if not self.is_fitted and self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            outputs = self.point_outputs(x).unsqueeze(0)
            self.likelihood.check(outputs, target)
            return self.likelihood.metric_inputs(outputs, target)
        self.require_fitted()
        return super()._metric_inputs(x, target)

    def on_train_start(self) -> None:
        """Forgets the fit at earlier weights."""
        self.is_fitted.fill_(False)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Fits after the last step, so that the last validation and the last checkpoint see it."""
        trainer = self.trainer
        is_last_epoch = trainer.max_epochs is not None and trainer.current_epoch + 1 == trainer.max_epochs
        if (is_last_epoch and trainer.is_last_batch) or trainer.global_step == trainer.max_steps:
            self._fit_to_training_data()

    def on_train_end(self) -> None:
        """Fits where training was stopped before its time."""
        if not self.is_fitted:
            self._fit_to_training_data()

    def _fit_to_training_data(self) -> None:
        with private_random_state(self.noise.seed, self.device):
            self.fit_posterior(self._training_batches())

    def _training_batches(self) -> Iterable[Any]:
        limit, loader = self.trainer.num_training_batches, cast(Iterable[Any], self.trainer.train_dataloader)
        for index, batch in enumerate(loader):
            if index >= limit:
                return
            yield to_device(self, batch)
