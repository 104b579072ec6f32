"""One run of a comparison: a fit, its scores and its costs."""

import copy
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_vi.compare.costs import count_operations, num_parameters
from lightning_vi.compare.entries import Entry
from lightning_vi.compare.environment import current_environment
from lightning_vi.compare.problem import Problem
from lightning_vi.compare.shift_protocol import ShiftProtocol, detection_directions, detection_row
from lightning_vi.compare.store import Run
from lightning_vi.core import Predictor
from lightning_vi.core.batch import split_batch, to_device
from lightning_vi.core.checkpoints import check_file
from lightning_vi.datamodules.calibration import LOADERS
from lightning_vi.errors import InputValueError
from lightning_vi.evaluation.collecting import collect
from lightning_vi.evaluation.scores import datum_scores
from lightning_vi.methods import CalibratedMethod

QUIET: Mapping[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
}
DEVICE = ("accelerator", "strategy", "devices", "precision")
COSTS = ("train_seconds", "seconds_per_1000", "passes", "num_parameters")
COST_DIRECTIONS = dict.fromkeys(COSTS, False)
OOD_BY_DEFAULT = {"entropy": "pred_uct", "mutual_information": "epistemic_uct"}
"""Scores of out-of-distribution data that every comparison has, and the uncertainties that they are."""


@dataclass(frozen=True)
class Fitted:
    """A fitted method.

    Attributes:
        method: The method, with its calibrations.
        trainer: Its Trainer.
        plain: The network before the fit.
        seconds: Duration of the fit.
    """

    method: Predictor
    trainer: Trainer
    plain: torch.nn.Module
    seconds: float = 0.0


@dataclass
class Job:
    """One method, trained once.

    Attributes:
        entry: The method.
        problem: What all methods have in common.
        datamodule: The data.
        data: Name of the data set.
        seed: Seed of the initial weights and of all noise.
        checkpoint: File for the fitted method; None for none.
    """

    entry: Entry
    problem: Problem
    datamodule: LightningDataModule
    data: str
    seed: int
    checkpoint: Path | None = None
    _fitted: Fitted | None = None

    def run(self) -> Run:
        """Trains and scores the method. The global random state stays as it was.

        Returns:
            The run; if it raised an error, the run has its message and no rows.
        """

        def train_and_score(folder: str) -> tuple[list[dict[str, Any]], dict[str, bool]]:
            self._fitted = _fit(self.entry, self.problem, self.datamodule, folder)
            if self.checkpoint is not None:
                self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
                self._fitted.trainer.save_checkpoint(self.checkpoint, weights_only=True)
            return _score(self._fitted, self.problem, self.datamodule, self.entry.name, self.seed)

        return self._guarded(train_and_score)

    def run_shifts(self, protocol: ShiftProtocol) -> Run:
        """Scores the method on shifted images, after `run` or from the file of the checkpoint.

        Args:
            protocol: The shifts and the scores.

        Returns:
            The run, as that of `run`.
        """

        def score(folder: str) -> tuple[list[dict[str, Any]], dict[str, bool]]:
            if self._fitted is None:
                self._fitted = _loaded(self.entry, self.problem, self.datamodule, self.checkpoint, folder)
            method, trainer = self._fitted.method, self._fitted.trainer
            ood = self.problem.ood_loaders(self.datamodule)
            return protocol.rows(method, trainer, self.datamodule, ood), protocol.directions

        return self._guarded(score)

    def _guarded(self, body: Callable[[str], tuple[list[dict[str, Any]], dict[str, bool]]]) -> Run:
        start = time.perf_counter()
        try:
            with isolate_rng(), quiet(), tempfile.TemporaryDirectory() as folder:
                seed_all(self.seed)
                rows, directions = body(folder)
                environment = self._environment()
        except Exception as error:
            message = " ".join(f"{type(error).__name__}: {error}".split())
            return Run(self.data, self.entry.name, self.seed, seconds=time.perf_counter() - start, error=message)
        seconds = time.perf_counter() - start
        return Run(self.data, self.entry.name, self.seed, rows, directions, seconds, environment=environment)

    def _environment(self) -> dict[str, str]:
        return {} if self._fitted is None else current_environment(self._fitted.trainer.strategy.root_device)


