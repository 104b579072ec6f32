"""CRPS of mixtures over a wide range of scales, against closed forms and finer quadrature."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_vi.functional.mixture import Mixture, mixture_crps
from lightning_vi.functional.scoring import gaussian_mixture_crps
from lightning_vi.functional.special import student_t_cdf
from lightning_vi.likelihoods import NegativeBinomial

SEEDS = st.integers(0, 10_000)


def locations(seed: int, num_components: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(num_components, 4, 1, generator=generator, dtype=torch.float64)
    return means.to(dtype), (2 * torch.randn(4, 1, generator=generator, dtype=torch.float64)).to(dtype)


@given(seed=SEEDS, num_components=st.sampled_from([1, 2, 5, 20]), log_std=st.floats(-3, 1))
@settings(max_examples=30, deadline=None, derandomize=True)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_components_of_any_width_agree_with_the_closed_form(
    dtype: torch.dtype, seed: int, num_components: int, log_std: float
) -> None:
    means, target = locations(seed, num_components, dtype)
    stds = torch.full_like(means, 10**log_std)
    exact = gaussian_mixture_crps(means.double(), stds.double(), target.double())
    score = mixture_crps(Mixture(torch.distributions.Normal(means, stds).cdf, means, stds), target)
    torch.testing.assert_close(score.double(), exact, rtol=1e-4 if dtype == torch.float64 else 2e-4, atol=0)


def student_t_crps(locations: Tensor, scale: float, df: float, target: Tensor) -> Tensor:
    """Trapezoidal rule on points that are dense near every component and the target."""
    reach = torch.logspace(-3, 5, 1500, dtype=torch.float64)
    offsets = torch.cat([-reach.flip(0), torch.zeros(1, dtype=torch.float64), reach]) * scale
    scores = []
    for column, y in zip(locations[..., 0].T.double(), target[:, 0].double(), strict=True):
        points = torch.cat([(column[:, None] + offsets).flatten(), y.view(1)]).sort().values
        cdf = student_t_cdf((points - column[:, None]) / scale, torch.tensor(df, dtype=torch.float64)).mean(0)
        below, above = cdf.square(), (1 - cdf).square()
        is_below, width = points[1:] <= y, points.diff()
        scores.append((torch.where(is_below, below[1:] + below[:-1], above[1:] + above[:-1]) * width / 2).sum())
    return torch.stack(scores).view_as(target)


@given(
    seed=SEEDS, num_components=st.sampled_from([1, 2, 5]), log_scale=st.floats(-3, 0), df=st.sampled_from([2.1, 5.0])
)
@settings(max_examples=10, deadline=None, derandomize=True)
def test_narrow_student_t_components_agree_with_a_finer_integral(
    seed: int, num_components: int, log_scale: float, df: float
) -> None:
    means, target = locations(seed, num_components, torch.float32)
    scale = 10**log_scale
    stds = torch.full_like(means, scale * math.sqrt(df / (df - 2)))
    mixture = Mixture(lambda y: student_t_cdf((y - means) / scale, torch.tensor(df)), means, stds)
    exact = student_t_crps(means, scale, df, target)
    torch.testing.assert_close(mixture_crps(mixture, target).double(), exact, rtol=2e-4, atol=0)


@pytest.mark.parametrize("dispersion", [0.1, 2.0, 10.0, 50.0])
@pytest.mark.parametrize("mean", [0.1, 3.0, 50.0, 2000.0])
def test_negative_binomial_scores_are_sums(mean: float, dispersion: float) -> None:
    likelihood = NegativeBinomial(dispersion=dispersion)
    mixture = likelihood.mixture(torch.full((1, 5, 1), math.log(mean)))
    target = (mean * torch.tensor([[0.0], [0.1], [0.5], [2.0], [5.0]])).round()
    largest = int(10 * mean + 25 * mean * dispersion + 500)
    counts = torch.arange(largest, dtype=torch.float64)
    size = 1 / dispersion
    log_prob = torch.lgamma(counts + size) - math.lgamma(size) - torch.lgamma(counts + 1)
    log_prob += size * math.log(1 / (1 + mean * dispersion)) + counts * math.log(mean / (mean + size))
    cdf = log_prob.exp().cumsum(0)
    exact = (cdf - (counts >= target.double()).double()).square().sum(1, keepdim=True)
    torch.testing.assert_close(mixture_crps(mixture, target).double(), exact, rtol=1e-4, atol=0)
