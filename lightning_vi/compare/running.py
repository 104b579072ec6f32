"""One run of a comparison: a fit, its scores and its costs."""

import copy
import logging
import random
import tempfile
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor

from lightning_vi.compare.costs import count_operations, num_parameters
from lightning_vi.compare.entries import Entry
from lightning_vi.compare.problem import Problem
from lightning_vi.compare.store import Run
from lightning_vi.core import Predictor
from lightning_vi.core.batch import split_batch, to_device
from lightning_vi.datamodules.calibration import LOADERS
from lightning_vi.errors import InputValueError
from lightning_vi.evaluation.collecting import collect
from lightning_vi.evaluation.scores import datum_scores
from lightning_vi.functional.selective import auroc, false_positive_rate
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
OOD_DIRECTIONS = {
    "ood_auroc": True,
    "ood_fpr95": False,
    "ood_auroc_epistemic": True,
    "ood_fpr95_epistemic": False,
}


def run_entry(
    entry: Entry,
    problem: Problem,
    datamodule: LightningDataModule,
    data: str,
    seed: int,
) -> Run:
    """Trains and scores one method. The global random state stays as it was.

    Args:
        entry: The method.
        problem: What all methods have in common.
        datamodule: The data.
        data: Name of the data set.
        seed: Seed of the initial weights and of all noise.

    Returns:
        The run; if it raised an error, the run has its message and no rows.
    """
    start = time.perf_counter()
    try:
        with isolate_rng(), quiet(), tempfile.TemporaryDirectory() as folder:
            seed_all(seed)
            rows, directions = _fit_and_score(entry, problem, datamodule, seed, folder)
    except Exception as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        return Run(data, entry.name, seed, seconds=time.perf_counter() - start, error=message)
    return Run(data, entry.name, seed, rows, directions, time.perf_counter() - start)


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


def _fit_and_score(
    entry: Entry,
    problem: Problem,
    datamodule: LightningDataModule,
    seed: int,
    folder: str,
) -> tuple[list[dict[str, Any]], dict[str, bool]]:
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
    seconds = time.perf_counter() - start
    method.test_metrics.add_metrics({name: copy.deepcopy(metric) for name, metric in problem.metrics.items()})

    rows: list[dict[str, Any]] = []
    scores_in: dict[str, Tensor] = {}
    datamodule.setup("test")
    for name, loader in problem.test_loaders(datamodule).items():
        (scores,) = trainer.test(method, loader, verbose=False)
        uncertainty, predict_seconds = _uncertainties(method, loader)
        scores_in = scores_in or uncertainty
        rows.append(
            {
                "test_set": name,
                **{key.removeprefix("test_"): value for key, value in scores.items()},
                **_mean_uncertainties(uncertainty),
                "seconds_per_1000": predict_seconds,
            }
        )
    for name, loader in problem.ood_loaders(datamodule).items():
        uncertainty, predict_seconds = _uncertainties(method, loader)
        detected = _detection(scores_in, uncertainty)
        rows.append(
            {"test_set": name, **detected, **_mean_uncertainties(uncertainty), "seconds_per_1000": predict_seconds}
        )
    rows[0] |= {name: float(measure(method, datamodule)) for name, measure in problem.measures.items()}
    costs = {
        "train_seconds": seconds,
        "num_parameters": num_parameters(method),
        "passes": _passes(method, plain, datamodule.test_dataloader()),
    }
    if problem.visit is not None:
        problem.visit(entry.name, seed, method, datamodule)
    return [row | costs for row in rows], _directions(method) | COST_DIRECTIONS | OOD_DIRECTIONS


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
    device = {name: value for name, value in trainer_arguments.items() if name in DEVICE}
    trainer = make_trainer({"max_epochs": 1} | device, folder)
    trainer.fit(method, loader())
    return method, trainer


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
    found = {}
    for score, suffix in (("pred_uct", ""), ("epistemic_uct", "_epistemic")):
        pair = scores_in[score].double(), scores_out[score].double()
        found[f"ood_auroc{suffix}"] = float(auroc(*pair))
        found[f"ood_fpr95{suffix}"] = float(false_positive_rate(*pair))
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
