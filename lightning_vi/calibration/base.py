"""Base class of methods that calibrate a fitted method."""

import copy
import math
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_vi.core.batch import split_labeled_batch
from lightning_vi.core.batch_forms import InputForm, check_target
from lightning_vi.core.checkpoints import read_checkpoint, verify
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.fit_progress import is_step_done
from lightning_vi.core.input_range import InputRange
from lightning_vi.core.intake import network_batch
from lightning_vi.core.moved_predictive import MovedPredictive
from lightning_vi.core.predictive import Predictive, TransformedPredictive
from lightning_vi.core.predictor import Approximation, Predictor
from lightning_vi.core.training_data import single_dataloader
from lightning_vi.errors import InputTypeError, InputValueError, NotFittedError
from lightning_vi.likelihoods import Likelihood, Prediction, Task
from lightning_vi.locks import exclusive
from lightning_vi.noise import NoiseStream, private_random_state
from lightning_vi.objectives import count_training_data
from lightning_vi.sampling import NetworkInput, evaluating, map_tensors
from lightning_vi.tracing import known


class CalibratedMethod(Predictor):
    """Base class of methods that adjust the predictions of a fitted method to calibration data.

    ``Trainer.fit(calibrated, datamodule.calibration_dataloader())`` computes a score for each datum and calibrates at
    the end of each epoch, before the validation and the checkpoint. `calibrate` does the same without a Trainer. The
    method is not trained. Validations before the first calibration score the uncalibrated predictions. The method may
    itself be a `CalibratedMethod`.

    Subclasses set `task` and `other_task_advice` and implement `scores`, `use_scores` and either `calibrated` or
    `make_calibrated`.

    Args:
        method: The fitted method; it is copied.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or its likelihood is for another task.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint is not one of this method.
    """

    task: Task
    other_task_advice: str
    calibration_rows: Literal["calib", "train"] = "calib"
    """The rows that it is calibrated on: those kept back for it, or those of the training."""
    is_calibrated: Tensor

    def __init__(self, method: Predictor, *, method_checkpoint: str | None = None) -> None:
        if not isinstance(method, Predictor):
            raise InputTypeError(f"method must be a method of lightning_vi, got a {type(method).__name__}")
        if getattr(method, "is_sequential", False):
            raise InputTypeError(
                f"method must not be a {type(method).__name__}, which follows the rows of a series: calibrate the "
                f"method inside of it first, as {type(method).__name__}({type(self).__name__}(method))"
            )
        self.check_likelihood(method.likelihood)
        method = copy.deepcopy(method)
        if method_checkpoint is not None:
            _load_weights(method, Path(method_checkpoint))
        super().__init__(method.likelihood, num_mc_samples_test=method.num_mc_samples_test)
        self.hparams["method_checkpoint"] = None  # checkpoints of the calibrated method have the weights
        self.automatic_optimization = False
        self.method = method
        self.register_buffer("is_calibrated", torch.tensor(False))
        self._collected: list[Tensor] = []
        self._num_calibration_data: int | None = None
        self._num_nan = 0

    @classmethod
    def check_likelihood(cls, likelihood: Likelihood) -> None:
        """Raises an error if predictions under a likelihood cannot be calibrated this way.

        Args:
            likelihood: The method's likelihood.

        Raises:
            TypeError: If it is for another task.
        """
        if likelihood.task != cls.task:
            raise InputTypeError(
                f"{cls.__name__} is for {cls.task}, but {type(likelihood).__name__} is for {likelihood.task}: use "
                f"{cls.other_task_advice}"
            )

    @abstractmethod
    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:
        """Computes the calibration scores of a batch.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ...]; zero where they are missing.

        Returns:
            Shape [B, ...]. Scores of missing targets are not used.
        """

    @abstractmethod
    def use_scores(self, scores: Tensor) -> None:
        """Computes the calibration from the scores of all calibration data and stores it in buffers.

        Args:
            scores: Shape [N, ...] with N > 0; NaN for targets that are missing.
        """

    def calibrated(self, x: NetworkInput, prediction: Prediction) -> Prediction:  # noqa: ARG002
        """Calibrates a prediction.

        Args:
            x: Input, each tensor of shape [B, ...].
            prediction: The method's prediction.

        Returns:
            The calibrated prediction; by default the given one.
        """
        return prediction

    def make_calibrated(self, x: NetworkInput, predictive: Predictive) -> Predictive:
        """Makes the calibrated predictive distribution.

        By default it is the method's distribution with a `calibrated` prediction.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.

        Returns:
            The calibrated distribution.
        """
        return TransformedPredictive(predictive, lambda prediction: self.calibrated(x, prediction))

    def applied(self, x: NetworkInput, predictive: Predictive) -> Predictive:
        """Calibrates a predictive distribution of the method, see `make_calibrated`.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.

        Returns:
            The calibrated distribution.
        """
        dim = self.likelihood.prediction_dim
        if self.task == "classification" or dim == -1:
            return self.make_calibrated(x, predictive)
        return MovedPredictive(self.make_calibrated(x, MovedPredictive(predictive, dim, -1)), -1, dim)

    def begin_test(self) -> None:
        """Called before the first batch of a test set; calibrations that follow a series start anew."""

    def logged_calibration(self) -> dict[str, Tensor]:
        """Returns the scalars to log, by name; none by default."""
        return {}

    @property
    def source(self) -> Predictor:
        """The predictor whose predictions are calibrated: the method."""
        return self.method

    @property
    def likelihood(self) -> Likelihood:  # type: ignore[override]
        """The method's likelihood."""
        return self.method.likelihood

    @property
    def noise(self) -> NoiseStream:  # type: ignore[override]
        """The method's source of noise."""
        return self.method.noise

    @property
    def data_state(self) -> dict[str, Any] | None:
        """State of the datamodule that the method was trained on, with the tables that it was calibrated on."""
        return self.method.data_state

    @data_state.setter
    def data_state(self, state: dict[str, Any] | None) -> None:
        self.method.data_state = state

    @property
    def input_range(self) -> InputRange | None:
        """Range of the inputs that the method was trained on."""
        return self.method.input_range

    @input_range.setter
    def input_range(self, value: InputRange | None) -> None:
        self.method.input_range = value

    def setup(self, stage: str) -> None:
        """Checks the Trainer's strategy, and notes the table of the calibration, whose split holds in later tests."""
        super().setup(stage)
        used = getattr(getattr(self.trainer, "datamodule", None), "data_state", None)
        if stage == "fit" and used is not None and self.data_state is not None:
            tables = [*self.data_state["tables"], *(t for t in used["tables"] if t not in self.data_state["tables"])]
            self.data_state = {**self.data_state, "tables": tables}

    @property
    def is_trained(self) -> bool:  # noqa: D102
        return self.method.is_trained

    def trained_networks(self) -> list[nn.Module]:  # noqa: D102
        return self.method.trained_networks()

    def input_form(self) -> InputForm:  # noqa: D102
        return self.method.input_form()

    def forward(self, x: NetworkInput) -> Tensor:
        """Computes the method's outputs without sampling.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        return self.method(x)  # type: ignore[no-any-return]

    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:  # noqa: D102
        return self.applied(x, self.source.predictive_distribution(x, num_samples, seed, "sampling"))

    def make_moments_predictive(self, x: NetworkInput) -> Predictive:  # noqa: D102
        return self.applied(x, self.source.predictive_distribution(x, 1, self.noise.seed, "moments"))

    @property
    def approximation(self) -> Approximation:
        """That of the method, which a calibration fits."""
        return self.method.approximation

    @approximation.setter
    def approximation(self, approximation: Approximation) -> None:
        self.method.approximation = approximation

    @property
    def unmet_requirement(self) -> str:  # noqa: D102
        if known(self, "is_calibrated"):
            return ""
        return "calibrated: run Trainer.fit(method, datamodule.calibration_dataloader()), or call calibrate(dataloader)"

    def provisional_predictive(self, x: NetworkInput) -> Predictive:  # noqa: D102
        return self.source.predictive_distribution(x, self.num_mc_samples_test, self.noise.seed)

    @torch.no_grad()
    def calibrate(self, data: Iterable[Any]) -> None:
        """Calibrates without a Trainer.

        The weights and the mode of the method and the global random state are unchanged.

        Args:
            data: Calibration data in labeled batches, such as a dataloader. They must not be training data.

        Raises:
            NotFittedError: If the method is not trained.
            ValueError: If there are no data, or a score is NaN.
            TypeError: If `data` is not iterable, or a batch has no targets.
        """
        if not isinstance(data, Iterable):
            raise InputTypeError(
                "data must be a dataloader, such as datamodule.calibration_dataloader(), or a list of batches, "
                f"got a {type(data).__name__}"
            )
        self._require_trained()
        with exclusive(self), private_random_state(self.noise.seed, self.device):
            self._finish(list(self._scores_of(data)))

    def _require_trained(self) -> None:
        self.source.require_fitted()
        if not self.is_trained:
            raise NotFittedError(
                f"{type(self).__name__} cannot calibrate a {type(self.method).__name__} that has not been trained: fit "
                "it first, or give the checkpoint of its fit as method_checkpoint=...; if its network was trained in "
                "another way, set method.is_trained = True"
            )

    def _scores_of(self, data: Iterable[Any]) -> Iterator[Tensor]:
        for batch in data:
            inputs, target = split_labeled_batch(batch)
            x, y = (map_tensors(lambda tensor: tensor.to(self.device), part) for part in (inputs, target))
            yield self._batch_scores(x, y)

    def _batch_scores(self, x: NetworkInput, target: Any) -> Tensor:
        x, target = network_batch(x, target, self)
        with explained(self, x), evaluating(self):
            predictive = self.source.predictive_distribution(x, self.source.num_mc_samples_test, self.noise.seed)
            if self.likelihood.task == "regression" and self.likelihood.prediction_dim != -1:
                dim = self.likelihood.prediction_dim
                predictive, target = MovedPredictive(predictive, dim, -1), target.movedim(dim, -1)
            scores = self.scores(x, predictive, self.likelihood.fill(target))
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        observed = self.likelihood.observed(target)
        if observed is None:
            return scores
        if scores.dim() > observed.dim():  # scores of all classes
            observed = observed.unsqueeze(1)
        self._num_nan += int((scores.isnan() & observed).reshape(len(scores), -1).any(1).sum())
        return torch.where(observed, scores, math.nan)

    def checked_prediction(self, predictive: Predictive, target: Tensor) -> Prediction:
        """Checks the targets and returns the method's prediction, for `scores`.

        Args:
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ...].

        Returns:
            The prediction.

        Raises:
            ValueError: If the shape or a value of the targets is invalid.
            TypeError: If their type is invalid.
        """
        prediction = predictive.prediction()
        check_target(prediction, target)
        self.likelihood.check_values(target)
        return prediction

    def _finish(self, batches: list[Tensor]) -> None:
        if sum(map(len, batches)) == 0:
            raise InputValueError("there are no data to calibrate on")
        scores = torch.cat(batches)
        if self.likelihood.observed(scores) is None:
            self._num_nan = int(scores.isnan().reshape(len(scores), -1).any(1).sum())
        num_nan, self._num_nan = self._num_nan, 0
        if num_nan:
            raise InputValueError(f"the predictions of {num_nan} of {len(scores)} calibration data are NaN")
        if scores.isnan().all():
            raise InputValueError("there are no targets to calibrate on: all are missing")
        self.use_scores(scores)
        self.is_calibrated.fill_(True)

    def on_fit_start(self) -> None:
        """Checks that the data are not the training data of a datamodule.

        Raises:
            ValueError: If they are, or if there are no data.
            NotFittedError: If the method is not trained.
        """
        source = self.trainer.fit_loop._data_source.instance
        if isinstance(source, LightningDataModule) and not getattr(source, "gives_calibration_data", False):
            loader, rows = "calibration_dataloader()", ""
            if self.calibration_rows == "train":
                loader, rows = "ordered_train_dataloader()", ', rows="train"'
            raise InputValueError(
                f"{type(self).__name__} would calibrate on the training data of {type(source).__name__}; give "
                f"Trainer.fit datamodule.{loader} or CalibrationDataModule(datamodule{rows}) instead (in a "
                "configuration file, `class_path: CalibrationDataModule` with the datamodule as its argument `data`)"
            )
        self.make_up_fit()
        self._require_trained()
        self.trainer.fit_loop.setup_data()
        size = count_training_data(single_dataloader(self.trainer))
        if size == 0:
            raise InputValueError("the calibration set is empty")
        self._num_calibration_data = size

    def on_train_start(self) -> None:
        """Starts an epoch anew that is resumed within it, because checkpoints do not have its scores."""
        self._collected = []
        self.trainer.fit_loop.epoch_loop.restarting = False

    def on_train_epoch_start(self) -> None:
        """Discards the scores of an interrupted epoch."""
        self._collected = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Calibrates before the first checkpoint after the last batch of an epoch.

        Callbacks save checkpoints before the hooks of the method run.
        """
        is_fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        if is_fitting and self._collected and self.trainer.is_last_batch and is_step_done(self.trainer):
            self._finish_epoch()
            checkpoint["state_dict"] = self.trainer.strategy.lightning_module_state_dict()
        super().on_save_checkpoint(checkpoint)

    def training_step(self, batch: Any, batch_idx: int = 0) -> None:  # noqa: ARG002
        """Collects the scores of a batch."""
        with torch.no_grad():
            self._collected.append(self._batch_scores(*split_labeled_batch(batch)))
        # Nothing is optimized, but checkpoints and loggers count steps.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Calibrates after the last batch of an epoch."""
        if self.trainer.is_last_batch and self._collected:
            self._finish_epoch()

    def on_train_epoch_end(self) -> None:
        """Calibrates on the available scores if the epoch ended early."""
        if self._collected:
            self._finish_epoch()
        self.log_dict(self.logged_calibration(), sync_dist=True)

    @torch.no_grad()
    def _finish_epoch(self) -> None:
        scores, self._collected = self._collected, []
        with exclusive(self):
            self._finish(self._gather(scores))

    def _gather(self, batches: list[Tensor]) -> list[Tensor]:
        """Gathers the scores of all processes in the order of the data."""
        if self.trainer.world_size == 1:
            return batches
        gathered: list[Tensor] = [torch.empty(0)] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, torch.cat(batches).cpu())
        ranks = [scores.to(self.device) for scores in gathered]
        total = sum(map(len, ranks))
        num_repeated = 0 if self._num_calibration_data is None else total - self._num_calibration_data
        if len({len(scores) for scores in ranks}) > 1 or not 0 < num_repeated < len(ranks):
            return ranks
        # A distributed sampler appends the first data until all processes have the same number.
        return [torch.stack(ranks, dim=1).flatten(0, 1)[: total - num_repeated]]

    def configure_optimizers(self) -> list[Any]:
        """Returns no optimizers."""
        return []


def _load_weights(method: Predictor, path: Path) -> None:
    checkpoint = read_checkpoint(path, "method_checkpoint")
    verify(checkpoint, f"method_checkpoint={str(path)!r}")
    try:
        method.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise InputValueError(
            f"method_checkpoint={str(path)!r} is not a checkpoint of this {type(method).__name__}: {error}"
        ) from None
    method.remember_data(checkpoint)
