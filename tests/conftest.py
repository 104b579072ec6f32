"""What every test runs under."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Each test starts from one random state, whatever ran before it."""
    state = torch.get_rng_state()
    torch.manual_seed(20240607)
    yield
    torch.set_rng_state(state)
