r"""Conformal quantiles that follow a series of scores.

.. math:: q_t = \big\lceil (n + 1)(1 - \alpha_t) \big\rceil\text{-th smallest of the scores so far}, \qquad
    \alpha_{t+1} = \alpha_t + \gamma\, (\alpha - 1\{s_t > q_t\})
"""

import math
from bisect import bisect_left, insort
from collections import deque
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_vi.functional.selective import count_that_reaches

__all__ = ["ScoreState", "follow_scores"]


class ScoreState(NamedTuple):
    """State of the recursion: everything that the quantile of the next score depends on.

    Attributes:
        past: Scores so far, the oldest first, shape [n, D]; NaN where they are missing.
        alpha: Miscoverage of the next interval of each target, shape [D].
        pending: Scores of the last rows whose targets are not known yet, shape [k, P, D]; NaN for none.
        pending_quantiles: Their quantiles, shape [k, D].
    """

    past: Tensor
    alpha: Tensor
    pending: Tensor
    pending_quantiles: Tensor


def follow_scores(
    scores: Tensor, state: ScoreState, *, miscoverage: float, gamma: float, is_rolling: bool
) -> tuple[Tensor, ScoreState]:
    r"""Computes the quantile of each score from those before it.

    The quantile is infinite where :math:`\alpha_t \le 0`, and minus infinity where :math:`\alpha_t \ge 1`, so that

    .. math:: \Big| \frac1T \sum_{t=1}^T 1\{s_t > q_t\} - \alpha \Big|
        \le \frac{\max(\alpha_1, 1 - \alpha_1) + \gamma}{\gamma\, T}

    for every series of scores (Gibbs and Candes, 2021, proposition 4.1).

    Args:
        scores: Scores in the order of time, shape [T, P, D], of D targets at P positions; NaN where they are missing.
            The positions of a row share one quantile.
        state: State before the first score.
        miscoverage: :math:`\alpha`.
        gamma: Step size :math:`\gamma`; 0 for a constant :math:`\alpha_t`.
        is_rolling: Whether each score replaces the oldest one.

    Returns:
        The quantiles, shape [T, D], and the state after the last score.

    Example:
        >>> none = torch.empty(0, 1, 1), torch.empty(0, 1)
        >>> state = ScoreState(torch.arange(1.0, 10.0).unsqueeze(1), torch.tensor([0.5]), *none)
        >>> quantiles, state = follow_scores(
        ...     torch.tensor([7.0, 1.0]).view(2, 1, 1), state, miscoverage=0.5, gamma=0.2, is_rolling=False
        ... )
        >>> quantiles.flatten().tolist(), state.alpha
        ([5.0, 6.0], tensor([0.5000]))
    """
    past, alpha, pending, pending_quantiles = state
    followers = [
        _Follower(
            past[:, target].tolist(),
            float(alpha[target]),
            pending[..., target].tolist(),
            pending_quantiles[:, target].tolist(),
            miscoverage,
            gamma,
            is_rolling,
        )
        for target in range(len(alpha))
    ]
    rows = zip(*(scores[..., target].tolist() for target in range(len(followers))), strict=True)
    quantiles = [[follower.step(row) for follower, row in zip(followers, own, strict=True)] for own in rows]
    parts = zip(*(follower.state() for follower in followers), strict=True)
    after = (
        torch.tensor(part, dtype=old.dtype).movedim(0, -1).reshape(old.shape)
        for part, old in zip(parts, state, strict=True)
    )
    return torch.tensor(quantiles, dtype=state.past.dtype).view(len(scores), len(followers)), ScoreState(*after)


class _Follower:
    """Quantiles of the scores of one target; plain numbers are faster than tensors of one element."""

    def __init__(
        self,
        past: list[float],
        alpha: float,
        pending: list[list[float]],
        pending_quantiles: list[float],
        miscoverage: float,
        gamma: float,
        is_rolling: bool,
    ) -> None:
        self.past = deque(past)
        self.ordered = sorted(score for score in past if not math.isnan(score))
        self.alpha = alpha
        self.pending = deque(zip(pending, pending_quantiles, strict=True))
        self.miscoverage = miscoverage
        self.gamma = gamma
        self.is_rolling = is_rolling

    def step(self, row: list[float]) -> float:
        """Returns the quantile of a row, and learns from the row whose targets are known now."""
        quantile = self.quantile()
        self.pending.append((row, quantile))
        known, its_quantile = self.pending.popleft()
        observed = [score for score in known if not math.isnan(score)]
        if observed:
            misses = sum(score > its_quantile for score in observed) / len(observed)
            self.alpha += self.gamma * (self.miscoverage - misses)
        if self.is_rolling:
            for score in observed:
                self.push(score)
        return quantile

    def quantile(self) -> float:
        level = round(1 - self.alpha, 6)  # 1 - 0.4 is more than 0.6, and would be another rank
        if level <= 0:
            return -math.inf
        size = len(self.ordered)
        rank = size + 1 if level >= 1 else count_that_reaches(level, size + 1)
        return self.ordered[rank - 1] if rank <= size else math.inf

    def push(self, score: float) -> None:
        oldest = self.past.popleft()
        if not math.isnan(oldest):
            del self.ordered[bisect_left(self.ordered, oldest)]
        self.past.append(score)
        insort(self.ordered, score)

    def state(self) -> tuple[Any, ...]:
        """Returns the state in the order of `ScoreState`."""
        rows, quantiles = [row for row, _ in self.pending], [quantile for _, quantile in self.pending]
        return list(self.past), self.alpha, rows, quantiles
