"""Quantiles that follow a series against a loop over NumPy arrays, and the bound on the share of misses."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_vi.functional import ScoreState, follow_scores


def by_hand(
    scores: NDArray, past: list[float], alpha: float, gamma: float, is_rolling: bool, delay: int
) -> tuple[list[float], float]:
    """The recursion of Gibbs and Candes for one target, with levels rounded as in the library."""
    target, waiting, quantiles = alpha, deque([(math.nan, math.nan)] * delay), []
    for score in scores:
        known = sorted(value for value in past if not math.isnan(value))
        level = round(1 - alpha, 6)
        rank = math.ceil(round((len(known) + 1) * level, 6))
        quantile = -math.inf if level <= 0 else math.inf if rank > len(known) else known[rank - 1]
        quantiles.append(quantile)
        waiting.append((score, quantile))
        old, its_quantile = waiting.popleft()
        if math.isnan(old):
            continue
        alpha += gamma * (target - (old > its_quantile))
        if is_rolling:
            past = [*past[1:], old]
    return quantiles, alpha


def start(past: NDArray, alpha: float, delay: int) -> ScoreState:
    rows = torch.tensor(past)
    return ScoreState(
        rows,
        torch.full((rows.shape[1],), alpha, dtype=torch.float64),
        torch.full((delay, 1, rows.shape[1]), math.nan, dtype=torch.float64),
        torch.full((delay, rows.shape[1]), math.nan, dtype=torch.float64),
    )


@pytest.mark.parametrize("is_rolling", [False, True])
@pytest.mark.parametrize(("gamma", "delay"), [(0.0, 0), (0.03, 0), (0.3, 0), (0.03, 2)])
def test_recursion(gamma: float, is_rolling: bool, delay: int) -> None:
    random = np.random.default_rng(7)
    past, scores = random.exponential(size=(19, 2)), random.exponential(size=(60, 2)) * np.linspace(0.3, 4, 60)[:, None]
    scores[random.random(60) < 0.1] = np.nan
    rows = torch.tensor(scores).unsqueeze(1)
    rule = {"miscoverage": 0.2, "gamma": gamma, "is_rolling": is_rolling}
    quantiles, state = follow_scores(rows, start(past, 0.2, delay), **rule)  # type: ignore[arg-type]
    for target in range(2):
        expected, alpha = by_hand(scores[:, target], list(past[:, target]), 0.2, gamma, is_rolling, delay)
        assert quantiles[:, target].tolist() == expected
        assert float(state.alpha[target]) == pytest.approx(alpha)
    first, middle = follow_scores(rows[:23], start(past, 0.2, delay), **rule)  # type: ignore[arg-type]
    second, last = follow_scores(rows[23:], middle, **rule)  # type: ignore[arg-type]
    assert torch.equal(torch.cat([first, second]), quantiles)
    assert all(torch.equal(a.nan_to_num(-1), b.nan_to_num(-1)) for a, b in zip(last, state, strict=True))


@pytest.mark.parametrize("gamma", [0.005, 0.05, 0.5])
def test_share_of_misses_is_within_its_bound(gamma: float) -> None:
    """For any series, also one that is made to miss, and after any number of rows."""
    random = np.random.default_rng(3)
    size, miscoverage = 400, 0.1
    for scores in (
        random.exponential(size=size) * np.linspace(1, 30, size),
        np.full(size, 1e6),
        np.full(size, -1e6),
        np.where(np.arange(size) % 50 < 25, 1e6, -1e6),
    ):
        rows = torch.tensor(scores).view(-1, 1, 1)
        quantiles, _ = follow_scores(
            rows,
            start(random.exponential(size=(99, 1)), miscoverage, 0),
            miscoverage=miscoverage,
            gamma=gamma,
            is_rolling=False,
        )
        share = (rows[:, 0] > quantiles).double().cumsum(0).flatten() / torch.arange(1, size + 1)
        bound = (max(miscoverage, 1 - miscoverage) + gamma) / (gamma * torch.arange(1, size + 1))
        assert ((share - miscoverage).abs() <= bound + 1e-9).all()


def test_positions_of_a_row_share_one_quantile() -> None:
    scores = torch.tensor([[1.0, 5.0, 9.0, math.nan]]).double().view(1, 4, 1)
    _, state = follow_scores(
        scores, start(np.arange(1.0, 10.0)[:, None], 0.5, 0), miscoverage=0.5, gamma=0.3, is_rolling=True
    )
    assert float(state.alpha) == pytest.approx(0.5 + 0.3 * (0.5 - 1 / 3))
    assert state.past.flatten().tolist() == [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 1.0, 5.0, 9.0]
