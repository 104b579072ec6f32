"""Rows that a distributed sampler deals out twice."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.utils.data import DistributedSampler


def num_unrepeated_rows(dataloader: Any) -> int | None:
    """Counts the rows of this process that no distributed sampler has repeated.

    A distributed sampler appends the first rows of the data set until all processes have the same number. Rank r of W
    has the rows r, r + W, ..., so the repeated ones are its last.

    Args:
        dataloader: The dataloader of this process.

    Returns:
        The number of leading rows to count, None if all count.

    Example:
        >>> from torch.utils.data import DataLoader
        >>> sampler = DistributedSampler(range(5), num_replicas=2, rank=1, shuffle=False)
        >>> num_unrepeated_rows(DataLoader(range(5), sampler=sampler))  # rows 1 and 3, and row 0 again
        2
    """
    batches = getattr(dataloader, "batch_sampler", None)
    sampler = getattr(batches if hasattr(batches, "sampler") else dataloader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return None
    return len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]


def without_repeated_rows(batches: Iterable[Any], dataloader: Any) -> Iterator[Any]:
    """Iterates over batches without the rows that a distributed sampler has repeated.

    Args:
        batches: Batches of a dataloader from its first one on.
        dataloader: The dataloader.

    Yields:
        The batches; the last ones are shorter, or left out, where rows are repeated.
    """
    limit, seen = num_unrepeated_rows(dataloader), 0
    for batch in batches:
        if limit is None:
            yield batch
            continue
        num_rows = _num_rows(batch)
        if num_rows <= limit - seen:
            yield batch
        elif limit > seen:
            yield _first_rows(batch, num_rows, limit - seen)
        seen += num_rows


def _num_rows(batch: Any) -> int:
    sizes: list[int] = []
    apply_to_collection(batch, Tensor, lambda tensor: sizes.append(len(tensor) if tensor.dim() else 0))
    return max(sizes, default=0)


def _first_rows(batch: Any, num_rows: int, size: int) -> Any:
    def cut(tensor: Tensor) -> Tensor:
        return tensor[:size] if tensor.dim() and len(tensor) == num_rows else tensor

    return apply_to_collection(batch, torch.Tensor, cut)
