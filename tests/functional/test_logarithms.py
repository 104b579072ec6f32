"""Sums of logarithms."""

import pytest
import torch
from torch.testing import assert_close

from lightning_vi.functional import sum_of_logs


@pytest.mark.parametrize("size", [1, 7, 5000, 20_003])
@pytest.mark.parametrize(
    ("low", "high"), [(-3, -2), (-5, 0), (-2, 1.9), (-9, -7), (-15, 3), (-30, -1), (-2, 20), (-37, -36)]
)
def test_sum_of_logs_equals_that_in_double_precision(low: float, high: float, size: int) -> None:
    """Also where products of four or eight numbers leave the range of single precision."""
    torch.manual_seed(0)
    values = 10 ** (low + (high - low) * torch.rand(size))
    assert_close(sum_of_logs([values], values.max()).double(), values.double().log().sum(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("odd", [0.0, float("nan"), float("inf"), -1.0])
def test_numbers_without_a_logarithm_are_not_hidden(odd: float) -> None:
    values = torch.full((20_000,), 0.5)
    values[[17, 18]] = odd
    assert not sum_of_logs([values], values.max()).isfinite()
