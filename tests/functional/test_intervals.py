"""Intervals of counts against scipy, enumeration and simulation."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_vi.functional import uniform_histogram_band, wilson_interval
from lightning_vi.functional.intervals import _probability_inside


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_wilson_intervals_are_those_of_scipy(level: float) -> None:
    trials = torch.tensor([1, 1, 7, 7, 7, 1000])
    successes = torch.tensor([0, 1, 0, 3, 7, 998])
    low, high = wilson_interval(successes, trials, level)
    for k, n, ours in zip(successes, trials, zip(low, high, strict=True), strict=True):
        theirs = stats.binomtest(int(k), int(n)).proportion_ci(level, method="wilson")
        assert [float(end) for end in ours] == pytest.approx([theirs.low, theirs.high], abs=1e-12)
    assert low.min() == 0
    assert high.max() == 1


def test_no_trials_have_no_interval() -> None:
    low, high = wilson_interval(torch.zeros(1), torch.zeros(1))
    assert low.isnan()
    assert high.isnan()


@pytest.mark.parametrize(("num_values", "num_bins"), [(1, 3), (5, 2), (6, 3), (4, 4), (7, 1)])
def test_probability_of_a_band_is_that_of_all_outcomes(num_values: int, num_bins: int) -> None:
    outcomes = [np.bincount(cells, minlength=num_bins) for cells in product(range(num_bins), repeat=num_values)]
    for low, high in product(range(3), range(2, 7)):
        exact = np.mean([low <= counts.min() and counts.max() <= high for counts in outcomes])
        assert _probability_inside(num_values, num_bins, low, high) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize(("num_values", "num_bins"), [(30, 10), (1000, 20), (200_000, 15)])
def test_a_band_covers_all_bins_at_its_level_and_a_smaller_tail_is_not_needed(num_values: int, num_bins: int) -> None:
    low, high = uniform_histogram_band(num_values, num_bins, 0.9)
    counts = np.random.default_rng(0).multinomial(num_values, np.full(num_bins, 1 / num_bins), size=20_000)
    covered = np.mean((counts.min(1) >= low) & (counts.max(1) <= high))
    assert covered >= 0.9 - 3 * np.sqrt(0.09 / 20_000)
    one_bin = stats.binom(num_values, 1 / num_bins)
    tails = np.linspace(0, 0.1, 2000)[1:]
    narrower = [(one_bin.ppf(tail / 2), one_bin.isf(tail / 2)) for tail in tails]
    inside = [(a, b) for a, b in narrower if a >= low and b <= high and (a, b) != (low, high)]
    if inside:
        assert np.mean((counts.min(1) >= inside[0][0]) & (counts.max(1) <= inside[0][1])) < 0.9 + 0.01


def test_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"level must lie strictly between 0 and 1, got 95"):
        wilson_interval(torch.ones(1), torch.ones(1), 95)
    with pytest.raises(ValueError, match=r"num_values must be a positive integer, got 0"):
        uniform_histogram_band(0, 10)
    with pytest.raises(ValueError, match=r"num_bins must be a positive integer, got 2.5"):
        uniform_histogram_band(10, 2.5)