def seed_all(seed: int) -> None:
    """Seeds the global random states.

    Args:
        seed: The seed.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    torch.manual_seed(seed)


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the log messages and the warnings of Lightning."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    try:
        logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            yield
    finally:
        logger.setLevel(level)


def make_trainer(arguments: Mapping[str, Any], folder: str) -> Trainer:
    """Makes a Trainer that prints nothing.

    Validation is off unless callbacks or `limit_val_batches` are given.

    Args:
        arguments: Arguments of the `Trainer`; callbacks and loggers are copied.
        folder: Folder for checkpoints.

    Returns:
        The Trainer.
    """
    given = {name: copy.deepcopy(value) for name, value in arguments.items()}
    own = given.pop("callbacks", None) or []
    own = own if isinstance(own, list) else [own]
    validates = bool(own) or "limit_val_batches" in given
    defaults = {
        **QUIET,
        "enable_checkpointing": any(isinstance(each, Checkpoint) for each in own),
        "default_root_dir": folder,
        **({} if validates else {"limit_val_batches": 0}),
    }
    return Trainer(**{**defaults, **given}, callbacks=own)


def _fit(entry: Entry, problem: Problem, datamodule: LightningDataModule, folder: str) -> Fitted:
    network, likelihood = problem.make_backbone(datamodule), problem.make_likelihood(datamodule)
    plain = copy.deepcopy(network)
    method = entry.build(network, likelihood)
    trainer = make_trainer(problem.trainer, folder)
    start = time.perf_counter()
    trainer.fit(method, datamodule)
    if trainer.interrupted:
        raise KeyboardInterrupt
    _load_best(trainer, method)
    for calibration in entry.calibrations:
        method, trainer = _calibrated(calibration(method), datamodule, problem.trainer, folder)
    return Fitted(method, trainer, plain, time.perf_counter() - start)


def _loaded(
    entry: Entry, problem: Problem, datamodule: LightningDataModule, checkpoint: Path | None, folder: str
) -> Fitted:
    """The method of a checkpoint."""
    if checkpoint is None:
        raise InputValueError(f"{entry.name} has no checkpoint: call run first")
    network, likelihood = problem.make_backbone(datamodule), problem.make_likelihood(datamodule)
    plain = copy.deepcopy(network)
    method = entry.build(network, likelihood)
    for calibration in entry.calibrations:
        method = calibration(method)
    content = check_file(checkpoint, "checkpoint")
    method.on_load_checkpoint(content)
    method.load_state_dict(content["state_dict"])
    datamodule.prepare_data()
    datamodule.setup("fit")
    return Fitted(method, make_trainer({"max_epochs": 1} | _device(problem.trainer), folder), plain)


def _score(
    fitted: Fitted, problem: Problem, datamodule: LightningDataModule, name: str, seed: int
) -> tuple[list[dict[str, Any]], dict[str, bool]]:
    method, trainer = fitted.method, fitted.trainer
    method.test_metrics.add_metrics({name: copy.deepcopy(metric) for name, metric in problem.metrics.items()})

    rows: list[dict[str, Any]] = []
    scores_in: dict[str, Tensor] = {}
    datamodule.setup("test")
    for test_set, loader in problem.test_loaders(datamodule).items():
        (scores,) = trainer.test(method, loader, verbose=False)
        uncertainty, predict_seconds = _uncertainties(method, loader)
        scores_in = scores_in or uncertainty
        rows.append(
            {
                "test_set": test_set,
                **{key.removeprefix("test_"): value for key, value in scores.items()},
                **_mean_uncertainties(uncertainty),
                "seconds_per_1000": predict_seconds,
            }
        )
    for test_set, loader in problem.ood_loaders(datamodule).items():
        uncertainty, predict_seconds = _uncertainties(method, loader)
        detected = _detection(scores_in, uncertainty)
        rows.append(
            {"test_set": test_set, **detected, **_mean_uncertainties(uncertainty), "seconds_per_1000": predict_seconds}
        )
    rows[0] |= {key: float(measure(method, datamodule)) for key, measure in problem.measures.items()}
    costs = {
        "train_seconds": fitted.seconds,
        "num_parameters": num_parameters(method),
        "passes": _passes(method, fitted.plain, datamodule.test_dataloader()),
    }
    if problem.visit is not None:
        problem.visit(name, seed, method, datamodule)
    return [row | costs for row in rows], _directions(method) | COST_DIRECTIONS | detection_directions(OOD_BY_DEFAULT)


def _load_best(trainer: Trainer, method: Predictor) -> None:
    """Loads the best weights if a checkpoint callback has monitored a metric."""
    checkpoint = trainer.checkpoint_callback
    path = getattr(checkpoint, "best_model_path", "")
    if path and getattr(checkpoint, "monitor", None):
        method.load_state_dict(torch.load(path, weights_only=True)["state_dict"])


def _calibrated(
    method: CalibratedMethod, datamodule: LightningDataModule, trainer_arguments: Mapping[str, Any], folder: str
) -> tuple[Predictor, Trainer]:
    name = LOADERS[method.calibration_rows]
    loader = getattr(datamodule, name, None)
    if loader is None:
        raise InputValueError(f"{type(datamodule).__name__} has no {name}, which a calibration needs")
    trainer = make_trainer({"max_epochs": 1} | _device(trainer_arguments), folder)
    trainer.fit(method, loader())
    return method, trainer


def _device(trainer_arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in trainer_arguments.items() if name in DEVICE}


def _uncertainties(method: Predictor, loader: Iterable[Any]) -> tuple[dict[str, Tensor], float]:
    """Returns the uncertainty of each datum by its name, each [N], and the seconds for 1000 predictions."""
    names = ("pred_uct", "epistemic_uct", "aleatoric_uct")

    def read(prediction: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, ...]:  # noqa: ARG001
        return tuple(datum_scores(name, prediction, method.likelihood) for name in names)

    start = time.perf_counter()
    columns = collect(method, loader, read, name="test set", trainer=None)  # copies to the CPU, so that a GPU is done
    seconds = time.perf_counter() - start
    return dict(zip(names, columns, strict=True)), 1000 * seconds / len(columns[0])


def _mean_uncertainties(uncertainty: Mapping[str, Tensor]) -> dict[str, float]:
    return {f"mean_{name}": float(values.double().mean()) for name, values in uncertainty.items()}


def _detection(scores_in: Mapping[str, Tensor], scores_out: Mapping[str, Tensor]) -> dict[str, float]:
    found: dict[str, float] = {}
    for score, key in OOD_BY_DEFAULT.items():
        found |= detection_row(score, scores_in[key], scores_out[key])
    return found


def _passes(method: Predictor, plain: torch.nn.Module, loader: Iterable[Any]) -> float:
    """Operations of a prediction over those of one pass of the plain network; NaN if they cannot be counted."""
    try:
        x = split_batch(to_device(method, next(iter(loader))))[0]
        plain.to(method.device).eval()
        inputs = x if isinstance(x, tuple | list) else (x,)
        one = count_operations(lambda: plain(*inputs))
        return count_operations(lambda: method.predict(x)) / one if one else float("nan")
    except Exception:
        return float("nan")


def _directions(method: Predictor) -> dict[str, bool]:
    """Maps the metrics that have a direction to True if a higher score is better."""
    metrics = {name.removeprefix("test_"): metric for name, metric in method.test_metrics.items()}
    return {
        name: bool(metric.higher_is_better)
        for name, metric in metrics.items()
        if getattr(metric, "higher_is_better", None) is not None
    }
