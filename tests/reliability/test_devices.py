"""Everything runs on an accelerator and gives the numbers of the CPU, in a process of its own.

The accelerator is a simulated one, and the one of the machine where there is one.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerators import available

TESTS = Path(__file__).parents[1]


def run(*options: str) -> dict[str, str]:
    """Results by case: empty if it passed."""
    command = [sys.executable, "-W", "ignore", str(TESTS / "reliability" / "on_device.py"), *options]
    path = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "methods")))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=3000, env=environment)
    assert done.stdout.startswith("{"), done.stdout[-2000:] + done.stderr[-4000:]
    results: dict[str, str] = json.loads(done.stdout)
    return results


def check(results: dict[str, str], tally: Callable[..., None]) -> None:
    kinds: dict[str, list[bool]] = {}
    for case, error in results.items():
        kinds.setdefault(case.partition(": ")[0], []).append(not error)
    for kind, passed in kinds.items():
        tally("devices", kind, tried=len(passed), right=sum(passed))
    failed = {case: error for case, error in results.items() if error}
    assert not failed, "\n".join(f"{case}: {error}" for case, error in failed.items())
    assert len(kinds) > 5


@pytest.mark.parametrize("device", available())
def test_a_device_gives_the_numbers_of_the_cpu(tally: Callable[..., None], device: str) -> None:
    check(run(device), tally)


@pytest.mark.thorough
@pytest.mark.parametrize("device", available())
def test_every_case_on_a_device(tally: Callable[..., None], device: str) -> None:
    check(run(device, "--all"), tally)
