"""Settings of every test: one thread, and one random state to start from."""

from collections.abc import Iterator

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
