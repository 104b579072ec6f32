r"""Scores of equal-weight mixtures of any distributions with a known cumulative distribution function.

For mixtures of Gaussians, `lightning_vi.functional.scoring` has closed forms.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

__all__ = ["Mixture", "join_mixtures", "mixture_crps", "mixture_interval_covers", "mixture_quantile", "quantiles_at"]

# Elements of the largest temporary of a cumulative distribution function: 1 MiB in float32, to fit in a CPU cache.
_MAX_ELEMENTS = 2**18
_NUM_FIRST_CELLS, _NUM_CELLS, _NUM_PASSES = 60, 96, 3
_FINEST, _FURTHEST = 0.25, 1e3
_ADAPTED_SHARE = 0.7
_TABLE_STDS, _MAX_TABLE, _MAX_TABLE_COUNT = 15, 2**24, 2**10


@dataclass(frozen=True)
class Mixture:
    r"""An equal-weight mixture of S distributions for each element of a target, :math:`F = \frac1S \sum_s F_s`.

    Attributes:
        component_cdf: Cumulative distribution functions, from values ``[..., 1, B, ..., D]`` to probabilities
            ``[..., S, B, ..., D]``. For counts they are smooth between the integers, and zero below 0.
        means: Means of the components, shape ``[S, B, ..., D]``.
        stds: Standard deviations of the components, finite, shape ``[S, B, ..., D]``.
        component_pmf: For counts 0, 1, 2, ..., their probabilities, with the shapes of `component_cdf`; None for real
            values.

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(2, 1), torch.ones(2, 1))
        >>> Mixture(normal.cdf, normal.mean, normal.stddev).cdf(torch.tensor([[0.0], [1.0]]))
        tensor([[0.5000],
                [0.8413]])
    """

    component_cdf: Callable[[Tensor], Tensor]
    means: Tensor
    stds: Tensor
    component_pmf: Callable[[Tensor], Tensor] | None = None

    @property
    def is_count(self) -> bool:
        """True if the values are the integers 0, 1, 2, ..."""
        return self.component_pmf is not None

    def cdf(self, values: Tensor) -> Tensor:
        """Cumulative distribution function of the mixture.

        Args:
            values: K values for each element, shape ``[K, B, ..., D]``.

        Returns:
            Probabilities, the shape of `values`.
        """
        return self._mean(self.component_cdf, values)

    @cached_property
    def table(self) -> Tensor | None:
        """Cumulative distribution function at 0, 1, 2, ..., up to the far tail, shape ``[K, B, ..., D]``.

        None for real values, and for counts too large to tabulate.
        """
        if self.component_pmf is None or self.means.numel() == 0:
            return None
        tail = self.stds.square() / self.means  # length over which overdispersed counts decay
        largest = (self.means + _TABLE_STDS * (self.stds + tail)).max().nan_to_num(math.inf, math.inf).item()
        if largest * self.means[0].numel() > _MAX_TABLE or largest > _MAX_TABLE_COUNT:
            return None
        counts = torch.arange(math.ceil(largest) + 1, dtype=self.means.dtype, device=self.means.device)
        shape = (-1, *self.means.shape[1:])
        return self._mean(self.component_pmf, counts.view(-1, *[1] * (self.means.ndim - 1)).expand(shape)).cumsum(0)

    def _mean(self, function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the number of chunks would fix the number of rows
            return function(values.unsqueeze(1)).mean(1)
        size = max(1, _MAX_ELEMENTS // max(1, self.means.numel()))
        return torch.cat([function(chunk.unsqueeze(1)).mean(1) for chunk in torch.split(values, size)])


def join_mixtures(mixtures: Sequence[Mixture]) -> Mixture:
    """Returns the mixture of all components of several mixtures, each with the same weight.

    Args:
        mixtures: At least one, of the same target; all of counts or all of real values.

    Returns:
        The mixture.

    Raises:
        ValueError: If some are of counts and others of real values.

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(2, 1), torch.ones(2, 1))
        >>> join_mixtures([Mixture(normal.cdf, normal.mean, normal.stddev)] * 3).means.shape
        torch.Size([6, 1])
    """
    if len({mixture.is_count for mixture in mixtures}) > 1:
        raise InputValueError("mixtures of counts and of real values cannot be joined")
    dim = -mixtures[0].means.ndim
    functions = [mixture.component_pmf for mixture in mixtures if mixture.component_pmf is not None]
    return Mixture(
        _side_by_side([mixture.component_cdf for mixture in mixtures], dim),
        torch.cat([mixture.means for mixture in mixtures]),
        torch.cat([mixture.stds for mixture in mixtures]),
        _side_by_side(functions, dim) if functions else None,
    )


def _side_by_side(functions: Sequence[Callable[[Tensor], Tensor]], dim: int) -> Callable[[Tensor], Tensor]:
    return lambda values: torch.cat([function(values) for function in functions], dim)


@torch.no_grad()
def mixture_quantile(mixture: Mixture, levels: Sequence[float]) -> Tensor:
    r"""Quantiles of a mixture, :math:`\inf\{y : F(y) \ge level\}`.

    The one-sided Chebyshev inequality brackets each component's quantile, and so the mixture's. The bracket is halved
    32 times in float32 and 64 times in float64. Quantiles of counts are integers; small ones are read from a table.

    Args:
        mixture: The mixture.
        levels: L probabilities, strictly between 0 and 1.

    Returns:
        Quantiles in the target's units, shape ``[L, B, ..., D]``.

    Raises:
        ValueError: If a level is outside (0, 1).

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(2, 1), torch.ones(2, 1))
        >>> mixture_quantile(Mixture(normal.cdf, normal.mean, normal.stddev), [0.025, 0.975])
        tensor([[-1.9600],
                [ 1.9600]])
    """
    for level in levels:
        if not 0.0 < level < 1.0:
            raise InputValueError(f"level must lie strictly between 0 and 1, got {level!r}")
    table = mixture.table
    if table is not None:
        return torch.stack([(table < level).sum(0) for level in levels]).to(table.dtype)
    return quantiles_at(mixture, mixture.means.new_tensor(levels).view(-1, *[1] * (mixture.means.ndim - 1)))


@torch.no_grad()
def quantiles_at(mixture: Mixture, levels: Tensor) -> Tensor:
    """Quantiles of a mixture at levels that may differ between its elements, by bisection, see `mixture_quantile`.

    Args:
        mixture: The mixture.
        levels: Probabilities, strictly between 0 and 1, a shape that broadcasts with ``[L, B, ..., D]``.

    Returns:
        Quantiles in the target's units, shape ``[L, B, ..., D]``.

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(2, 1), torch.ones(2, 1))
        >>> quantiles_at(Mixture(normal.cdf, normal.mean, normal.stddev), torch.tensor([[0.975]]))
        tensor([[1.9600]])
    """
    means, stds = mixture.means, mixture.stds
    low = torch.stack([(means - stds * ((1 - level) / level).sqrt()).amin(0) for level in levels])
    high = torch.stack([(means + stds * (level / (1 - level)).sqrt()).amax(0) for level in levels])
    if mixture.is_count:
        low, high = low.floor() - 1, high.ceil()
    targets, width = levels, high - low
    num_halvings = 64 if low.dtype == torch.float64 else 32
    for halving in range(1, num_halvings + 1):
        middle = torch.add(low, width, alpha=0.5**halving)
        cdf = mixture.cdf(middle.floor() if mixture.is_count else middle)
        low = torch.where(cdf < targets, middle, low)
    quantiles = torch.add(low, width, alpha=0.5**num_halvings)
    return quantiles.round() if mixture.is_count else quantiles


def mixture_interval_covers(mixture: Mixture, target: Tensor, level: float = 0.95) -> Tensor:
    r"""Coverage of the target by the central interval of a mixture, ends included.

    With :math:`\alpha = (1 - level) / 2` the interval contains y where :math:`P(Y \le y) \ge \alpha` and
    :math:`P(Y \ge y) \ge \alpha`. For counts the interval has a probability of at least `level`, and often more.

    Args:
        mixture: The mixture.
        target: Observed values, shape ``[B, ..., D]``.
        level: Probability of the interval, strictly between 0 and 1.

    Returns:
        1.0 where the interval contains the target, 0.0 where it does not and NaN where the prediction or the target is
        NaN, the shape of `target`.

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(1, 2), torch.ones(1, 2))
        >>> mixture_interval_covers(Mixture(normal.cdf, normal.mean, normal.stddev), torch.tensor([1.9, 2.0]))
        tensor([1., 0.])
    """
    table = mixture.table
    if table is not None:
        padded = torch.cat([torch.zeros_like(table[:1]), table])  # [k] is the probability of less than k
        rows = torch.stack([target, target + 1]).clamp(0, len(table)).nan_to_num().long()
        below, up_to = (padded.gather(0, rows) + 0 * target).unbind()
    else:
        below, up_to = mixture.cdf(torch.stack([target - 1 if mixture.is_count else target, target])).unbind()
    smaller_tail = torch.minimum(up_to, 1 - below)
    covered = (smaller_tail >= (1 - level) / 2).to(smaller_tail.dtype)
    return torch.where(smaller_tail.isnan(), smaller_tail, covered)


def mixture_crps(mixture: Mixture, target: Tensor) -> Tensor:
    r"""Continuous ranked probability score of a mixture, by numerical integration.

    .. math:: \mathrm{CRPS}(F, y) = \int_{-\infty}^{y} F(z)^2 \, dz + \int_{y}^{\infty} (1 - F(z))^2 \, dz

    The real line is split at y and into 96 cells with three Gauss-Legendre nodes each. Starting from cells that are
    denser near the mean, three passes move the edges until each cell has about the same
    :math:`\sqrt{\text{width} \times \Delta F}`. As F is monotone, no component is too narrow to be found. For counts
    the integral is a sum over integers. Small counts are summed exactly. For large counts, each cell holds a whole
    number of integers and the nodes are those of the Gauss rule for sums, which is exact in cells of up to three
    integers. The relative error is below 1e-4 for components from 1/1000 of the mixture's width to all of it.

    Args:
        mixture: The mixture.
        target: Observed values, shape ``[B, ..., D]``.

    Returns:
        Scores in the target's units, the shape of `target`.

    Example:
        >>> normal = torch.distributions.Normal(torch.zeros(3, 1), torch.ones(3, 1))
        >>> mixture_crps(Mixture(normal.cdf, normal.mean, normal.stddev), torch.tensor([0.5]))
        tensor([0.3314])
    """
    table = mixture.table
    if table is not None:
        counts = torch.arange(len(table), dtype=table.dtype, device=table.device).view(-1, *[1] * target.ndim)
        within = (table - (counts >= target).to(table.dtype)).square().sum(0)
        return within + (target - len(table)).clamp_min(0)
    center = mixture.means.mean(0)
    spread = (mixture.means.var(0, correction=0) + mixture.stds.square().mean(0)).sqrt()
    end = math.asinh(_FURTHEST / _FINEST)
    steps = torch.linspace(-end, end, _NUM_FIRST_CELLS + 1, dtype=center.dtype, device=center.device).sinh()
    edges = center + _FINEST * spread * steps.view(-1, *[1] * center.ndim)
    if mixture.is_count:
        edges = edges.clamp_min(-1)
    for _ in range(_NUM_PASSES):
        edges = _equidistribute(edges, mixture.cdf(edges))
    if mixture.is_count:
        edges = edges.clamp_min(0).round()
    edges = torch.cat([edges, target.to(edges.dtype).unsqueeze(0)]).sort(0).values
    start, width = edges[:-1], edges.diff(dim=0)
    center_of_cell, offset, outer_weight = _gauss_rule(start, width, mixture.is_count)
    nodes = torch.stack([center_of_cell - offset, center_of_cell, center_of_cell + offset])
    weights = width * torch.stack([outer_weight, 1 - 2 * outer_weight, outer_weight])
    cdf = mixture.cdf(nodes.flatten(0, 1)).view_as(nodes)
    return (weights * (cdf - (start >= target).to(cdf.dtype)).square()).sum((0, 1))


def _equidistribute(edges: Tensor, cdf: Tensor) -> Tensor:
    """Moves edges so that cells have about the same root of width times probability.

    Args:
        edges: Increasing, shape ``[K + 1, B, ..., D]``.
        cdf: The distribution function there, the shape of `edges`.

    Returns:
        Edges with the same ends, shape ``[_NUM_CELLS + 1, B, ..., D]``.
    """
    density = (edges.diff(dim=0) * cdf.diff(dim=0).clamp_min(0)).sqrt()
    total = density.sum(0).clamp_min(torch.finfo(density.dtype).tiny)
    density = _ADAPTED_SHARE * density / total + (1 - _ADAPTED_SHARE) / len(density)
    ranks = torch.cat([torch.zeros_like(density[:1]), density.cumsum(0)]).movedim(0, -1).contiguous()
    levels = torch.linspace(0, 1, _NUM_CELLS + 1, dtype=ranks.dtype, device=ranks.device)
    levels = (levels * ranks[..., -1:]).contiguous()
    right = torch.searchsorted(ranks, levels).clamp(1, len(density))
    old = edges.movedim(0, -1)
    first, last = ranks.gather(-1, right - 1), ranks.gather(-1, right)
    share = ((levels - first) / (last - first)).clamp(0, 1)
    return torch.lerp(old.gather(-1, right - 1), old.gather(-1, right), share.to(old.dtype)).movedim(-1, 0)


def _gauss_rule(start: Tensor, width: Tensor, is_count: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the middle node, the distance of the outer two and their weight for the mean over each cell."""
    if not is_count:
        return start + width / 2, width * math.sqrt(3 / 20), torch.full_like(width, 5 / 18)
    # From the second and fourth moments of the integers start, ..., start + width - 1 around their mean.
    square = width.square()
    outer_weight = 5 * (square - 1) / (6 * (3 * square - 7))
    return start + (width - 1) / 2, ((3 * square - 7) / 20).clamp_min(0).sqrt(), outer_weight
