"""Base class of calibrations: predictors that hold a fitted method."""

import copy
import pickle
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_vi.core.batch import split_labeled_batch
from lightning_vi.core.predictive import Predictive, TransformedPredictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.likelihoods import Likelihood, Prediction, Task
from lightning_vi.noise import NoiseStream, private_random_state
from lightning_vi.objectives import count_training_data
from lightning_vi.sampling import NetworkInput, evaluating, map_tensors


class CalibratedMethod(Predictor):
    """Base class of calibrations: a fitted method, and a few numbers from calibration data that change its predictions.

    ``Trainer.fit(calibrated, datamodule.calibration_dataloader())`` goes over the data once an epoch and calibrates at
    the end of it, before the epoch's validation and checkpoint; so does `calibrate` without a Trainer. The method is
    not trained. Earlier validations score the method's own predictions. The method may be a calibration itself.

    A subclass names its `task` and fills in `scores`, `use_scores` and either `calibrated` or `make_calibrated`.

    Args:
        method: The fitted method; it is copied.
        method_checkpoint: A Lightning checkpoint with the method's weights, unless it has them already.

    Raises:
        TypeError: If `method` is no method, or its likelihood is of the other task.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is not one of this method.
    """

    task: Task
    other_task_advice: str
    is_calibrated: Tensor

    def __init__(self, method: Predictor, *, method_checkpoint: str | None = None) -> None:
        if not isinstance(method, Predictor):
            raise TypeError(f"method must be a method of lightning_vi, got a {type(method).__name__}")
        self.check_likelihood(method.likelihood)
        method = copy.deepcopy(method)
        if method_checkpoint is not None:
            _load_weights(method, Path(method_checkpoint))
        super().__init__(method.likelihood, num_mc_samples_test=method.num_mc_samples_test)
        self.hparams["method_checkpoint"] = None  # a checkpoint of the calibration has the weights itself
        self.automatic_optimization = False
        self.method = method
        self.register_buffer("is_calibrated", torch.tensor(False))
        self._collected: list[Tensor] = []
        self._num_calibration_data: int | None = None

    @classmethod
    def check_likelihood(cls, likelihood: Likelihood) -> None:
        """Raises an error if predictions under a likelihood cannot be calibrated this way.

        Args:
            likelihood: The method's likelihood.

        Raises:
            TypeError: If it is of another task.
        """
        if likelihood.task != cls.task:
            raise TypeError(
                f"{cls.__name__} is for {cls.task}, but {type(likelihood).__name__} is for {likelihood.task}: use "
                f"{cls.other_task_advice}"
            )

    @abstractmethod
    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:
        """Computes the calibration scores of a batch.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ...].

        Returns:
            Shape [B, ...].
        """

    @abstractmethod
    def use_scores(self, scores: Tensor) -> None:
        """Calibrates on the scores of all calibration data; the result goes into buffers.

        Args:
            scores: Shape [N, ...], N at least 1.
        """

    def calibrated(self, x: NetworkInput, prediction: Prediction) -> Prediction:  # noqa: ARG002
        """Calibrates a prediction.

        Args:
            x: Input, each tensor of shape [B, ...].
            prediction: The method's prediction.

        Returns:
            The changed prediction; the same by default.
        """
        return prediction

    def make_calibrated(self, x: NetworkInput, predictive: Predictive) -> Predictive:
        """Makes the calibrated predictive distribution; by default the method's own, with a `calibrated` prediction.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.

        Returns:
            The calibrated one.
        """
        return TransformedPredictive(predictive, lambda prediction: self.calibrated(x, prediction))

    def logged_calibration(self) -> dict[str, Tensor]:
        """Returns scalars that a fit logs, by name; none by default."""
        return {}

    @property
    def likelihood(self) -> Likelihood:  # type: ignore[override]
        """The method's observation model."""
        return self.method.likelihood

    @property
    def noise(self) -> NoiseStream:  # type: ignore[override]
        """The method's source of noise."""
        return self.method.noise

    @property
    def is_trained(self) -> bool:  # noqa: D102
        return self.method.is_trained

    def trained_networks(self) -> list[nn.Module]:  # noqa: D102
        return self.method.trained_networks()

    def forward(self, x: NetworkInput) -> Tensor:
        """Computes the method's outputs without sampling.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        return self.method(x)  # type: ignore[no-any-return]

    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:  # noqa: D102
        return self.make_calibrated(x, self.method.predictive_distribution(x, num_samples, seed))

    @property
    def unmet_requirement(self) -> str:  # noqa: D102
        if self.is_calibrated:
            return ""
        return "calibrated: run Trainer.fit(method, datamodule.calibration_dataloader()), or call calibrate(dataloader)"

    def provisional_predictive(self, x: NetworkInput) -> Predictive:  # noqa: D102
        return self.method.predictive_distribution(x, self.num_mc_samples_test, self.noise.seed)

    @torch.no_grad()
    def calibrate(self, data: Iterable[Any]) -> None:
        """Calibrates without a Trainer. The method, its mode and the global random state stay as they are.

        Args:
            data: Calibration data in labeled batches, such as a dataloader; the method must not be trained on them.

        Raises:
            ValueError: If there are no data, or a score is not a number.
            TypeError: If `data` is not iterable, or a batch has no targets.
        """
        if not isinstance(data, Iterable):
            raise TypeError(
                "data must be a dataloader, such as datamodule.calibration_dataloader(), or a list of batches, "
                f"got a {type(data).__name__}"
            )
        with private_random_state(self.noise.seed, self.device):
            scores = list(self._scores_of(data))
        self._finish(scores)

    def _scores_of(self, data: Iterable[Any]) -> Iterator[Tensor]:
        for batch in data:
            inputs, target = split_labeled_batch(batch)
            x = map_tensors(lambda tensor: tensor.to(self.device), inputs)
            yield self._batch_scores(x, target.to(self.device))

    def _batch_scores(self, x: NetworkInput, target: Tensor) -> Tensor:
        with evaluating(self):
            predictive = self.method.predictive_distribution(x, self.method.num_mc_samples_test, self.noise.seed)
            scores = self.scores(x, predictive, target)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def checked_prediction(self, predictive: Predictive, target: Tensor) -> Prediction:
        """Returns the method's prediction after a check of the targets, for `scores`.

        Args:
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ...].

        Returns:
            The prediction.

        Raises:
            ValueError: If the shape or a value of the targets does not fit.
            TypeError: If their type does not fit.
        """
        prediction = predictive.prediction()
        check_target(prediction, target)
        self.likelihood.check_values(target)
        return prediction

    def _finish(self, batches: list[Tensor]) -> None:
        if sum(map(len, batches)) == 0:
            raise ValueError("there are no data to calibrate on")
        scores = torch.cat(batches)
        missing = int(scores.isnan().flatten(1).any(1).sum()) if scores.dim() > 1 else int(scores.isnan().sum())
        if missing:
            raise ValueError(f"the predictions of {missing} of {len(scores)} calibration data are NaN")
        self.use_scores(scores)
        self.is_calibrated.fill_(True)

    def on_fit_start(self) -> None:
        """Refuses data that the method may have been trained on.

        Raises:
            ValueError: If the data are a datamodule's training data, or there are none.
        """
        source = self.trainer.fit_loop._data_source.instance
        if isinstance(source, LightningDataModule) and not getattr(source, "gives_calibration_data", False):
            raise ValueError(
                f"{type(self).__name__} would calibrate on the training data of {type(source).__name__}; give "
                "Trainer.fit datamodule.calibration_dataloader() or CalibrationDataModule(datamodule) instead (in a "
                "configuration file, `class_path: CalibrationDataModule` with the datamodule as its argument `data`)"
            )
        if "_instantiator" in self.hparams and not self.is_trained:
            rank_zero_warn(
                f"{type(self.method).__name__} is calibrated, but it has not been trained: give the checkpoint of its "
                "fit as method_checkpoint"
            )
        self.trainer.fit_loop.setup_data()
        size = count_training_data(self.trainer.train_dataloader)
        if size == 0:
            raise ValueError("the calibration set is empty")
        self._num_calibration_data = size

    def on_train_epoch_start(self) -> None:
        """Discards the scores of an interrupted epoch."""
        self._collected = []

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
        if self.trainer.is_last_batch:
            self._finish_epoch()

    def on_train_epoch_end(self) -> None:
        """Calibrates on the scores so far if an epoch was cut short."""
        if self._collected:
            self._finish_epoch()
        self.log_dict(self.logged_calibration(), sync_dist=True)

    @torch.no_grad()
    def _finish_epoch(self) -> None:
        scores, self._collected = self._collected, []
        self._finish(self._gather(scores))

    def _gather(self, batches: list[Tensor]) -> list[Tensor]:
        """The scores of all processes, in the order in which a distributed sampler deals out the data."""
        if self.trainer.world_size == 1:
            return batches
        gathered: list[Tensor] = [torch.empty(0)] * self.trainer.world_size
        torch.distributed.all_gather_object(gathered, torch.cat(batches).cpu())
        ranks = [scores.to(self.device) for scores in gathered]
        total = sum(map(len, ranks))
        surplus = 0 if self._num_calibration_data is None else total - self._num_calibration_data
        if len({len(scores) for scores in ranks}) > 1 or not 0 < surplus < len(ranks):
            return ranks
        # The sampler has repeated the first data, so that all processes get the same number.
        return [torch.stack(ranks, dim=1).flatten(0, 1)[: total - surplus]]

    def configure_optimizers(self) -> list[Any]:
        """Returns no optimizers."""
        return []


def check_target(prediction: Prediction, target: Tensor) -> None:
    """Raises an error if targets do not belong to a prediction.

    Args:
        prediction: The prediction.
        target: Targets, shape [B, ..., D], or labels [B, ...].

    Raises:
        ValueError: If the shape does not fit.
        TypeError: If the type does not fit.
    """
    is_regression = prediction.probs is None
    shape = prediction.mean.shape if is_regression else prediction.mean[:, 0].shape
    if target.shape != shape:
        raise ValueError(f"the predictions need targets of shape {tuple(shape)}, got {tuple(target.shape)}")
    if target.is_floating_point() != is_regression:
        wanted = "floating-point targets" if is_regression else "integer labels"
        raise TypeError(f"the predictions need {wanted}, got {target.dtype}")


def _load_weights(method: Predictor, path: Path) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"method_checkpoint must be the file of a Lightning checkpoint, got {str(path)!r}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        raise ValueError(
            f"method_checkpoint={str(path)!r} is no checkpoint that torch.load(..., weights_only=True) can read"
        ) from None
    if not isinstance(checkpoint, Mapping) or "state_dict" not in checkpoint:
        raise ValueError(f"method_checkpoint={str(path)!r} is no Lightning checkpoint: it has no 'state_dict'")
    try:
        method.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(
            f"method_checkpoint={str(path)!r} is not a checkpoint of this {type(method).__name__}: {error}"
        ) from None
