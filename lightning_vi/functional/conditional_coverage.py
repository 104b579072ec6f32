r"""Coverage of intervals and sets within parts of the data: by their size, and in the worst slab of the input space."""

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.selective import count_that_reaches

__all__ = ["size_stratified_coverage", "worst_slab_coverage"]

_MAX_ELEMENTS = 2**22


def size_stratified_coverage(size: Tensor, covered: Tensor, num_bins: int = 5) -> Tensor:
    r"""Returns the lowest coverage over strata of intervals of similar width, or sets of similar size.

    .. math::
        \mathrm{SSC} = \min_b \frac{1}{|I_b|} \sum_{i \in I_b} 1\{y_i \in C(x_i)\}

    Angelopoulos et al. (2021), "Uncertainty Sets for Image Classifiers using Conformal Prediction"; Feldman, Bates and
    Romano (2021), "Improving Conditional Coverage via Orthogonal Quantile Regression". Sizes are sorted into bins with
    the same number of data; equal sizes are in the same bin. If the coverage does not depend on the input, it does not
    depend on the size, and the lowest coverage is the nominal one up to noise, which grows with the number of bins.

    Args:
        size: widths of the intervals or numbers of classes, shape ``[N]``.
        covered: True where the interval or the set contains the target, shape ``[N]``.
        num_bins: largest number of strata.

    Returns:
        The coverage between 0 and 1, a scalar.

    Raises:
        ValueError: if the shapes are not ``[N]``, N is 0 or ``num_bins`` is not a positive integer.

    Example:
        >>> size = torch.tensor([1.0, 1.0, 2.0, 2.0])
        >>> size_stratified_coverage(size, torch.tensor([True, True, True, False]), num_bins=2)
        tensor(0.5000)
    """
    _check(size.unsqueeze(-1), covered)
    if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 1:
        raise InputValueError(f"num_bins must be a positive integer, got {num_bins!r}")
    ascending, order = size.sort()
    rank = (torch.searchsorted(ascending, ascending) + torch.searchsorted(ascending, ascending, right=True) - 1) / 2
    index = (rank * num_bins / len(size)).long()
    hits = covered[order].to(torch.promote_types(size.dtype, torch.float32))
    count = hits.new_zeros(num_bins).index_add(0, index, torch.ones_like(hits))
    total = hits.new_zeros(num_bins).index_add(0, index, hits)
    return torch.where(count > 0, total / count.clamp_min(1), 1).amin()


@torch.no_grad()
def worst_slab_coverage(
    features: Tensor, covered: Tensor, min_share: float = 0.1, num_directions: int = 1000, seed: int = 0
) -> Tensor:
    r"""Returns the coverage in the slab of the input space where it is lowest, estimated without bias.

    .. math::
        \min_{v,\, a < b} \frac{\#\{i: a \le v^\top x_i \le b,\ y_i \in C(x_i)\}}{\#\{i: a \le v^\top x_i \le b\}}
        \quad \text{s.t.} \quad \frac1n \#\{i: a \le v^\top x_i \le b\} \ge \delta

    Cauchois, Gupta and Duchi (2021), "Knowing what You Know: valid and validated confidence sets in multiclass and
    multilabel prediction"; Romano, Sesia and Candes (2020), "Classification with Valid and Adaptive Coverage", who
    search random directions on one part of the data and return the coverage of the other part in the slab found. Here
    both parts have half of the data. Sets with coverage for each input have the nominal coverage in any slab.

    Args:
        features: inputs or other descriptions of the data, shape ``[N, F]``.
        covered: True where the interval or the set contains the target, shape ``[N]``.
        min_share: smallest share :math:`\delta` of the data in the slab, above 0 and at most 1.
        num_directions: number of random directions v.
        seed: seed of the directions and of the split.

    Returns:
        The coverage between 0 and 1, a scalar; NaN if the slab has none of the other data.

    Raises:
        ValueError: if the shapes do not fit, there are fewer than two data, ``min_share`` is outside (0, 1] or
            ``num_directions`` is not positive.

    Example:
        >>> x = torch.linspace(-1, 1, 400).unsqueeze(1)
        >>> worst_slab_coverage(x, x[:, 0] < 0.5, min_share=0.2)
        tensor(0.)
    """
    _check(features, covered)
    if len(features) < 2 or features.ndim != 2:
        raise InputValueError(f"features must have shape [N, F] with N >= 2, got {list(features.shape)}")
    if isinstance(num_directions, bool) or not isinstance(num_directions, int) or num_directions < 1:
        raise InputValueError(f"num_directions must be a positive integer, got {num_directions!r}")
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(num_directions, features.shape[1], generator=generator, device="cpu")
    directions = (directions / torch.linalg.vector_norm(directions, dim=1, keepdim=True)).to(features)
    # The parts are the same for any order of the data.
    shuffled = torch.randperm(len(features), generator=generator, device="cpu").to(features.device)
    order = (features @ directions[0]).argsort()[shuffled]
    search, held_out = order.tensor_split(2)
    places = features[search] @ directions.T  # [n, directions]
    hits = covered.to(places.dtype)
    smallest = count_that_reaches(min_share, len(search), "min_share")
    size = max(1, _MAX_ELEMENTS // len(search))
    found = [_worst_of(part, hits[search], smallest) for part in places.split(size, dim=1)]
    value, low, high = (torch.cat(column) for column in zip(*found, strict=True))
    best = value.argmin()
    place = features[held_out] @ directions[best]
    inside = (low[best] <= place) & (place <= high[best])
    share: Tensor = (hits[held_out] * inside).sum() / inside.sum()
    return share


def _worst_of(places: Tensor, hits: Tensor, smallest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lowest coverage of a slab for each direction, and the ends of the slab.

    Of two adjoining slabs that are large enough, one has at most the coverage of both: slabs with twice the smallest
    number of data or more need no search.

    Args:
        places: projections, shape [n, V].
        hits: 1.0 for covered data, shape [n].
        smallest: smallest number of data in a slab.

    Returns:
        Coverage, lower and upper end, each of shape [V].
    """
    ordered, order = places.sort(0)
    sums = torch.cat([hits.new_zeros(1, places.shape[1]), hits[order].cumsum(0)])
    lowest = torch.full_like(ordered[0], torch.inf)
    low, high = ordered[0], ordered[-1]
    for length in range(smallest, min(2 * smallest, len(ordered) + 1)):
        share, start = ((sums[length:] - sums[:-length]) / length).min(0)
        better = share < lowest
        lowest = torch.where(better, share, lowest)
        low = torch.where(better, ordered.gather(0, start.unsqueeze(0))[0], low)
        high = torch.where(better, ordered.gather(0, start.unsqueeze(0) + length - 1)[0], high)
    return lowest, low, high


def _check(rows: Tensor, covered: Tensor) -> None:
    if covered.ndim != 1 or len(covered) == 0 or len(rows) != len(covered) or rows.ndim < 2:
        raise InputValueError(
            f"there must be one entry of covered for each row, at least one, got shapes {list(rows.shape)} and "
            f"{list(covered.shape)}"
        )
