"""Fits and calibrates one method of the demonstration, without output."""

import logging
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger

from lightning_vi.backbones import MLP
from lightning_vi.callbacks import PredictionWriter
from lightning_vi.core import Predictor, UQMethod
from lightning_vi.datamodules import ArrayDataModule
from lightning_vi.demo.figures import FittedMethod
from lightning_vi.demo.problems import Fit, Problem
from lightning_vi.methods import CalibratedMethod

SEED = 0
EPOCHS_PER_VALIDATION = 5


class EpochCounter(Callback):
    """Calls a function after every training epoch.

    Args:
        report: Called after each epoch.
    """

    def __init__(self, report: Callable[[], None]) -> None:
        self.report = report

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Reports one epoch."""
        self.report()


def build_method(problem: Problem, fit: Fit, data: ArrayDataModule) -> UQMethod:
    """Builds a method with a network for the problem. Networks of the same shape start at the same weights.

    Args:
        problem: The problem.
        fit: The method and its options.
        data: The problem's data.

    Returns:
        The unfitted method.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        likelihood = fit.likelihood()
        adam: dict[str, Any] = (
            {} if fit.own_optimizer else {"optimizer": partial(torch.optim.Adam, lr=problem.learning_rate)}
        )
        return fit.method(
            MLP(data.n_inputs, problem.n_hidden, likelihood.num_outputs),
            likelihood,
            **adam,
            **fit.options,
        )


def fit_method(
    problem: Problem, fit: Fit, data: ArrayDataModule, folder: Path, report_epoch: Callable[[], None]
) -> FittedMethod:
    """Fits a method, scores it on the test data and writes its log and predictions.

    Args:
        problem: The problem.
        fit: The method and its options.
        data: The problem's data.
        folder: Folder for the log and the predictions.
        report_epoch: Called after each epoch.

    Returns:
        The fitted method with its scores and predictions.
    """
    method = build_method(problem, fit, data)
    trainer = _trainer(folder, problem.epochs, EpochCounter(report_epoch))
    start = time.perf_counter()
    trainer.fit(method, data)
    return _evaluated(method, data, trainer, time.perf_counter() - start, folder)


def calibrate_method(fitted: FittedMethod, calibration: type[CalibratedMethod], folder: Path) -> FittedMethod:
    """Calibrates a fitted method on the calibration data.

    Args:
        fitted: The method.
        calibration: The class of the calibration.
        folder: Folder for the log and the predictions.

    Returns:
        The fitted method with its scores and predictions.
    """
    method = calibration(fitted.method)
    trainer = _trainer(folder, 1)
    start = time.perf_counter()
    trainer.fit(method, fitted.data.calibration_dataloader())
    return _evaluated(method, fitted.data, trainer, time.perf_counter() - start, folder)


def _trainer(folder: Path, epochs: int, *callbacks: Callback) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=CSVLogger(folder, name="", version=""),
        callbacks=[*callbacks, PredictionWriter(folder)],
        check_val_every_n_epoch=min(EPOCHS_PER_VALIDATION, epochs),
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )


def _evaluated(
    method: Predictor, data: ArrayDataModule, trainer: Trainer, seconds: float, folder: Path
) -> FittedMethod:
    (scores,) = trainer.test(method, data, verbose=False)
    batches = trainer.predict(method, data) or []
    return FittedMethod(
        method,
        data,
        prediction={key: torch.cat([batch[key] for batch in batches]) for key in batches[0]},
        scores={key.removeprefix("test_"): value for key, value in scores.items()},
        seconds=seconds,
        folder=folder,
    )


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


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits PyTorch to one thread, which is faster than several for networks this small."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
