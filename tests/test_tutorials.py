"""Every tutorial runs from top to bottom and leaves its figures."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).parent.parent / "tutorials").glob("*.py"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, tmp_path: Path) -> None:
    environment = os.environ | {"MAX_EPOCHS": "2", "OUTPUT_DIR": str(tmp_path)}
    finished = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    drawn = [figure for figure in tmp_path.glob("*.png") if figure.stat().st_size > 10_000]
    assert len(drawn) >= 5
