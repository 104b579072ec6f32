"""Inverse of the softplus."""

import pytest
import torch

from lightning_vi.functional import put_inverse_softplus


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("largest", [1e-6, 0.01, 0.0999, 3.0, 200.0])
def test_it_agrees_with_the_formula(dtype: torch.dtype, largest: float) -> None:
    std = torch.logspace(-8, 0, 500, dtype=torch.float64) * largest
    expected = std + torch.log(-torch.expm1(-std))
    rho = torch.empty(500, dtype=dtype)
    put_inverse_softplus(rho, std.to(dtype))
    torch.testing.assert_close(rho.double(), expected, rtol=3e-7 if dtype == torch.float32 else 1e-12, atol=1e-6)


def test_nan_stays_nan() -> None:
    rho = torch.empty(2)
    put_inverse_softplus(rho, torch.tensor([float("nan"), 0.01]))
    assert rho.isnan().tolist() == [True, False]
