"""Checks of arguments."""

import itertools

import pytest
import torch

from lightning_vi.arguments import all_finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_all_finite_against_the_elements(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    for values in itertools.product([1.0, largest, -largest, torch.inf, -torch.inf, torch.nan], repeat=3):
        tensor = torch.tensor(values, dtype=dtype)
        assert all_finite(tensor) == bool(tensor.isfinite().all())
    assert all_finite(torch.empty(0, 3, dtype=dtype))
    assert all_finite(torch.tensor([2**62, 2**62, 2**62]))
