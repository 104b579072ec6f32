"""The demonstration: tables, files, and no other output."""

import logging
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from lightning_vi.compare.entries import method_names
from lightning_vi.demo import run_demo
from lightning_vi.demo.problems import PROBLEMS, Problem
from lightning_vi.demo.run import one_thread


class ShortProblem(Problem):
    """A problem with two methods, because drawing takes most of the time."""

    def methods(self, *, every: bool) -> list[str]:
        return ["LastLayerVI", *self.calibrated]


SHORT_PROBLEMS = [ShortProblem(**vars(problem)) for problem in (PROBLEMS[0], PROBLEMS[2])]
FIGURES = {
    "toy": {"predictions", "observed", "calibration", "pit", "error", "selective"},
    "digits": {"reliability", "error", "selective"},
}


@dataclass(frozen=True)
class Run:
    folder: Path
    printed: str


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder, text = tmp_path_factory.mktemp("demo") / "outputs", StringIO()
    run_demo(folder, quick=True, problems=SHORT_PROBLEMS, console=Console(file=text, width=120))
    return Run(folder, text.getvalue())


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_a_problem_lists_each_method_once(problem: Problem) -> None:
    headlines, every = problem.methods(every=False), problem.methods(every=True)
    assert len(set(every)) == len(every)
    assert set(headlines) < set(every)
    assert set(every) <= {*method_names(), *problem.calibrated}


def test_one_table_for_each_problem(run: Run) -> None:
    assert all(run.printed.count(problem.title) == 1 for problem in SHORT_PROBLEMS)
    headings = [line.strip("┃").split("┃") for line in run.printed.splitlines() if line.startswith("┃ Method")]
    regression = ["Method", "RMSE", "NLL", "CRPS", "Coverage (95%)", "Seconds"]
    classification = ["Method", "Accuracy", "NLL", "Brier", "ECE", "Seconds"]
    assert [[cell.strip() for cell in cells] for cells in headings] == [regression, classification]


def test_tables_and_file_have_the_same_numbers(run: Run) -> None:
    for problem in SHORT_PROBLEMS:
        scores = pd.read_csv(run.folder / problem.name / "quick" / "comparison.csv", index_col="method")
        table = run.printed[run.printed.index(problem.title) :]
        for method, row in scores.iterrows():
            line = next(line for line in table.splitlines() if line.startswith(f"│ {method} "))
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            assert cells[1:-1] == [f"{row[key]:.3f}" for key in problem.scores]
            assert float(cells[-1]) == pytest.approx(row["train_seconds"], abs=0.051)


def test_each_method_has_its_figures(run: Run) -> None:
    for problem in SHORT_PROBLEMS:
        for method in problem.methods(every=False):
            paths = list((run.folder / problem.name / method).glob("*.png"))
            assert {path.stem for path in paths} == FIGURES[problem.name]
            for path in paths:
                with Image.open(path) as image:
                    image.verify()


def test_a_second_call_repeats_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise AssertionError("a finished run was repeated")

    monkeypatch.setattr("lightning_vi.compare.api.Job.run", fail)
    text = StringIO()
    run_demo(run.folder, quick=True, problems=SHORT_PROBLEMS, console=Console(file=text, width=120))
    assert all(problem.title in text.getvalue() for problem in SHORT_PROBLEMS)


def test_a_failure_is_a_row_of_the_table(tmp_path: Path) -> None:
    problem = replace(SHORT_PROBLEMS[0], calibrated=("Deterministic + TemperatureScaling",))
    text = StringIO()
    run_demo(tmp_path, quick=True, problems=[problem], console=Console(file=text, width=200))
    assert "InputTypeError" in text.getvalue()


def test_lightning_is_quiet_and_its_settings_stay(run: Run) -> None:
    assert "GPU" not in run.printed
    assert logging.getLogger("lightning.pytorch").level != logging.ERROR


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
