"""Runs the demonstration and prints its tables."""

import csv
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from lightning_vi.demo.figures import FittedMethod
from lightning_vi.demo.fitting import calibrate_method, fit_method, one_thread, quiet
from lightning_vi.demo.problems import PROBLEMS, Problem

QUICK_EPOCHS = 2


def run_demo(
    output_dir: str | Path = "outputs",
    *,
    quick: bool = False,
    problems: Sequence[Problem] = PROBLEMS,
    console: Console | None = None,
) -> None:
    """Fits the methods of each problem, prints a table per problem, and writes predictions and figures.

    Each problem has a folder in `output_dir`, with `scores.csv` and a folder per method. The latter holds the training
    log `metrics.csv`, the predictions for the test data `predictions.csv`, and the figures as PNG files.

    Args:
        output_dir: Folder for the files. Existing files of the same names are replaced.
        quick: If True, train for two epochs only, as a smoke test.
        problems: The problems to run.
        console: Console for the tables. Default: standard output.
    """
    console = Console() if console is None else console
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    for problem in problems:
        fitted = _run(problem.shortened(QUICK_EPOCHS) if quick else problem, output_dir / problem.name, console)
        console.print(_table(problem, fitted), "")
    console.print(f"Predictions and figures: {output_dir}/{{{','.join(problem.name for problem in problems)}}}/")


def _run(problem: Problem, folder: Path, console: Console) -> list[FittedMethod]:
    data = problem.data()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    fitted = []
    with quiet(), one_thread(), Progress(*columns, console=console) as progress:
        for fit in problem.fits:
            name = fit.method.__name__
            task = progress.add_task(f"{problem.name}: {name}", total=problem.epochs)
            result = fit_method(problem, fit, data, folder / _snake_case(name), partial(progress.advance, task))
            fitted.append(_with_figures(problem, result))
            for calibration in fit.calibrations:
                calibration_folder = folder / f"{_snake_case(name)}_{_snake_case(calibration.__name__)}"
                fitted.append(_with_figures(problem, calibrate_method(result, calibration, calibration_folder)))
    _write_scores(folder / "scores.csv", fitted)
    return fitted


def _with_figures(problem: Problem, result: FittedMethod) -> FittedMethod:
    for title, figure in problem.figures(result).items():
        figure.savefig(result.folder / f"{title}.png", dpi=150)
    return result


def _table(problem: Problem, fitted: Sequence[FittedMethod]) -> Table:
    table = Table(title=problem.title, title_justify="left", caption=problem.note, caption_justify="left")
    table.add_column("Method")
    for heading in (*problem.scores.values(), "Seconds"):
        table.add_column(heading, justify="right")
    for result in fitted:
        scores = (f"{result.scores[key]:.3f}" for key in problem.scores)
        table.add_row(result.label, *scores, f"{result.seconds:.1f}")
    return table


def _write_scores(path: Path, fitted: Sequence[FittedMethod]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["method", *fitted[0].scores, "seconds"])
        writer.writerows([result.name, *result.scores.values(), result.seconds] for result in fitted)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
