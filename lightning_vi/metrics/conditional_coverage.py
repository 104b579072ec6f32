"""Coverage of given intervals and sets within parts of the data."""

from typing import Any

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.conditional_coverage import size_stratified_coverage, worst_slab_coverage
from lightning_vi.functional.selective import count_that_reaches
from lightning_vi.metrics.base import StoredScores

__all__ = ["SizeStratifiedCoverage", "WorstSlabCoverage"]


class SizeStratifiedCoverage(StoredScores):
    r"""Lowest coverage over strata of intervals of similar width, or of sets of similar size.

    Angelopoulos et al. (2021), see `lightning_vi.functional.size_stratified_coverage`. Sets or intervals whose coverage
    does not depend on the input have a value near their nominal coverage. Inputs are sizes and coverage of each datum;
    `update` takes intervals, `lower`, `upper` and `target`, or sets, `pred_set` and `target`.

    Args:
        num_bins: largest number of strata, which have about the same number of data.

    Raises:
        ValueError: if ``num_bins`` is not a positive integer.

    Example:
        >>> import torch
        >>> metric = SizeStratifiedCoverage()
        >>> sets = torch.tensor([[True, False], [True, False], [True, True]])
        >>> metric.update(torch.tensor([0, 1, 1]), pred_set=sets)
        >>> metric.compute()  # one of two sets of a single class
        tensor(0.5000)
    """

    higher_is_better = True
    stored = ("size", "covered")

    def __init__(self, num_bins: int = 5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(num_bins, bool) or not isinstance(num_bins, int) or num_bins < 1:
            raise InputValueError(f"num_bins must be a positive integer, got {num_bins!r}")
        self.num_bins = num_bins

    def update(
        self,
        target: Tensor,
        lower: Tensor | None = None,
        upper: Tensor | None = None,
        pred_set: Tensor | None = None,
        observed: Tensor | None = None,
    ) -> None:
        """Adds a batch of intervals or of sets.

        Args:
            target: observed values, shape ``[B, ..., D]``, or class indices, shape ``[B]`` or ``[B, ...]``.
            lower: lower ends of intervals, the shape of ``target``.
            upper: upper ends of intervals, the shape of ``target``.
            pred_set: membership of each class, boolean, shape ``[B, C]`` or ``[B, C, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match, or neither intervals nor sets are given.
        """
        if pred_set is not None:
            shape = pred_set[:, 0].shape
            labels = target if observed is None else torch.where(observed, target, 0)
        elif lower is not None and upper is not None and lower.shape == upper.shape:
            shape = lower.shape
        else:
            raise InputValueError("lower and upper of the same shape are needed, or pred_set")
        if target.shape != shape:
            raise InputValueError(f"target must have the shape {list(shape)}, got {list(target.shape)}")
        if pred_set is not None:
            size, covered = pred_set.sum(1), pred_set.gather(1, labels.long().unsqueeze(1)).squeeze(1)
        elif lower is not None and upper is not None:
            size, covered = upper - lower, (lower <= target) & (target <= upper)
        hits = covered.to(self.dtype)
        if observed is not None:
            hits = torch.where(observed, hits, torch.nan)  # left out at the end, without a synchronization here
        self._store(size=size.flatten(), covered=hits.flatten())

    def _value(self, *columns: Tensor) -> Tensor:
        size, hits = columns
        counted = ~hits.isnan()
        if not counted.is_meta:
            size, hits = size[counted], hits[counted]
        return size_stratified_coverage(size, hits, self.num_bins) if len(hits) else self._nan()


class WorstSlabCoverage(StoredScores):
    r"""Coverage in the slab :math:`a \le v^\top x \le b` of the input space where it is lowest.

    Cauchois, Gupta and Duchi (2021); Romano, Sesia and Candes (2020); see
    `lightning_vi.functional.worst_slab_coverage`. It stores the features of each datum.

    Args:
        num_features: number of features F.
        min_share: smallest share of the data in the slab, above 0 and at most 1.
        num_directions: number of random directions v.
        seed: seed of the directions and of the split into data to find the slab and data to evaluate it.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> import torch
        >>> metric = WorstSlabCoverage(num_features=1, min_share=0.2)
        >>> x = torch.linspace(-1, 1, 400).unsqueeze(1)
        >>> metric.update(x, x[:, 0] < 0.5)
        >>> metric.compute()
        tensor(0.)
    """

    higher_is_better = True
    stored = ("features", "covered")

    def __init__(
        self, num_features: int, min_share: float = 0.1, num_directions: int = 1000, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (("num_features", num_features), ("num_directions", num_directions)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputValueError(f"{name} must be a positive integer, got {value!r}")
        count_that_reaches(min_share, 1, "min_share")
        self.num_features, self.min_share = num_features, min_share
        self.num_directions, self.seed = num_directions, seed

    def update(self, features: Tensor, covered: Tensor) -> None:
        """Adds a batch.

        Args:
            features: inputs or other descriptions of the data, shape ``[B, F]``.
            covered: True where the interval or the set contains the target, shape ``[B]``.

        Raises:
            ValueError: if the shapes do not match.
        """
        if covered.ndim != 1 or features.shape != (len(covered), self.num_features):
            raise InputValueError(
                f"features must have shape [B, {self.num_features}] and covered [B], got {list(features.shape)} and "
                f"{list(covered.shape)}"
            )
        # One dimension, so that a process without data can join the others.
        self._store(features=features.flatten())
        self._store(covered=covered)

    def _value(self, *columns: Tensor) -> Tensor:
        features, covered = columns[0].view(-1, self.num_features), columns[1]
        if len(covered) < 2:
            return self._nan()
        return worst_slab_coverage(features, covered, self.min_share, self.num_directions, self.seed)
