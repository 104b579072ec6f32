"""The demonstration: tables, files, and no other output."""

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from rich.console import Console

from lightning_vi.demo import run_demo
from lightning_vi.demo.fitting import build_method, fit_method, one_thread, quiet
from lightning_vi.demo.problems import PROBLEMS, Fit, Problem

# Drawing takes most of the time, so only the first method and the first with a calibration are run.
SHORT_PROBLEMS = [
    replace(problem, fits=(problem.fits[0], next(fit for fit in problem.fits if fit.calibrations)))
    for problem in PROBLEMS
]
MEAN_VARIANCE = ["mean_variance_estimation", "mean_variance_estimation_variance_scaling"]
FOLDERS = {
    "toy": ["last_layer_vi", *MEAN_VARIANCE],
    "diabetes": ["last_layer_vi", *MEAN_VARIANCE],
    "digits": ["last_layer_vi", "deterministic", "deterministic_temperature_scaling"],
}
NUM_TEST = {"toy": 100, "diabetes": 88, "digits": 359}
each_folder = pytest.mark.parametrize(
    ("problem", "method"), [(name, method) for name, methods in FOLDERS.items() for method in methods]
)
each_fit = pytest.mark.parametrize(
    ("problem", "fit"),
    [
        pytest.param(problem, fit, id=f"{problem.name}-{fit.method.__name__}")
        for problem in PROBLEMS
        for fit in problem.fits
    ],
)


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
    methods = [fit.method for fit in problem.fits]
    assert len(set(methods)) == len(methods)


@each_fit
def test_each_fit_can_be_built_and_starts_at_the_same_weights(problem: Problem, fit: Fit) -> None:
    data = problem.data()
    torch.manual_seed(1)
    first = build_method(problem, fit, data)
    state = torch.manual_seed(2).get_state()
    second = build_method(problem, fit, data)
    assert torch.equal(torch.get_rng_state(), state)
    weights = [torch.cat([p.flatten() for p in method.parameters()]) for method in (first, second)]
    assert torch.equal(*weights)


def test_one_table_for_each_problem(run: Run) -> None:
    assert all(run.printed.count(problem.title) == 1 for problem in PROBLEMS)
    headings = [line.strip("┃").split("┃") for line in run.printed.splitlines() if line.startswith("┃ Method")]
    regression = ["Method", "RMSE", "NLL", "CRPS", "Coverage (95%)", "Seconds"]
    classification = ["Method", "Accuracy", "NLL", "Brier", "ECE", "Seconds"]
    assert [[cell.strip() for cell in cells] for cells in headings] == [regression, regression, classification]


def test_tables_and_file_have_the_same_numbers(run: Run) -> None:
    for problem in PROBLEMS:
        scores = pd.read_csv(run.folder / problem.name / "scores.csv", index_col="method")
        table = run.printed[run.printed.index(problem.title) :]
        for method, row in scores.iterrows():
            label = str(method)[str(method).find("+") :] if "+" in str(method) else method
            line = next(line for line in table.splitlines() if line.startswith(f"│ {label} "))
            cells = [cell.strip() for cell in line.strip("│").split("│")]
            assert cells[1:-1] == [f"{row[key]:.3f}" for key in problem.scores]
            assert float(cells[-1]) == pytest.approx(row["seconds"], abs=0.051)


def test_each_fit_has_a_progress_bar(run: Run) -> None:
    for problem in SHORT_PROBLEMS:
        for fit in problem.fits:
            line = next(
                line for line in run.printed.splitlines() if line.startswith(f"{problem.name}: {fit.method.__name__}")
            )
            assert "2/2" in line


def test_the_output_names_the_folder(run: Run) -> None:
    assert str(run.folder) in "".join(run.printed.splitlines()[-2:])


@each_folder
def test_predictions_are_written(problem: str, method: str, run: Run) -> None:
    table = pd.read_csv(run.folder / problem / method / "predictions.csv")
    assert len(table) == NUM_TEST[problem]
    assert table.notna().all(axis=None)


@each_folder
def test_figures_are_written(problem: str, method: str, run: Run) -> None:
    figures = {path.stem: path for path in (run.folder / problem / method).glob("*.png")}
    names = {
        "toy": {"predictions", "calibration", "objective"},
        "diabetes": {"calibration", "objective"},
        "digits": {"reliability", "objective"},
    }
    assert figures.keys() == names[problem] - ({"objective"} if method.endswith("scaling") else set())
    for path in figures.values():
        with Image.open(path) as image:
            assert min(image.size) > 400
            assert len(image.convert("L").getcolors() or []) > 10


def test_there_is_no_output_except_on_the_console(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    problem = replace(PROBLEMS[1], fits=PROBLEMS[1].fits[:1], figures=lambda fitted: {})
    run_demo(tmp_path, quick=True, problems=[problem], console=Console(file=StringIO()))
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_a_second_run_writes_the_same_predictions(tmp_path: Path) -> None:
    problem = replace(PROBLEMS[1], fits=PROBLEMS[1].fits[:1], figures=lambda fitted: {})
    contents = []
    for _ in range(2):
        run_demo(tmp_path, quick=True, problems=[problem], console=Console(file=StringIO()))
        contents.append((tmp_path / "diabetes" / "last_layer_vi" / "predictions.csv").read_text())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("context", [quiet, one_thread])
def test_settings_of_the_process_are_restored(context: Callable[[], object]) -> None:
    def settings() -> tuple[int, int]:
        return logging.getLogger("lightning.pytorch").level, torch.get_num_threads()

    before = settings()
    with pytest.raises(RuntimeError), context():
        raise RuntimeError
    assert settings() == before


def test_other_warnings_are_not_hidden() -> None:
    with quiet(), pytest.warns(UserWarning, match="of the user"):
        warnings.warn("of the user", UserWarning, stacklevel=1)


@pytest.mark.slow
@pytest.mark.parametrize("fit", PROBLEMS[1].fits, ids=lambda fit: fit.method.__name__)
def test_each_method_predicts_diabetes_well(fit: Fit, tmp_path: Path) -> None:
    problem = PROBLEMS[1]
    with quiet():
        scores = fit_method(problem, fit, problem.data(), tmp_path, lambda: None).scores
    assert scores["rmse"] < 56
    assert 0.88 < scores["coverage"] < 0.99


@pytest.mark.slow
def test_the_first_method_classifies_digits_well(tmp_path: Path) -> None:
    problem = PROBLEMS[2]
    with quiet():
        scores = fit_method(problem, problem.fits[0], problem.data(), tmp_path, lambda: None).scores
    assert scores["accuracy"] >= 0.96
    assert scores["ece"] < 0.04
