"""Checkpoints with flipped bits, and truncated ones, are refused or read as they were written."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from checkpoint_files import load, predictions, write_checkpoint

from lightning_vi.core.checkpoints import digest
from lightning_vi.errors import InputError


def is_safe(data: bytes, path: Path, expected: dict[str, list[float]]) -> tuple[bool, bool]:
    """Loads a damaged file, and tells whether that was refused, and whether a wrong prediction was avoided."""
    path.write_bytes(data)
    try:
        found = predictions(load(path))
    except InputError:
        return True, True
    except Exception:
        return True, False
    return False, found == expected


@pytest.mark.parametrize("num_flips", [60, pytest.param(1800, marks=pytest.mark.thorough)])
def test_flipped_bits(num_flips: int, tmp_path: Path, tally: Callable[..., None]) -> None:
    """Any other error than that of the input would be a failure too."""
    path, draw = tmp_path / "method.ckpt", random.Random(4)
    expected = predictions(write_checkpoint(path))
    data, num_right, num_refused = path.read_bytes(), 0, 0
    for _ in range(num_flips):
        damaged, place = bytearray(data), draw.randrange(len(data))
        damaged[place] ^= 1 << draw.randrange(8)
        was_refused, was_right = is_safe(bytes(damaged), path, expected)
        num_refused, num_right = num_refused + was_refused, num_right + was_right
    tally("flipped bits", "load_from_checkpoint", tried=num_flips, right=num_right)
    assert num_right == num_flips
    assert num_refused > num_flips / 5


@pytest.mark.parametrize("num_cuts", [20, pytest.param(400, marks=pytest.mark.thorough)])
def test_truncated_files(num_cuts: int, tmp_path: Path, tally: Callable[..., None]) -> None:
    path, draw = tmp_path / "method.ckpt", random.Random(5)
    expected = predictions(write_checkpoint(path))
    data = path.read_bytes()
    results = [is_safe(data[: draw.randrange(len(data))], path, expected) for _ in range(num_cuts)]
    tally("truncated files", "load_from_checkpoint", tried=num_cuts, right=sum(right for _, right in results))
    assert results == [(True, True)] * num_cuts


def test_an_entry_that_contains_itself_is_refused() -> None:
    entry: list[object] = [1]
    entry.append({"again": entry})
    with pytest.raises(InputError, match="an entry contains itself"):
        digest(entry)
