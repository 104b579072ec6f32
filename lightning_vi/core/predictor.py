"""Base class of everything that predicts: predictions, and scores of validation and test data."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Self, cast, get_args

import torch
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_vi.arguments import check_at_least, check_instance
from lightning_vi.core import checkpoints
from lightning_vi.core.batch import check_values, sample_weight, split_batch, split_labeled_batch
from lightning_vi.core.batch_forms import InputForm, check_prediction_batch, input_form
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.hyperparameters import unsaved_arguments
from lightning_vi.core.input_range import InputRange, input_range_from
from lightning_vi.core.intake import network_batch, network_input
from lightning_vi.core.locked_predictive import LockedPredictive
from lightning_vi.core.moments_predictive import no_moments
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.scoreboard import Scoreboard, uncertainty_inputs, update
from lightning_vi.core.strategies import check_strategy
from lightning_vi.errors import InputValueError, NotFittedError
from lightning_vi.likelihoods import Likelihood, Prediction
from lightning_vi.locks import ModuleLock, exclusive
from lightning_vi.metrics import (
    default_metrics,
    multi_label_metrics,
    ordered_class_metrics,
    segmentation_metrics,
    uncertainty_metrics,
)
from lightning_vi.noise import NoiseStream
from lightning_vi.sampling import (
    NetworkInput,
    evaluating,
    input_gradients,
    map_tensors,
    memory,
    num_fitting,
    tensors,
)

Approximation = Literal["sampling", "moments"]

DATA_STATE, INPUT_RANGE = "data_state", "input_range"
"""Keys of a checkpoint under which the state of the training data and the range of their inputs are stored."""


class Predictor(LightningModule, ABC):
    """Base class of methods, calibrations and ensembles: it predicts, and scores its predictions.

    A subclass has the attributes `likelihood` and `noise`, and fills in `make_predictive`, `forward`, `is_trained` and
    `trained_networks`. One that must be fitted before it predicts fills in `unmet_requirement` and
    `provisional_predictive` besides.

    Args:
        likelihood: The observation model.
        num_mc_samples_test: Number of samples for validation, test and prediction.

    Raises:
        ValueError: If `num_mc_samples_test` is not positive.
    """

    likelihood: Likelihood
    noise: NoiseStream
    data_state: dict[str, Any] | None = None
    """State of the datamodule that the method was trained on, by which datamodules treat new data; None if unknown."""
    input_range: InputRange | None = None
    """Range of the training inputs, if they are rows of numbers."""
    approximation: Approximation = "sampling"
    """How predictions, validation and test integrate over the posterior, see `predict`. Checkpoints do not hold it."""

    def __init__(self, likelihood: Likelihood, *, num_mc_samples_test: int) -> None:
        check_instance("likelihood", likelihood, Likelihood)
        super().__init__()
        self._lock = ModuleLock()
        check_at_least("num_mc_samples_test", num_mc_samples_test, 1)
        frame = cast(FrameType, inspect.currentframe())
        self.save_hyperparameters(ignore=unsaved_arguments(type(self), frame))
        self.num_mc_samples_test = num_mc_samples_test
        task, width = likelihood.task, likelihood.num_predictions
        self.val_metrics = default_metrics(task, "val_", num_outputs=width, target_dim=likelihood.prediction_dim)
        self.test_metrics = default_metrics(task, "test_", num_outputs=width, target_dim=likelihood.prediction_dim)
        for metrics in (self.val_metrics, self.test_metrics):
            metrics.add_metrics(uncertainty_metrics(task))
            if likelihood.is_ordered:
                metrics.add_metrics(ordered_class_metrics())
            if likelihood.is_multi_label:
                metrics.add_metrics(multi_label_metrics(num_labels=likelihood.num_outputs))
        self._val_scores, self._test_scores = Scoreboard("val"), Scoreboard("test")

    @abstractmethod
    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:
        """Makes the predictive distribution of a batch; `predictive_distribution` calls it.

        Args:
            x: Input, each tensor of shape [B, ...].
            num_samples: S.
            seed: Names the S networks.

        Returns:
            The distribution.
        """

    @abstractmethod
    def forward(self, x: NetworkInput) -> Tensor:
        """Computes network outputs without sampling.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """

    @property
    @abstractmethod
    def is_trained(self) -> bool:
        """True if a fit has set the weights."""

    @abstractmethod
    def trained_networks(self) -> list[nn.Module]:
        """Networks that another method can start from; more than one for ensembles."""

    def input_form(self) -> InputForm:
        """Returns how the network takes its inputs."""
        return input_form(self.trained_networks()[0], None)

    @property
    def unmet_requirement(self) -> str:
        """Condition of predictions that is not met, as the end of an error message; empty if there is none."""
        return ""

    def provisional_predictive(self, x: NetworkInput) -> Predictive:
        """Makes the distribution that validations score before `unmet_requirement` is met, during a fit.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            The distribution.
        """
        return self.make_predictive(x, self.num_mc_samples_test, self.noise.seed)

    def setup(self, stage: str) -> None:  # noqa: ARG002
        """Checks the Trainer's strategy before it changes the method."""
        check_strategy(self.trainer)

    @_restricted_classmethod
    def load_from_checkpoint(
        cls,  # noqa: N805
        checkpoint_path: Any,
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = True,
        **kwargs: Any,
    ) -> Self:
        """Loads a method from a checkpoint.

        Args:
            checkpoint_path: Path or URL of the checkpoint, or an open file.
            map_location: Device of the method; by default the one that it was saved from.
            hparams_file: File of hyperparameters that replace those of the checkpoint.
            strict: Whether the checkpoint must have all weights of the method, and no others.
            weights_only: Whether to refuse objects that may run code.
            **kwargs: Constructor arguments that the checkpoint does not hold, such as `backbone` and `likelihood`, or
                that replace those of the checkpoint.

        Returns:
            The method.

        Raises:
            FileNotFoundError: If there is no such file.
            ValueError: If the file is not a checkpoint, is damaged or is of a newer format.
        """
        if isinstance(checkpoint_path, str | Path) and "://" not in str(checkpoint_path) and weights_only is not False:
            # Lightning adds `kwargs` to the hyperparameters before `on_load_checkpoint` sees them.
            checkpoints.check_file(Path(checkpoint_path))
        return super().load_from_checkpoint(
            checkpoint_path, map_location, hparams_file, strict, weights_only is not False, **kwargs
        )

    @property
    def is_member(self) -> bool:
        """True within the fit of an ensemble that holds this method."""
        return self._trainer is not None and self.trainer.lightning_module not in (None, self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the state of the training data, the format version and digests, which must be the last change."""
        if self.is_member:
            return
        if self.data_state is not None:
            checkpoint[DATA_STATE] = self.data_state
        if self.input_range is not None:
            checkpoint[INPUT_RANGE] = self.input_range.state()
        trainer = self._trainer
        if trainer is None or (trainer.is_global_zero and checkpoints.is_whole(trainer.strategy)):
            checkpoints.seal(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks the format version and the digests, and restores the state of the training data.

        Raises:
            ValueError: If the checkpoint is damaged or of a newer format.
        """
        checkpoints.verify(checkpoint, unread=checkpoints.READ_FIRST)
        self.remember_data(checkpoint)

    def remember_data(self, checkpoint: Mapping[str, Any]) -> None:
        """Restores the state of the training data and the range of their inputs.

        Args:
            checkpoint: The checkpoint.
        """
        self.data_state = checkpoint.get(DATA_STATE)
        self.input_range = input_range_from(checkpoint.get(INPUT_RANGE))

    def require_fitted(self) -> None:
        """Raises an error before the predictor can predict.

        Raises:
            NotFittedError: If `unmet_requirement` is not empty.
        """
        if self.unmet_requirement:
            raise NotFittedError(f"{type(self).__name__} cannot predict before it is {self.unmet_requirement}")

    def make_moments_predictive(self, x: NetworkInput) -> Predictive:  # noqa: ARG002
        """Makes the predictive distribution of a batch with ``approximation="moments"``.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            The distribution.

        Raises:
            TypeError: By default, because it needs marginal variances of the weights.
        """
        raise no_moments(self)

    def _make(self, x: NetworkInput, num_samples: int, seed: int, approximation: Approximation | None) -> Predictive:
        approximation = self.approximation if approximation is None else approximation
        if approximation not in get_args(Approximation):
            raise InputValueError(
                f"approximation must be one of {list(get_args(Approximation))}, got {approximation!r}"
            )
        if approximation == "moments":
            return self.make_moments_predictive(x)
        return self.make_predictive(x, num_samples, seed)

    def predictive_distribution(
        self, x: NetworkInput, num_samples: int, seed: int, approximation: Approximation | None = None
    ) -> Predictive:
        """Returns the predictive distribution of a batch, to be asked in evaluation mode and without gradients.

        Args:
            x: Input, each tensor of shape [B, ...].
            num_samples: S.
            seed: Names the S networks.
            approximation: As for `predict`.

        Returns:
            The distribution; the network runs when it is asked.

        Raises:
            NotFittedError: If the predictor is not fitted.
        """
        with exclusive(self):
            self.require_fitted()
            return LockedPredictive(self._make(x, num_samples, seed, approximation), partial(exclusive, self))

    def predict(
        self,
        x: NetworkInput,
        num_samples: int | None = None,
        seed: int | None = None,
        return_samples: bool = False,
        differentiable: bool = False,
        approximation: Approximation | None = None,
    ) -> Prediction:
        """Predicts, with the uncertainty split into epistemic and aleatoric parts.

        Training mode, weights and the global random state stay as they were, also if a forward pass fails. Any number
        of threads may predict at once; those that use one method take turns.

        Args:
            x: Input, each tensor of shape [B, ...]; arrays, data frames and lists of numbers become tensors, and
                floating-point numbers are cast to the network's type.
            num_samples: S; `num_mc_samples_test` by default.
            seed: Names the S networks; the same ones in every call by default.
            return_samples: Whether to return the samples' means or probabilities too.
            differentiable: Whether the prediction has gradients with respect to the input, and to nothing else.
            approximation: ``"sampling"``, or ``"moments"`` for means and variances that are propagated through the
                network in one pass, without samples; by default the attribute of this name.

        Returns:
            The prediction in target units, see `Prediction`.

        Raises:
            ValueError: If `num_samples` is not positive, the network cannot take the input, or gradients are asked for
                in `torch.inference_mode`.
            TypeError: If the input holds no numbers, gradients are asked for and it has no floating-point ones, or
                the method or a function that the network calls does not support ``"moments"``.
            NotFittedError: If the predictor is not fitted.
        """
        num_samples = self.num_mc_samples_test if num_samples is None else num_samples
        check_at_least("num_samples", num_samples, 1)
        seed = self.noise.seed if seed is None else seed
        x = network_input(x, self)
        if self.input_range is not None:
            self.input_range.check(x)
        with explained(self, x), evaluating(self), input_gradients(self, x) if differentiable else torch.no_grad():
            self.require_fitted()
            prediction = self._make(x, num_samples, seed, approximation).prediction(return_samples=return_samples)
            self._check_prediction(prediction)
        return replace(prediction, metadata={"method": type(self).__name__, "seed": seed} | prediction.metadata)

    def _check_prediction(self, prediction: Prediction) -> None:
        """Raises an error that `explained` replaces if the network's output does not fit the likelihood."""
        axis = self.likelihood.prediction_dim
        shape = prediction.mean.shape
        if len(shape) < 2 or shape[axis] != self.likelihood.num_predictions:
            raise ValueError(
                f"predictions need the width {self.likelihood.num_predictions} in dimension {axis}, got {tuple(shape)}"
            )

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> dict[str, Tensor]:  # noqa: ARG002
        """Predicts a batch.

        Args:
            batch: ``(x, y)``, ``{"input": x, "target": y}``, or the input alone. Several inputs are
                ``((x, mask), y)`` or ``{"input": (x, mask)}``.
            batch_idx: Not used.
            dataloader_idx: Not used.

        Returns:
            `pred`, `pred_uct`, `epistemic_uct`, `aleatoric_uct` and, for classification, `probs_var`, see
            `Prediction.as_dict`.


        Raises:
            ValueError: If the batch is a pair, the network takes several inputs, and the second element may be one.
        """
        form = self.input_form()
        check_prediction_batch(batch, form)
        prediction = self.predict(split_batch(batch)[0])
        check_prediction_batch(batch, form, prediction)
        return prediction.as_dict()

    def make_up_fit(self) -> None:
        """Fits the posteriors of the methods in this predictor that come from a checkpoint before the end of their fit.

        Evaluations by a Trainer call it before their first batch.

        Raises:
            NotFittedError: If the training data are not at hand.
        """
        for module in self.modules():
            if isinstance(module, Predictor) and module is not self:
                module.make_up_fit()

    def on_validation_start(self) -> None:
        """Makes up the fit, see `make_up_fit`."""
        if self.trainer.state.fn != TrainerFn.FITTING:
            self.make_up_fit()

    def on_test_start(self) -> None:
        """Makes up the fit, see `make_up_fit`."""
        self.make_up_fit()

    def on_predict_start(self) -> None:
        """Makes up the fit, see `make_up_fit`."""
        self.make_up_fit()

    def on_validation_epoch_start(self) -> None:
        """Discards the scores of an interrupted epoch."""
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        """Discards the scores of an interrupted epoch."""
        self.test_metrics.reset()

    def validation_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        """Scores the predictive distribution."""
        self._score(self._val_scores, self.val_metrics, batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics of a single dataloader."""
        self._log_epoch(self._val_scores, self.val_metrics)

    def test_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        """Scores the predictive distribution."""
        self._score(self._test_scores, self.test_metrics, batch, batch_idx, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics of a single dataloader."""
        self._log_epoch(self._test_scores, self.test_metrics)

    def _log_epoch(self, scores: Scoreboard, metrics: MetricCollection) -> None:
        if not scores.has_several_loaders(self):
            self.log_dict(metrics.compute())
        metrics.reset()

    def _score(
        self, scores: Scoreboard, own: MetricCollection, batch: Any, batch_idx: int, dataloader_idx: int
    ) -> None:
        x, target, weight = self._labeled(batch)
        check_values(self.likelihood, x, target, weight)
        self.add_metrics_for(target)
        metrics = scores.metrics(self, own, batch_idx, dataloader_idx)
        num_rows = scores.rows_to_count(self, len(target), batch_idx, dataloader_idx)
        is_fitting = self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING
        is_provisional = is_fitting and bool(self.unmet_requirement)
        for rows, labels in self._parts(x, target, num_rows):
            with explained(self, rows):
                predictive = (
                    self.provisional_predictive(rows)
                    if is_provisional
                    else self.predictive_distribution(rows, self.num_mc_samples_test, self.noise.seed)
                )
                predictive.keep()
                predictive = predictive.followed(labels)
                inputs = predictive.metric_inputs(labels) | uncertainty_inputs(predictive.prediction())
            update(metrics, inputs, self.likelihood.observed(labels))
        scores.log(self, metrics)

    def add_metrics_for(self, target: Tensor) -> None:
        """Adds the metrics of segmentations to the validation and test metrics if targets are maps of classes.

        Args:
            target: Targets of a batch, shape [B, ...].
        """
        is_map = self.likelihood.task == "classification" and target.dim() > 2
        if is_map and not self.likelihood.is_multi_label and "miou" not in self.test_metrics.keys(keep_base=True):
            for metrics in (self.val_metrics, self.test_metrics):
                metrics.add_metrics(segmentation_metrics(num_classes=self.likelihood.num_predictions).to(self.device))

    def _labeled(self, batch: Any) -> tuple[NetworkInput, Tensor, Tensor | None]:
        """Input and target of a labeled batch, as the network takes them, and the weights of its rows."""
        x, target = split_labeled_batch(batch)
        return *network_batch(x, target, self), sample_weight(batch)

    def _parts(self, x: NetworkInput, target: Tensor, num_rows: int) -> Iterator[tuple[NetworkInput, Tensor]]:
        """The first rows of a batch in parts that bound the memory, which metrics would fill with all samples."""
        per_row = self.num_mc_samples_test * self.likelihood.num_outputs * max(target[:1].numel(), 1)
        size = num_fitting(memory.MAX_SCORED_NUMBERS, per_row)
        if any(len(tensor) != len(target) for tensor in tensors(x)) or len(target) == num_rows <= size:
            yield x, target
            return
        for first in range(0, num_rows, size):
            rows = slice(first, min(first + size, num_rows))
            yield map_tensors(lambda tensor: tensor[rows], x), target[rows]  # noqa: B023
