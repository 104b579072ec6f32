"""Every tutorial runs from top to bottom and leaves its figures."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "tutorials"
OF_PROBLEMS = sorted(set(FOLDER.glob("*.py")) - {FOLDER / "mean_field_vi.py"})
BY_DEFAULT = "heat2d"


def num_figures(folder: Path) -> int:
    return len([figure for figure in folder.glob("*.png") if figure.stat().st_size > 10_000])


def test_tutorial_runs_as_a_script(tmp_path: Path) -> None:
    environment = os.environ | {"MAX_EPOCHS": "2", "OUTPUT_DIR": str(tmp_path)}
    command = [sys.executable, FOLDER / "mean_field_vi.py"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert num_figures(tmp_path) >= 5


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem == BY_DEFAULT else pytest.mark.thorough) for path in OF_PROBLEMS],
    ids=lambda path: path.stem,
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_tutorial_of_a_problem_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MAX_EPOCHS": "2", "OUTPUT_DIR": str(tmp_path), "PL_GLOBAL_SEED": "0"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PL_SEED_WORKERS", "0")
    runpy.run_path(str(path), run_name="__main__")
    assert num_figures(tmp_path) >= 2
