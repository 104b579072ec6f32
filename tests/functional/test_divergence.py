"""The Gaussian divergence against torch.distributions and finite differences."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Normal, kl_divergence

from lightning_vi.functional import gaussian_kl

PRIORS = {
    "numbers": (0.7, 1.9),
    "scalar tensors": (torch.tensor(-0.4).double(), torch.tensor(0.3).double()),
    "tensor mean": (torch.linspace(-2, 1, 6).double().view(2, 3), 1.9),
    "tensor std": (0.7, torch.linspace(0.2, 3, 6).double().view(2, 3)),
    "both, broadcast": (torch.linspace(-2, 1, 3).double(), torch.linspace(0.2, 3, 2).double().view(2, 1)),
}


@pytest.fixture(params=PRIORS.values(), ids=PRIORS)
def prior(request: pytest.FixtureRequest) -> tuple[Tensor | float, Tensor | float]:
    return request.param


def posterior() -> tuple[Tensor, Tensor]:
    mean = torch.randn(2, 3, dtype=torch.float64)
    std = torch.rand(2, 3, dtype=torch.float64) + 0.2
    return mean.requires_grad_(), std.requires_grad_()


def test_sum_over_elements_matches_torch_distributions(prior: tuple[Tensor | float, Tensor | float]) -> None:
    mean, std = posterior()
    expected = kl_divergence(Normal(mean, std), Normal(*map(torch.as_tensor, prior))).sum()
    torch.testing.assert_close(gaussian_kl(mean, std, *prior), expected)


def test_gradients_match_finite_differences(prior: tuple[Tensor | float, Tensor | float]) -> None:
    assert gradcheck(lambda mean, std: 1.7 * gaussian_kl(mean, std, *prior), posterior())


def test_gradients_match_autograd_through_torch_distributions() -> None:
    mean, std = posterior()
    ours = torch.autograd.grad(gaussian_kl(mean, std, 0.7, 1.9), (mean, std))
    theirs = torch.autograd.grad(kl_divergence(Normal(mean, std), Normal(0.7, 1.9)).sum(), (mean, std))
    torch.testing.assert_close(ours, theirs)


def test_second_derivatives_are_right_or_raise(prior: tuple[Tensor | float, Tensor | float]) -> None:
    try:
        right = gradgradcheck(lambda mean, std: gaussian_kl(mean, std, *prior), posterior())
    except RuntimeError as error:
        assert "once_differentiable" in str(error)  # noqa: PT017
    else:
        assert right


def test_zero_for_equal_posterior_and_prior() -> None:
    value = gaussian_kl(torch.full((5,), 0.3).double(), torch.full((5,), 1.7).double(), 0.3, 1.7)
    torch.testing.assert_close(value, torch.zeros(()).double())


@given(mean=st.floats(-5, 5), std=st.floats(0.01, 5), prior_mean=st.floats(-5, 5), prior_std=st.floats(0.01, 5))
@settings(max_examples=50, deadline=None)
def test_never_negative_and_exact_at_any_scale(mean: float, std: float, prior_mean: float, prior_std: float) -> None:
    q_mean, q_std, p_mean, p_std = torch.tensor([[mean], [std], [prior_mean], [prior_std]]).double()
    value = gaussian_kl(q_mean, q_std, float(p_mean), float(p_std))
    assert value >= -1e-9
    torch.testing.assert_close(value, kl_divergence(Normal(q_mean, q_std), Normal(p_mean, p_std)).sum())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_reduced_precision_is_summed_in_float32(dtype: torch.dtype) -> None:
    mean, std = torch.full((100_000,), 0.5, dtype=dtype), torch.full((100_000,), 0.25, dtype=dtype)
    expected = kl_divergence(Normal(torch.tensor(0.5).double(), 0.25), Normal(0.0, 1.0)) * 100_000
    value = gaussian_kl(mean, std)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=0)
