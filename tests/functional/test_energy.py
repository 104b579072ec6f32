"""The energy score against loops, the CRPS and the law of its draws."""

import math

import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from lightning_vi import functional
from lightning_vi.functional.mixture import Mixture
from lightning_vi.functional.scoring import gaussian_mixture_crps
from lightning_vi.functional.special import poisson_cdf


def test_energy_score_equals_a_loop() -> None:
    draws, target = torch.randn(5, 4, 3, 2, dtype=torch.float64), torch.randn(4, 3, 2, dtype=torch.float64)
    scores = functional.energy_score(draws, target)
    assert scores.shape == (4, 3)
    for row in range(4):
        for place in range(3):
            points, y = draws[:, row, place], target[row, place]
            near = sum(math.dist(point, y) for point in points) / 5
            spread = sum(math.dist(a, b) for a in points for b in points) / (5 * 4)
            assert float(scores[row, place]) == pytest.approx(near - spread / 2)


def test_energy_score_of_one_target_is_the_crps() -> None:
    means = torch.randn(4, 30, 1, dtype=torch.float64)
    stds, target = 0.3 + torch.rand_like(means), torch.randn(30, 1, dtype=torch.float64)
    scores = torch.stack(
        [functional.energy_score(functional.mixture_draws(means, stds, 400, seed=seed), target) for seed in range(8)]
    )
    error = scores.std(0) / math.sqrt(8)
    expected = gaussian_mixture_crps(means, stds, target)[:, 0]
    assert ((scores.mean(0) - expected).abs() < 6 * error).all()
    assert float((scores.mean(0) - expected).abs().mean()) < 0.02


def test_the_right_correlation_has_the_best_score() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(200, 500, 1, generator=generator)
    scores = {}
    for correlation in (-0.9, 0.0, 0.9):
        noise = torch.randn(200, 500, 1, generator=generator)
        draws = torch.cat([first, correlation * first + math.sqrt(1 - correlation**2) * noise], 2)
        y = torch.randn(500, 1, generator=generator)
        target = torch.cat([y, 0.9 * y + math.sqrt(0.19) * torch.randn(500, 1, generator=generator)], 1)
        scores[correlation] = float(functional.energy_score(draws, target).mean())
    assert min(scores, key=lambda correlation: scores[correlation]) == 0.9


def test_draws_of_gaussians_and_counts_have_their_laws() -> None:
    means = torch.full((2, 3000, 1), 3.0)
    means[1] = 8.0
    draws = functional.mixture_draws(means, 0.5 * torch.ones_like(means), num_draws=2)
    for component, mean in zip(draws, (3.0, 8.0), strict=True):
        assert scipy.stats.kstest(component.flatten().numpy(), scipy.stats.norm(mean, 0.5).cdf).pvalue > 1e-3
    rates = means.double()
    mixture = Mixture(lambda value: poisson_cdf(value, rates), rates, rates.sqrt(), lambda value: 0 * value)
    counts = functional.mixture_draws(rates, rates.sqrt(), num_draws=2, mixture=mixture)
    assert_close(counts, counts.round())
    for component, rate in zip(counts, (3.0, 8.0), strict=True):
        observed = component.flatten().long().bincount(minlength=30)[:30]
        expected = scipy.stats.poisson.pmf(range(30), rate) * 3000
        kept = expected > 5
        statistic = (((observed.numpy() - expected) ** 2) / expected)[kept].sum()
        assert scipy.stats.chi2.sf(statistic, kept.sum() - 1) > 1e-3


def test_real_components_are_inverted() -> None:
    locations = torch.tensor([-2.0, 0.0, 5.0], dtype=torch.float64).view(3, 1, 1)
    laplace = torch.distributions.Laplace(locations.expand(3, 4, 1), 0.7)
    mixture = Mixture(laplace.cdf, laplace.mean, laplace.stddev)
    draws = functional.mixture_draws(laplace.mean, laplace.stddev, 3, mixture=mixture, seed=4)
    levels = torch.rand(1, 3, 4, 1, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert_close(laplace.cdf(draws), levels[0], rtol=0, atol=1e-6)


def test_invalid_draws_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"draws must have shape \[R, ...\] with R >= 2"):
        functional.energy_score(torch.zeros(1, 3, 2), torch.zeros(3, 2))
