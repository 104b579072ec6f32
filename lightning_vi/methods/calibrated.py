"""What methods share that calibrate the predictions of another method after its training."""

import copy
import pickle
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_vi.likelihoods import Likelihood, Prediction, Task
from lightning_vi.methods.base import UQMethod
from lightning_vi.methods.batch import split_labelled_batch
from lightning_vi.methods.fitted import NotFittedError
from lightning_vi.methods.optimizers import default_optimizer
from lightning_vi.noise import private_random_state
from lightning_vi.objectives import ObjectiveTerms, count_training_data
from lightning_vi.sampling import NetworkInput, map_tensors


class CalibratedMethod(UQMethod):
    """A trained method, and a few numbers that change its predictions, measured on calibration data.

    ``Trainer.fit(calibrated, datamodule.calibration_dataloader())`` goes over the data once an epoch and calibrates at
    the end of it, before the epoch's validation and checkpoint; so does `calibrate` without a Trainer. Nothing of the
    method is trained. Validations before that score the method's own predictions. The method may be calibrated itself.

    A subclass says which `task` it serves, and fills in `scores`, `use_scores` and `calibrated`.

    Args:
        method: The trained method; it is copied.
        method_checkpoint: A Lightning checkpoint with the method's weights, if it does not have them yet.

    Raises:
        TypeError: If `method` is no method, or its likelihood is of the other task.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is not one of this method.
    """

    task: Task
    other_task_advice: str
    is_calibrated: Tensor

    def __init__(self, method: UQMethod, *, method_checkpoint: str | None = None) -> None:
        if not isinstance(method, UQMethod):
            raise TypeError(f"method must be a method of lightning_vi, got a {type(method).__name__}")
        self.check_likelihood(method.likelihood)
        method = copy.deepcopy(method)
        if method_checkpoint is not None:
            _load_weights(method, Path(method_checkpoint))
        super().__init__(
            method.backbone,
            method.likelihood,
            num_mc_samples_test=method.num_mc_samples_test,
            burnin_epochs=0,
            optimizer=default_optimizer,
            lr_scheduler=None,
        )
        self.hparams["method_checkpoint"] = None  # a checkpoint of this method has the weights itself
        self.automatic_optimization = False
        self.method = method
        self.likelihood, self.noise = method.likelihood, method.noise
        self.register_buffer("is_calibrated", torch.tensor(False))
        self._collected: list[Tensor] = []
        self._num_calibration_data: int | None = None

    @classmethod
    def check_likelihood(cls, likelihood: Likelihood) -> None:
        """Refuses a likelihood whose predictions cannot be calibrated this way.

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
    def scores(self, x: NetworkInput, prediction: Prediction, target: Tensor) -> Tensor:
        """What calibration needs to know of a batch.

        Args:
            x: Input, each tensor of shape [B, ...].
            prediction: The method's own prediction.
            target: Targets, shape [B, ...].

        Returns:
            Shape [B, ...].
        """

    @abstractmethod
    def use_scores(self, scores: Tensor) -> None:
        """Puts into buffers what the scores of all calibration data say.

        Args:
            scores: Shape [N, ...], N at least 1.
        """

    @abstractmethod
    def calibrated(self, x: NetworkInput, prediction: Prediction) -> Prediction:
        """The calibrated prediction.

        Args:
            x: Input, each tensor of shape [B, ...].
            prediction: The method's own prediction.

        Returns:
            The changed prediction.
        """

    def calibrated_metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:
        """What metrics need of the calibrated predictive distribution; by default the method's own, with its additions.

        Args:
            x: Input, each tensor of shape [B, ...].
            target: Targets, shape [B, ...].

        Returns:
            See `Likelihood.metric_inputs`; and `lower`, `upper` and `pred_set`, where the prediction has them.
        """
        prediction = self.predict(x)
        additions = {name: getattr(prediction, name) for name in ("lower", "upper", "pred_set")}
        known = {name: value for name, value in additions.items() if value is not None}
        return self.method._metric_inputs(x, target) | known

    def logged_calibration(self) -> dict[str, Tensor]:
        """Scalars that a fit logs, by name; none by default."""
        return {}

    @property
    def num_data(self) -> int | None:
        """Size of the method's training set, None where it is not known."""
        return self.method.num_data

    def require_calibrated(self) -> None:
        """Refuses to go on before the method is calibrated.

        Raises:
            NotFittedError: If it is not.
        """
        if not self.is_calibrated:
            raise NotFittedError(
                f"{type(self).__name__} cannot predict before it is calibrated: run "
                "Trainer.fit(method, datamodule.calibration_dataloader()), or call calibrate(dataloader)"
            )

    @torch.no_grad()
    def calibrate(self, data: Iterable[Any]) -> None:
        """Calibrates without a Trainer. The method, its mode and the global random state stay as they are.

        Args:
            data: Calibration data in labelled batches, such as a dataloader; none of them was trained on.

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
            inputs, target = split_labelled_batch(batch)
            x = map_tensors(lambda tensor: tensor.to(self.device), inputs)
            yield self._batch_scores(x, target.to(self.device))

    def _batch_scores(self, x: NetworkInput, target: Tensor) -> Tensor:
        prediction = self.method.predict(x)
        check_target(prediction, target)
        self.likelihood.check_values(target)
        scores = self.scores(x, prediction, target)
        return scores.to(torch.promote_types(scores.dtype, torch.float32))

    def _finish(self, batches: list[Tensor]) -> None:
        if sum(map(len, batches)) == 0:
            raise ValueError("there are no data to calibrate on")
        scores = torch.cat(batches)
        missing = int(scores.isnan().flatten(1).any(1).sum()) if scores.dim() > 1 else int(scores.isnan().sum())
        if missing:
            raise ValueError(f"the predictions of {missing} of {len(scores)} calibration data are NaN")
        self.use_scores(scores)
        self.is_calibrated.fill_(True)

    def trained_network(self) -> nn.Module:  # noqa: D102
        return self.method.trained_network()

    def point_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return self.method.point_outputs(x)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        return self.method.sampled_outputs(x, num_samples, seed)

    def sample_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.method.sample_moments(outputs)

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        return self.method.objective(x, target, num_data=num_data, kl_weight=kl_weight)

    def elbo(self, x: NetworkInput, y: Tensor, *, num_data: int | None = None) -> ObjectiveTerms:  # noqa: D102
        return self.method.elbo(x, y, num_data=num_data)

    def _predict(self, x: NetworkInput, num_samples: int, seed: int, return_samples: bool) -> Prediction:
        self.require_calibrated()
        prediction = self.calibrated(x, self.method.predict(x, num_samples, seed, return_samples))
        return replace(prediction, metadata=prediction.metadata | {"method": type(self).__name__})

    def _metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:
        if not self.is_calibrated and self.trainer.state.fn == TrainerFn.FITTING:
            return self.method._metric_inputs(x, target)
        self.require_calibrated()
        return self.calibrated_metric_inputs(x, target)

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
        if "_instantiator" in self.hparams and self.num_data is None:
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
        """Forgets the scores of an epoch that was broken off."""
        self._collected = []

    def training_step(self, batch: Any, batch_idx: int = 0) -> None:  # type: ignore[override]  # noqa: ARG002
        """Collects the scores of a batch."""
        with torch.no_grad():
            self._collected.append(self._batch_scores(*split_labelled_batch(batch)))
        optimizer: Any = self.optimizers()
        optimizer.step()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Calibrates after the last batch of an epoch."""
        if self.trainer.is_last_batch:
            self._finish_epoch()

    def on_train_epoch_end(self) -> None:
        """Calibrates on what there is, where an epoch was cut short."""
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
        # The sampler has dealt out the first data once more, so that all processes get as many.
        return [torch.stack(ranks, dim=1).flatten(0, 1)[: total - surplus]]

    def configure_optimizers(self) -> Optimizer:
        """An optimizer of nothing, whose steps a Trainer counts."""
        nothing = torch.zeros(1, device=self.device)
        nothing.grad = torch.zeros_like(nothing)
        return torch.optim.SGD([nothing], lr=0.0)


def check_target(prediction: Prediction, target: Tensor) -> None:
    """Refuses targets that do not belong to a prediction.

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


def _load_weights(method: UQMethod, path: Path) -> None:
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
