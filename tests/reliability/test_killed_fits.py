"""Fits that are killed at random moments go on from their last checkpoint as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import killed_fit
import pytest
import torch
from helpers import copy_of_state, same_state

SCRIPT = Path(killed_fit.__file__)


def kill_a_fit(name: str, folder: Path, num_files: int, delay: float) -> None:
    """Starts a fit in a new process and kills it some time after it has begun to write a number of checkpoints."""
    root = SCRIPT.parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(folder), name],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline and len(list(folder.glob("*"))) < num_files:
            time.sleep(0.001)
        time.sleep(delay)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def step_of(path: Path) -> int:
    return int(path.stem.partition("=")[2])


@pytest.mark.parametrize(
    ("name", "num_kills"),
    [("SWAG", 1), *(pytest.param(name, 15, marks=pytest.mark.thorough) for name in killed_fit.MAKERS)],
)
def test_a_killed_fit_goes_on(name: str, num_kills: int, tmp_path: Path, tally: Callable[..., None]) -> None:
    """Every file that has a checkpoint's name is complete, and the last one leads to the unbroken fit."""
    draw, num_right = random.Random(6), 0
    expected = copy_of_state(killed_fit.run(name))
    for index in range(num_kills):
        folder = tmp_path / str(index)
        folder.mkdir()
        kill_a_fit(name, folder, draw.randrange(2, 30), 0.02 * draw.random())
        files = sorted(folder.glob("*.ckpt"), key=step_of)
        last = torch.load(files[-1], weights_only=True)["global_step"]
        resumed = killed_fit.run(name, path=files[-1])
        num_right += last == step_of(files[-1]) and same_state(copy_of_state(resumed), expected)
    tally("crashes", name, tried=num_kills, right=num_right)
    assert num_right == num_kills
