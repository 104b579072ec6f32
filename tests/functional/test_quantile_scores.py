"""Scores of quantiles and calibration of distribution functions against uncertainty-toolbox, scikit-learn and loops."""

import numpy as np
import pytest
import scipy.stats
import torch
import uncertainty_toolbox as uct
from sklearn.metrics import mean_pinball_loss
from torch.testing import assert_close

from lightning_vi import functional
from lightning_vi.functional.mixture import Mixture
from lightning_vi.functional.quantile_scores import cdf_at
from lightning_vi.functional.special import poisson_cdf

RNG = np.random.default_rng(3)
MEAN, STD = RNG.normal(size=250), 0.5 + RNG.random(250)
TARGET = MEAN + 1.7 * STD * RNG.normal(size=250) + 0.2


def test_pinball_loss_equals_scikit_learn() -> None:
    for level in (0.05, 0.5, 0.8):
        quantile = scipy.stats.norm.ppf(level, MEAN, STD)
        ours = functional.pinball_loss(torch.tensor(quantile), torch.tensor(TARGET), level).mean()
        assert float(ours) == pytest.approx(mean_pinball_loss(TARGET, quantile, alpha=level))


def test_interval_score_equals_the_sum_of_pinball_losses() -> None:
    """Gneiting and Raftery: 2 / alpha times the losses of both ends; and uncertainty-toolbox for one level."""
    level = 0.8
    lower, upper = (torch.tensor(scipy.stats.norm.ppf(p, MEAN, STD)) for p in (0.1, 0.9))
    target = torch.tensor(TARGET)
    losses = functional.pinball_loss(lower, target, 0.1) + functional.pinball_loss(upper, target, 0.9)
    ours = functional.interval_score(lower, upper, target, level)
    assert_close(ours, 2 / (1 - level) * losses)
    theirs = uct.interval_score(MEAN, STD, TARGET, start_p=level, end_p=level, resolution=1)
    assert float(ours.mean()) == pytest.approx(theirs)


@pytest.mark.parametrize("kind", ["quantile", "interval"])
def test_calibration_of_a_gaussian_equals_uncertainty_toolbox(kind) -> None:
    cdf = torch.tensor(scipy.stats.norm.cdf(TARGET, MEAN, STD))
    levels = torch.linspace(0, 1, 100, dtype=torch.float64)
    shares = functional.shares_below(cdf, levels, kind).mean(1)
    arguments = (MEAN, STD, TARGET)
    mace = uct.mean_absolute_calibration_error(*arguments, num_bins=100, prop_type=kind)
    rmsce = uct.root_mean_squared_calibration_error(*arguments, num_bins=100, prop_type=kind)
    expected, observed = uct.get_proportion_lists_vectorized(*arguments, num_bins=100, prop_type=kind)
    assert float(functional.calibration_gap(shares, levels)) == pytest.approx(mace, abs=1e-9)
    assert float(functional.calibration_gap(shares, levels, "l2")) == pytest.approx(rmsce, abs=1e-9)
    assert float(functional.calibration_gap(shares, levels, "max")) == pytest.approx(np.abs(expected - observed).max())
    fine = np.linspace(0, 1, 200_001)
    curve = np.interp(fine, expected, observed)
    area = np.trapezoid(np.abs(curve - fine), fine)
    assert float(functional.miscalibration_area(shares, levels)) == pytest.approx(area, abs=1e-6)


def test_area_of_a_curve_that_crosses_the_diagonal() -> None:
    levels, shares = torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.5])
    assert float(functional.miscalibration_area(shares, levels)) == pytest.approx(0.25)


@pytest.mark.parametrize("kind", ["quantile", "interval"])
def test_counts_are_spread_out_evenly(kind) -> None:
    """Exactly calibrated in expectation, which is the sum over all counts with their probabilities."""
    rate, counts = 2.3, torch.arange(40.0, dtype=torch.float64)
    rates = torch.full((1, 40), rate, dtype=torch.float64)
    mixture = Mixture(lambda value: poisson_cdf(value, rates), rates, rates.sqrt(), lambda value: 0 * value)
    levels = torch.linspace(0, 1, 21, dtype=torch.float64)
    at, below = cdf_at(mixture, counts)
    expected = scipy.stats.poisson.cdf(counts.numpy(), rate)
    np.testing.assert_allclose(at, expected, atol=1e-9)
    probability = torch.tensor(scipy.stats.poisson.pmf(counts.numpy(), rate))
    shares = functional.shares_below(at, levels, kind, below)
    assert_close((shares * probability).sum(1), levels, rtol=0, atol=1e-8)


def test_unknown_choices_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"kind must be one of \['quantile', 'interval'\], got 'both'"):
        functional.shares_below(torch.zeros(2), torch.zeros(1), "both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"norm must be one of \['l1', 'l2', 'max'\], got 'l3'"):
        functional.calibration_gap(torch.zeros(2), torch.zeros(2), "l3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="level must lie strictly between 0 and 1, got 90"):
        functional.interval_score(torch.zeros(2), torch.ones(2), torch.ones(2), 90)
    with pytest.raises(ValueError, match=r"upper must have the shape of target \[2\], got \[3\]"):
        functional.interval_score(torch.zeros(2), torch.ones(3), torch.ones(2))
