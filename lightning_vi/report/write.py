"""Writes a report on a fitted method."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lightning_vi.core import Predictor
from lightning_vi.errors import InputTypeError, InputValueError, NotFittedError
from lightning_vi.report.calibrations import find_calibrations
from lightning_vi.report.facts import Facts
from lightning_vi.report.loaders import test_loaders, treated_as_in_fit
from lightning_vi.report.page import page
from lightning_vi.report.scoring import score
from lightning_vi.report.sections import SECTIONS


def write_report(
    method: Predictor,
    datamodule: LightningDataModule,
    path: str | Path,
    *,
    log_folder: str | Path | None = None,
    checkpoint: str | Path | None = None,
    title: str | None = None,
    progress: bool = True,
) -> Path:
    """Writes a report on a fitted method: one HTML file that works offline.

    It has the data, the curves of the training, scores of each test set with bootstrap confidence intervals,
    calibration before and after, selective prediction, the least and the most certain rows, the modules and options of
    the method, and the diagnostics of its posterior. Sections that do not apply are left out. The network runs once
    over each test set, and twice over the calibration rows.

    Args:
        method: A fitted method, calibration or ensemble; it is not changed.
        datamodule: Its data, with test data. Calibration rows, or else validation rows, serve to show what a
            calibration would change; test rows never do.
        path: The file, whose folder must exist; an existing file is replaced.
        log_folder: Folder of the fit's `metrics.csv`; None leaves out the training curves.
        checkpoint: Name of the checkpoint in the headline.
        title: Title of the page; None names the method and the data.
        progress: Whether to show the progress on standard error.

    Returns:
        The path of the file.

    Raises:
        FileNotFoundError: If the folder does not exist.
        IsADirectoryError: If the path is a folder.
        NotFittedError: If the method is not fitted.
        TypeError: If an argument has the wrong type.
        ValueError: If there are no test data, or they have no targets.

    Example:
        >>> import tempfile
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.datamodules import ToyHeteroscedasticDataModule
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = MeanFieldVI(MLP(1, [8], 2), HeteroscedasticGaussian())
        >>> method.is_trained = True  # as it is after a fit
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     data = ToyHeteroscedasticDataModule(n_points=60)
        ...     written = write_report(method, data, f"{folder}/report.html", progress=False)
        ...     written.read_text().startswith("<!DOCTYPE html>")
        True
    """
    path = check_path(path)
    _check(method, datamodule)
    with _steps(progress) as step, treated_as_in_fit(datamodule, method):
        datamodule.prepare_data()
        datamodule.setup("test")
        loaders = test_loaders(datamodule)
        step("fitting a calibration", 1)()
        calibrations = find_calibrations(method, datamodule)
        scored = {
            name: score(name, calibrations.base, calibrations.fitted, loader, step(f"scoring {name}", _length(loader)))
            for name, loader in loaders.items()
        }
        facts = Facts(
            method,
            datamodule,
            calibrations,
            scored,
            None if log_folder is None else Path(log_folder),
            None if checkpoint is None else Path(checkpoint),
        )
        advance = step("writing", len(SECTIONS))
        sections = []
        for make in SECTIONS:
            sections.append(make(facts))
            advance()
        text = page(facts, [section for section in sections if section is not None], title)
    path.write_text(text, encoding="utf-8")
    return path


def check_path(path: str | Path) -> Path:
    """Checks that a report can be written to a path, before anything is computed.

    Args:
        path: The path.

    Returns:
        The path.

    Raises:
        FileNotFoundError: If its folder does not exist.
        ValueError: If it is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise InputValueError(f"the output must be a file such as {path / 'report.html'}, but {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} of the output {path} does not exist: create it first")
    return path


def _check(method: Predictor, datamodule: LightningDataModule) -> None:
    if not isinstance(method, Predictor):
        raise InputTypeError(f"method must be a method of lightning_vi, got a {type(method).__name__}")
    if not isinstance(datamodule, LightningDataModule):
        raise InputTypeError(f"datamodule must be a LightningDataModule, got a {type(datamodule).__name__}")
    method.require_fitted()
    if not method.is_trained:
        raise NotFittedError(
            f"a report needs a trained {type(method).__name__}: fit it first, or load a checkpoint; if its network was "
            "trained in another way, set method.is_trained = True"
        )


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


@contextmanager
def _steps(is_shown: bool) -> Iterator[Callable[[str, int | None], Callable[[], None]]]:
    """Yields a function that starts a bar, and returns the one that advances it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not is_shown) as bar:

        def step(description: str, total: int | None) -> Callable[[], None]:
            task = bar.add_task(description, total=total)
            return lambda: bar.advance(task)

        yield step
