"""Special functions against scipy and torch.distributions."""

from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.functional import inverse_softplus
from lightning_vi.functional.special import (
    log_softmax,
    negative_binomial_cdf,
    negative_binomial_log_prob,
    poisson_cdf,
    student_t_cdf,
)

COUNTS = torch.tensor([0.0, 1.0, 2.0, 7.0, 40.0, 300.0], dtype=torch.float64)
MEANS = torch.tensor([0.01, 0.7, 5.0, 55.0, 280.0], dtype=torch.float64)[:, None]


def close(ours: Tensor, exact: Any, absolute: float) -> None:
    assert_close(ours.double(), torch.as_tensor(exact, dtype=torch.float64), rtol=absolute, atol=absolute)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-9)])
def test_student_t_cdf(dtype: torch.dtype, tolerance: float) -> None:
    value = torch.tensor([-40.0, -3.0, -1.0, -0.01, 0.0, 0.3, 2.0, 9.0], dtype=dtype)
    df = torch.tensor([2.0, 2.5, 5.0, 30.0, 1e4], dtype=dtype)[:, None]
    close(student_t_cdf(value, df), scipy.stats.t.cdf(value.double(), df.double()), tolerance)


@pytest.mark.parametrize("dispersion", [1e-6, 0.05, 1.0, 20.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-5), (torch.float64, 1e-8)])
def test_negative_binomial(dispersion: float, dtype: torch.dtype, tolerance: float) -> None:
    alpha = torch.tensor(dispersion, dtype=dtype)
    exact = scipy.stats.nbinom(1 / dispersion, 1 / (1 + dispersion * MEANS.numpy()))
    close(negative_binomial_cdf(COUNTS.to(dtype), MEANS.to(dtype), alpha), exact.cdf(COUNTS), tolerance)
    log_prob = negative_binomial_log_prob(COUNTS.to(dtype), MEANS.to(dtype), alpha)
    close(log_prob.exp(), exact.pmf(COUNTS), tolerance)
    torch_prob = torch.distributions.NegativeBinomial(1 / alpha.double(), logits=(alpha * MEANS).log()).log_prob(COUNTS)
    if dispersion > 1e-3:  # torch loses digits below
        assert_close(log_prob.double(), torch_prob, rtol=100 * tolerance, atol=100 * tolerance)


def test_poisson_cdf_and_the_limit_of_zero_dispersion() -> None:
    exact = scipy.stats.poisson.cdf(COUNTS, MEANS)
    close(poisson_cdf(COUNTS, MEANS), exact, 1e-9)
    close(negative_binomial_cdf(COUNTS, MEANS, torch.tensor(1e-10).double()), exact, 1e-6)
    assert (poisson_cdf(torch.tensor([-1.0]), torch.tensor(2.0)) == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softplus_of_its_inverse(dtype: torch.dtype) -> None:
    value = torch.tensor([1e-12, 1e-3, 0.5, 1.0, 30.0, 1e4], dtype=dtype)
    assert_close(torch.nn.functional.softplus(inverse_softplus(value)), value, rtol=1e-5, atol=0)


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 3, 15), (2, 3, 16), (2, 0, 3)])
def test_log_softmax_is_that_of_torch(shape: tuple[int, ...]) -> None:
    logits = (30 * torch.randn(shape, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(shape, dtype=torch.float64)
    result, expected = log_softmax(logits), torch.log_softmax(logits, -1)
    assert_close(result, expected)
    assert_close(
        torch.autograd.grad((weight * result).sum(), logits), torch.autograd.grad((weight * expected).sum(), logits)
    )
