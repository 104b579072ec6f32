"""Scores of mixtures against brute force."""

from typing import Any

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.functional.mixture import (
    Mixture,
    join_mixtures,
    mixture_crps,
    mixture_interval_covers,
    mixture_quantile,
)
from lightning_vi.functional.scoring import gaussian_mixture_crps, gaussian_mixture_quantile
from lightning_vi.functional.special import poisson_cdf, student_t_cdf


def close(ours: Tensor, exact: Any, absolute: float) -> None:
    assert_close(ours.double(), torch.as_tensor(exact, dtype=torch.float64), rtol=absolute, atol=absolute)


def gaussians() -> tuple[Mixture, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means, stds = torch.randn(5, 8, 1, generator=generator), torch.rand(5, 8, 1, generator=generator) + 0.2
    return Mixture(torch.distributions.Normal(means, stds).cdf, means, stds), means, stds


def test_gaussian_mixtures_agree_with_closed_forms() -> None:
    mixture, means, stds = gaussians()
    target = torch.linspace(-4, 4, 8)[:, None]
    assert_close(mixture_crps(mixture, target), gaussian_mixture_crps(means, stds, target), rtol=2e-4, atol=1e-5)
    levels = [0.025, 0.5, 0.975]
    assert_close(mixture_quantile(mixture, levels), gaussian_mixture_quantile(means, stds, levels), rtol=0, atol=1e-5)


def student_t_mixture() -> tuple[Mixture, Any]:
    df, locations, scales = torch.tensor(3.0), torch.tensor([[-1.0], [0.5], [2.0]]), torch.tensor([[0.4], [1.0], [0.7]])
    mixture = Mixture(lambda y: student_t_cdf((y - locations) / scales, df), locations, scales * 3**0.5)
    parts = [scipy.stats.t(3, loc, scale) for loc, scale in zip(locations[:, 0], scales[:, 0], strict=True)]
    return mixture, lambda y: np.mean([part.cdf(y) for part in parts], axis=0)


@pytest.mark.parametrize("target", [-6.0, 0.2, 12.0])
def test_crps_of_student_t_mixtures_agrees_with_the_integral(target: float) -> None:
    mixture, cdf = student_t_mixture()
    below, _ = scipy.integrate.quad(lambda y: cdf(y) ** 2, -2000, target, limit=500, points=[-10, 0])
    above, _ = scipy.integrate.quad(lambda y: (1 - cdf(y)) ** 2, target, 2000, limit=500, points=[0, 10])
    assert_close(mixture_crps(mixture, torch.tensor([target])).item(), below + above, rtol=5e-4, atol=0)


def test_quantiles_invert_the_distribution_function() -> None:
    mixture, cdf = student_t_mixture()
    levels = [0.001, 0.3, 0.99]
    assert_close(torch.from_numpy(cdf(mixture_quantile(mixture, levels)[:, 0].double())),
                 torch.tensor(levels).double(), rtol=1e-4, atol=1e-6)  # fmt: skip


def poisson_mixture(largest: float = 90.0) -> tuple[Mixture, Tensor]:
    rates = torch.tensor([[0.5, 4.0, largest], [2.0, 9.0, 1.5 * largest]])
    weights = torch.distributions.Poisson(rates[..., None].double()).log_prob(torch.arange(4000.0)).exp().mean(0)
    mixture = Mixture(
        lambda k: poisson_cdf(k, rates),
        rates,
        rates.sqrt(),
        lambda k: (k * rates.log() - rates - (k + 1).lgamma()).exp(),
    )
    return mixture, weights


@pytest.mark.parametrize("largest", [90.0, 1500.0])
def test_scores_of_counts_are_sums(largest: float) -> None:
    mixture, probabilities = poisson_mixture(largest)
    assert (mixture.table is None) == (largest > 1000)
    target = torch.tensor([3.0, 5.0, largest + 10.0])
    cdf = probabilities.cumsum(-1)
    counts = torch.arange(4000.0)
    crps = (cdf - (counts >= target[:, None]).double()).square().sum(-1)
    assert_close(mixture_crps(mixture, target).double(), crps, rtol=2e-3, atol=1e-4)
    for level in (0.025, 0.4, 0.975):
        smallest = (cdf < level).sum(-1).float()
        assert_close(mixture_quantile(mixture, [level])[0], smallest)


def test_crps_beyond_the_table_grows_with_the_distance() -> None:
    mixture, probabilities = poisson_mixture()
    mean = (probabilities[0] * torch.arange(4000.0)).sum()
    far = mixture_crps(mixture, torch.tensor([1e5, 1.0, 1.0]))[0]
    near = mixture_crps(mixture, torch.tensor([40.0, 1.0, 1.0]))[0]
    assert_close((far - near).item(), 1e5 - 40.0, rtol=1e-6, atol=0)
    assert abs(near - (40.0 - mean)) < 1.0


def test_interval_of_counts_excludes_its_tails() -> None:
    mixture, probabilities = poisson_mixture()
    for count in (0.0, 1.0, 6.0, 11.0, 17.0, 75.0, 150.0):
        index = int(count)
        up_to, from_here = probabilities[:, : index + 1].sum(-1), probabilities[:, index:].sum(-1)
        expected = ((up_to >= 0.05) & (from_here >= 0.05)).float()
        assert_close(mixture_interval_covers(mixture, torch.full((3,), count), level=0.9), expected)


def test_level_outside_the_unit_interval_is_an_error() -> None:
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, got 1"):
        mixture_quantile(gaussians()[0], [1.0])


def test_joined_mixtures_have_all_components() -> None:
    first = torch.distributions.Normal(torch.randn(3, 4, 1), torch.rand(3, 4, 1) + 0.5)
    second = torch.distributions.Normal(torch.randn(2, 4, 1), torch.rand(2, 4, 1) + 0.5)
    joined = join_mixtures([Mixture(part.cdf, part.mean, part.stddev) for part in (first, second)])
    values = torch.randn(6, 4, 1)
    expected = torch.cat([part.cdf(values.unsqueeze(1)) for part in (first, second)], 1).mean(1)
    assert_close(joined.cdf(values), expected)
    target = torch.randn(4, 1)
    exact = gaussian_mixture_crps(joined.means, joined.stds, target)
    assert_close(mixture_crps(joined, target), exact, rtol=1e-3, atol=1e-4)


def test_mixtures_of_counts_are_joined() -> None:
    rates = torch.tensor([[[0.5]], [[4.0]], [[9.0]]])
    pmf = lambda count, rate: torch.distributions.Poisson(rate).log_prob(count).exp()  # noqa: E731
    parts = [
        Mixture(lambda v, r=rate: poisson_cdf(v, r), rate[None], rate[None].sqrt(), lambda v, r=rate: pmf(v, r))
        for rate in rates
    ]
    joined = join_mixtures(parts)
    table = joined.table
    assert joined.is_count
    assert table is not None
    counts = torch.arange(len(table)).double()
    expected = np.mean([scipy.stats.poisson.cdf(counts, rate.item()) for rate in rates], axis=0)
    close(table[:, 0, 0], expected, 1e-5)
    with pytest.raises(ValueError, match="of counts and of real values cannot be joined"):
        join_mixtures([parts[0], Mixture(lambda v: v, rates, rates)])
