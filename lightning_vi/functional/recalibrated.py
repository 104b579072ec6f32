"""Mixtures whose distribution function is mapped by a piecewise linear function."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lightning_vi.functional.mixture import Mixture, quantiles_at

__all__ = ["RecalibratedMixture", "pit_knots"]


def _rule(num_nodes: int) -> tuple[list[float], list[float]]:
    """Nodes and weights of a Gauss-Legendre rule on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    return ((nodes + 1) / 2).tolist(), (weights / 2).tolist()


_INNER_RULE, _OUTER_RULE = _rule(3), _rule(8)
_SMALLEST_GAP = 1e-5
_SMALLEST_LEVEL = 1e-6


def pit_knots(transforms: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """Quantiles of probability integral transforms, as knots of their distribution function.

    Args:
        transforms: Values between 0 and 1, shape [N, D]; NaN stands for values that are missing.
        num_bins: K.

    Returns:
        Levels, shape [K + 3]: 0, 1 / (N + 1), 1/K, 2/K, ..., N / (N + 1), 1, where N is that of the target with the
        fewest values and 1 / (N + 1) at most half of 1/K. And knots, shape [K + 3, D]: the values at the positions
        level (N + 1) of the sorted ones, with 0 and 1 as the first and the last, by linear interpolation; they strictly
        increase from 0 to 1.

    Example:
        >>> levels, knots = pit_knots(torch.tensor([[0.5], [0.6], [0.9]]), num_bins=2)
        >>> levels
        tensor([0.0000, 0.2500, 0.5000, 0.7500, 1.0000])
        >>> knots.flatten()
        tensor([0.0000, 0.5000, 0.6000, 0.9000, 1.0000])
    """
    fewest = int((~transforms.isnan()).sum(0).min())
    outside = min(1 / (fewest + 1), 0.5 / num_bins)
    inner = torch.linspace(0, 1, num_bins + 1, dtype=transforms.dtype, device=transforms.device)
    ends = inner.new_tensor([outside, 1 - outside])
    levels = torch.cat([inner[:1], ends[:1], inner[1:-1], ends[1:], inner[-1:]])
    steps = torch.arange(len(levels), dtype=levels.dtype, device=levels.device) * _SMALLEST_GAP
    columns = []
    for column in transforms.T:
        values = column[~column.isnan()].sort().values
        padded = torch.cat([values.new_zeros(1), values, values.new_ones(1)])
        place = levels * (len(padded) - 1)
        left = place.floor().long().clamp_max(len(padded) - 2)
        knots = torch.lerp(padded[left], padded[left + 1], place - left)
        spread = (knots - steps).cummax(0).values + steps
        columns.append(spread / spread[-1])
    return levels, torch.stack(columns, 1)


@dataclass(frozen=True)
class RecalibratedMixture:
    """A mixture F with the distribution function R(F), for a piecewise linear R.

    Attributes:
        mixture: F, of real values.
        levels: Values of R, strictly increasing from 0 to 1, shape [K].
        knots: Where R has these values, strictly increasing from 0 to 1, shape [K, D].

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(1, 1, 1), torch.ones(1, 1, 1))
        >>> mixture = Mixture(normal.cdf, normal.mean, normal.stddev)
        >>> levels, knots = torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[0.0], [0.25], [1.0]])
        >>> recalibrated = RecalibratedMixture(mixture, levels, knots)
        >>> recalibrated.quantiles([0.5])  # the quantile at 0.25 of the mixture
        tensor([[[-0.6745]]])
    """

    mixture: Mixture
    levels: Tensor
    knots: Tensor

    def cdf(self, values: Tensor) -> Tensor:
        """Distribution function.

        Args:
            values: Shape [..., 1, B, ..., D], as those of `Mixture.component_cdf`.

        Returns:
            Probabilities, the shape of `values`.
        """
        rank, place = self._segment(self.mixture.component_cdf(values).mean(-self.mixture.means.ndim, keepdim=True))
        return torch.lerp(self.levels[rank], self.levels[rank + 1], place)

    def slope(self, values: Tensor) -> Tensor:
        """Slope of R at F(y), the ratio of the densities.

        Args:
            values: Values y, shape [B, ..., D].

        Returns:
            The shape of `values`.
        """
        rank, _ = self._segment(self.mixture.cdf(values.unsqueeze(0)).squeeze(0))
        target = torch.arange(self.knots.shape[1], device=values.device).expand(rank.shape)
        return self.levels.diff()[rank] / self.knots.diff(dim=0)[rank, target]

    def quantiles(self, levels: Sequence[float]) -> Tensor:
        """Quantiles.

        Args:
            levels: L probabilities, strictly between 0 and 1.

        Returns:
            In the target's units, shape [L, B, ..., D].
        """
        return self._inner_quantiles(self._inner_levels(levels))

    def summary(self, levels: Sequence[float]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean, variance and quantiles.

        The mean and the variance are Gauss-Legendre quadratures of the quantile function in each linear part of R. In
        the outer parts the variable is substituted, because the quantiles go to infinity there.

        Args:
            levels: L probabilities of the quantiles, strictly between 0 and 1.

        Returns:
            Mean and variance, each of shape [B, ..., D], and quantiles, [L, B, ..., D].
        """
        nodes, weights = self._nodes()
        found = self._inner_quantiles(torch.cat([nodes, self._inner_levels(levels)]))
        points, quantiles = found[: len(nodes)], found[len(nodes) :]
        weights = weights.view(-1, *[1] * (points.ndim - 1)).to(points.dtype)
        mean = (weights * points).sum(0)
        return mean, (weights * (points - mean).square()).sum(0), quantiles

    def _inner_levels(self, levels: Sequence[float]) -> Tensor:
        """Levels of F at which R has the given ones, [L, D]."""
        wanted = self.levels.new_tensor(levels)
        left = (torch.searchsorted(self.levels, wanted, right=True) - 1).clamp(0, len(self.levels) - 2)
        share = ((wanted - self.levels[left]) / self.levels.diff()[left]).unsqueeze(1)
        return torch.lerp(self.knots[left], self.knots[left + 1], share)

    def _nodes(self) -> tuple[Tensor, Tensor]:
        """Levels of F, [M, D], and weights, [M]."""
        probabilities, first, last = self.levels.diff(), self.knots[:-1], self.knots[1:]
        inner, inner_weights = (self.knots.new_tensor(array) for array in _INNER_RULE)
        outer, outer_weights = (self.knots.new_tensor(array) for array in _OUTER_RULE)
        inside = torch.lerp(first[1:-1].unsqueeze(1), last[1:-1].unsqueeze(1), inner.view(1, -1, 1)).flatten(0, 1)
        # u = s^3 at the lower end and 1 - u = s^3 at the upper one.
        lower, upper = (
            torch.lerp(first[0], last[0], outer[:, None] ** 3),
            torch.lerp(last[-1], first[-1], outer[:, None] ** 3),
        )
        slopes = 3 * outer.square() * outer_weights
        weights = [
            slopes * probabilities[0],
            (probabilities[1:-1, None] * inner_weights).flatten(),
            slopes * probabilities[-1],
        ]
        return torch.cat([lower, inside, upper]), torch.cat(weights)

    def _inner_quantiles(self, levels: Tensor) -> Tensor:
        """Quantiles of F at levels [L, D], with the gradients of the implicit function."""
        shape = (len(levels), *[1] * (self.mixture.means.ndim - 2), levels.shape[1])
        levels = levels.clamp(_SMALLEST_LEVEL, 1 - _SMALLEST_LEVEL).view(shape)
        found = quantiles_at(self.mixture, levels)
        if not (torch.is_grad_enabled() and self.mixture.means.requires_grad):
            return found
        with torch.no_grad():
            step = 1e-3 * self.mixture.stds.amin(0)
            density = (self.mixture.cdf(found + step) - self.mixture.cdf(found - step)) / (2 * step)
        cdf = self.mixture.cdf(found)
        return found - (cdf - cdf.detach()) / density.clamp_min(torch.finfo(density.dtype).tiny)

    def _segment(self, probability: Tensor) -> tuple[Tensor, Tensor]:
        """Linear part of R, counted from zero, and the place within it, between 0 and 1."""
        columns = probability.movedim(-1, 0).contiguous()
        knots = self.knots.T.contiguous()
        flat = columns.flatten(1)
        rank = (torch.searchsorted(knots, flat, right=True) - 1).clamp(0, knots.shape[1] - 2)
        first, last = knots.gather(1, rank), knots.gather(1, rank + 1)
        place = ((flat - first) / (last - first)).clamp(0, 1)
        return rank.view(columns.shape).movedim(0, -1), place.view(columns.shape).movedim(0, -1)
