"""Settings of every test: one thread, and one random state to start from; and a tally of the cases that were tried."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=20240607, help="global seed that every test starts from")


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> Iterator[None]:
    """Starts each test from one random state, whatever ran before it."""
    state = torch.get_rng_state()
    torch.manual_seed(request.config.getoption("seed"))
    yield
    torch.set_rng_state(state)


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Adds counts to the tables of `docs/reliability.md`: ``tally("threads", "SWAG", tried=200, right=200)``.

    They are appended to the file that the variable LIGHTNING_VI_TALLY names, if it is set, as
    `benchmarks/reliability.py` does.
    """

    def record(kind: str, case: str, *, tried: int, right: int) -> None:
        if path := os.environ.get("LIGHTNING_VI_TALLY"):
            row = {"kind": kind, "case": case, "tried": tried, "right": right, "test": request.node.nodeid}
            with Path(path).open("a") as file:
                file.write(json.dumps(row) + "\n")

    return record


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the console script until it exits with a status, and returns what it prints."""
    from command_line import run_command_line

    def run(*args: str, status: int = 0) -> str:
        with pytest.raises(SystemExit) as stop:
            run_command_line(monkeypatch, *args)
        assert stop.value.code == status
        captured = capsys.readouterr()
        return captured.out if status == 0 else captured.err

    return run
