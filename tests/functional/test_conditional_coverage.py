"""Coverage within strata and slabs against loops over all of them."""

import numpy as np
import pytest
import torch

from lightning_vi import functional
from lightning_vi.functional.conditional_coverage import _worst_of


def test_strata_have_equal_numbers_and_ties_stay_together() -> None:
    size = torch.arange(100.0)[torch.randperm(100)]
    covered = torch.rand(100) < 0.7
    expected = min(float(covered[(size >= low) & (size < low + 20)].float().mean()) for low in range(0, 100, 20))
    assert float(functional.size_stratified_coverage(size, covered, num_bins=5)) == pytest.approx(expected)
    classes = torch.tensor([1, 1, 1, 1, 1, 1, 2, 2, 3, 3])
    hits = torch.tensor([1, 1, 1, 0, 1, 1, 0, 1, 1, 1]).bool()
    assert float(functional.size_stratified_coverage(classes, hits, num_bins=10)) == pytest.approx(0.5)
    assert float(functional.size_stratified_coverage(classes, hits, num_bins=1)) == pytest.approx(0.8)


def test_worst_slab_of_a_direction_equals_a_search_of_all() -> None:
    places, hits = torch.randn(40, 6), (torch.rand(40) < 0.7).float()
    values, low, high = _worst_of(places, hits, 7)
    for index in range(6):
        order = places[:, index].argsort()
        ordered = hits[order].numpy()
        expected = min(ordered[a:b].mean() for a in range(40) for b in range(a + 7, 41))
        assert float(values[index]) == pytest.approx(expected)
        inside = (places[:, index] >= low[index]) & (places[:, index] <= high[index])
        assert float(hits[inside].mean()) == pytest.approx(expected)
        assert inside.sum() >= 7


def test_worst_slab_finds_the_uncovered_part_and_not_more() -> None:
    x = torch.randn(2000, 3, generator=torch.Generator().manual_seed(0))
    bad = x @ torch.tensor([1.0, 1.0, 0.0]) > 1.5
    share = float(bad.float().mean())
    found = functional.worst_slab_coverage(x, ~bad, min_share=share, num_directions=300)
    assert float(found) < 0.35
    uniform = torch.rand(2000, generator=torch.Generator().manual_seed(1)) < 0.9
    fair = [float(functional.worst_slab_coverage(x, uniform, seed=seed, num_directions=200)) for seed in range(5)]
    # Held-out data: the noise of about 100 data in the slab, and no selection.
    assert np.mean(fair) == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: functional.size_stratified_coverage(torch.zeros(3), torch.zeros(2)),
            "one entry of covered",
        ),
        (lambda: functional.size_stratified_coverage(torch.zeros(3), torch.zeros(3), 0), "num_bins must be a positive"),
        (lambda: functional.worst_slab_coverage(torch.zeros(1, 2), torch.zeros(1)), r"\[N, F\] with N >= 2"),
        (lambda: functional.worst_slab_coverage(torch.zeros(4, 2), torch.zeros(4), 0.0), "min_share must be above 0"),
        (lambda: functional.worst_slab_coverage(torch.zeros(4, 2), torch.zeros(4), 0.5, 0), "num_directions must be"),
    ],
)
def test_invalid_arguments(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
