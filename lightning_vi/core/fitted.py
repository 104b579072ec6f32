"""Base class of methods that need a pass over the training data after training."""

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_vi.core.batch import to_device
from lightning_vi.core.fit_progress import is_last_step, is_step_done
from lightning_vi.core.method import UQMethod
from lightning_vi.core.predictive import Predictive, SampledPredictive
from lightning_vi.core.training_data import TrainingData, training_data_at_hand
from lightning_vi.errors import NotFittedError
from lightning_vi.locks import exclusive
from lightning_vi.noise import private_random_state
from lightning_vi.sampling import NetworkInput
from lightning_vi.tracing import known


class FittedMethod(UQMethod):
    """Base class of methods that can predict after `fit_posterior` has processed the training data.

    `Trainer.fit` calls it after the last training step, before that step's validation and checkpoints, or with the
    first checkpoint after early stopping. Earlier validations score `point_outputs`. An earlier checkpoint is not
    fitted: `Trainer.test`, `validate` and `predict` make up the fit if they have the training data, that is after a fit
    of the same method or with a datamodule; otherwise call `fit_posterior` after loading.

    The arguments are those of `UQMethod`.
    """

    is_fitted: Tensor

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.register_buffer("is_fitted", torch.tensor(False))
        self._training_data: TrainingData | None = None
        self._is_step_open = self._was_fitted_by_trainer = self._has_failed = False

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_training_data": None}

    @abstractmethod
    def fit_posterior(self, data: Iterable[Any]) -> None:
        """Fits the posterior at the current weights.

        Args:
            data: The training data in labeled batches, such as a dataloader. `Trainer.fit` passes its own.

        Raises:
            ValueError: If there are no data.
        """

    def after_step(self) -> bool:
        """Updates the posterior after a training step, before its checkpoints and validation.

        Returns:
            Whether anything has changed; False by default.
        """
        return False

    @property
    def is_trained(self) -> bool:
        """True after a fit, and also after `fit_posterior` on a pretrained network."""
        return super().is_trained or bool(self.is_fitted)

    @is_trained.setter
    def is_trained(self, is_trained: bool) -> None:
        self._was_trained_elsewhere = is_trained

    @property
    def unmet_requirement(self) -> str:  # noqa: D102
        return "" if known(self, "is_fitted") else self._how_to_fit

    @property
    def _how_to_fit(self) -> str:
        return (
            "fitted: run Trainer.fit to its end, or call fit_posterior(dataloader) on a trained network. For a "
            "checkpoint from before the end of a fit:\n"
            f"    method = {type(self).__name__}.load_from_checkpoint(PATH, backbone=..., likelihood=...)\n"
            "    method.fit_posterior(train_dataloader)"
        )

    def provisional_predictive(self, x: NetworkInput) -> Predictive:  # noqa: D102
        return SampledPredictive(self.likelihood, lambda: [self.point_outputs(x).unsqueeze(0)])

    def on_train_start(self) -> None:
        """Marks the posterior as not fitted."""
        super().on_train_start()
        self.is_fitted.fill_(False)
        self._is_step_open = self._was_fitted_by_trainer = self._has_failed = False
        self._remember_training_data()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Marks the posterior as not fitted if training goes on after what seemed to be the last step."""
        self._is_step_open = True
        if self._was_fitted_by_trainer:
            self._was_fitted_by_trainer = False
            self.is_fitted.fill_(False)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Fits the posterior after the last step, before the last validation."""
        self._finish_step()

    def on_train_end(self) -> None:
        """Fits the posterior if training was stopped early."""
        super().on_train_end()
        if not self.is_fitted:
            self._fit_to_training_data()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Fits the posterior before the first checkpoint after the last step.

        Callbacks save checkpoints before the hooks of the method run.
        """
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING and self._finish_step():
            checkpoint["state_dict"] = self.trainer.strategy.lightning_module_state_dict()
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks the checkpoint.

        Raises:
            ValueError: If it is damaged or of a newer format.
            NotFittedError: If it is not fitted, and an evaluation has no training data to make up the fit.
        """
        super().on_load_checkpoint(checkpoint)
        is_evaluation = self._trainer is not None and self.trainer.state.fn != TrainerFn.FITTING
        state = checkpoint["state_dict"]
        if is_evaluation and not state.get("is_fitted", True):
            self._training_data = self._data_at_hand(int(state.get("_extra_state", -1)))

    def make_up_fit(self) -> None:
        """Fits the posterior to the training data at hand, if the weights are trained but a checkpoint was not fitted.

        Raises:
            NotFittedError: If there are no training data at hand.
        """
        if self.is_fitted or self._train_size is None:
            return
        data = self._data_at_hand(self._train_size)
        rank_zero_info(
            f"{type(self).__name__} comes from a checkpoint before the end of its fit: its posterior is now fitted to "
            f"the {self._train_size} training data"
        )
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            exclusive(self),
            private_random_state(self.noise.seed, self.device),
        ):
            self.fit_posterior(to_device(self, batch) for batch in data.batches())

    def _data_at_hand(self, train_size: int) -> TrainingData:
        data = self._training_data or training_data_at_hand(self.trainer)
        if data is not None and data.size in (None, train_size):
            return data
        other = "" if data is None else f"\nThe data at hand have {data.size} rows, those of the fit {train_size}."
        raise NotFittedError(f"{type(self).__name__} cannot predict before it is {self._how_to_fit}{other}")

    def _finish_step(self) -> bool:
        """Updates the posterior once after each step, and fits it after the last one; tells whether it has changed."""
        has_changed = False
        if self._is_step_open and is_step_done(self.trainer):
            self._is_step_open = False
            has_changed = self.after_step()
        if not self._has_failed and is_last_step(self.trainer) and not self.is_fitted:
            self._fit_to_training_data()
            return True
        return has_changed

    def _fit_to_training_data(self) -> None:
        self._has_failed = True  # a checkpoint that is written after an exception does not try again
        self._remember_training_data()
        with exclusive(self), private_random_state(self.noise.seed, self.device):
            self.fit_posterior(self._training_batches())
        self._has_failed, self._was_fitted_by_trainer = False, True

    def _remember_training_data(self) -> None:
        """Keeps the dataloader of the fit, which a Trainer forgets when it evaluates other data."""
        loader = cast(Iterable[Any], self.trainer.train_dataloader)
        self._training_data = TrainingData(loader, self._train_size)

    def _training_batches(self) -> Iterable[Any]:
        if self._training_data is not None:
            for batch in self._training_data.batches():
                yield to_device(self, batch)
