"""Disagreement against a loop over pairs of members."""

import itertools

import numpy as np
import pytest
import torch

from lightning_vi.functional import disagreement


def pairs(num_members: int) -> list[tuple[int, int]]:
    return list(itertools.combinations(range(num_members), 2))


@pytest.mark.parametrize("num_members", [2, 3, 6])
@pytest.mark.parametrize("shape", [(7, 2), (7, 3, 2)])
def test_means_differ_by_the_root_mean_square_over_pairs(num_members: int, shape: tuple[int, ...]) -> None:
    means = torch.randn(num_members, *shape, dtype=torch.float64)
    squares = [(means[i] - means[j]).square().mean().item() for i, j in pairs(num_members)]
    assert disagreement(means, "regression").item() == pytest.approx(np.mean(squares) ** 0.5)


@pytest.mark.parametrize("num_members", [2, 3, 6])
@pytest.mark.parametrize("shape", [(40, 3), (7, 3, 4, 2)])
def test_classes_differ_in_a_fraction_of_pairs(num_members: int, shape: tuple[int, ...]) -> None:
    probs = torch.randn(num_members, *shape).softmax(2)
    labels = probs.argmax(2)
    expected = np.mean([(labels[i] != labels[j]).float().mean().item() for i, j in pairs(num_members)])
    value = disagreement(probs, "classification").item()
    assert value == pytest.approx(expected)
    assert 0 < value < 1


def test_one_member_and_equal_members_do_not_disagree() -> None:
    means, probs = torch.randn(1, 5, 2), torch.randn(1, 5, 3).softmax(2)
    for repeats in (1, 4):
        assert disagreement(means.repeat(repeats, 1, 1), "regression") == 0
        assert disagreement(probs.repeat(repeats, 1, 1), "classification").abs() < 1e-6


def test_an_unknown_task_is_an_error() -> None:
    with pytest.raises(ValueError, match="task must be 'regression' or 'classification', got 'ranking'"):
        disagreement(torch.zeros(2, 3, 1), "ranking")  # type: ignore[arg-type]
