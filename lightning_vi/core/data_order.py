"""Several shuffled orders of the same training data."""

import copy
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeGuard

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_vi.noise import mix_seed


class DataOrders:
    """Iterates over the data of a shuffled dataloader in several other orders.

    Each order is determined by the seed, its number and the epoch.

    Args:
        dataloader: A dataloader that can be reordered, see `can_reorder`.
        num_orders: Number of orders.
        seed: Seed of the orders, for samplers without a seed.

    Attributes:
        dataloader: The original dataloader.

    Example:
        >>> orders = DataOrders(DataLoader(range(6), batch_size=3, shuffle=True), num_orders=2, seed=0)
        >>> sorted(torch.cat([batch for batch, _ in orders.epoch(0)]).tolist())
        [0, 1, 2, 3, 4, 5]
    """

    def __init__(self, dataloader: DataLoader[Any], num_orders: int, seed: int) -> None:
        self.dataloader = dataloader
        numbers = range(1, num_orders + 1)
        pairs = [pair for number in numbers if (pair := _reordered(dataloader.sampler, seed, number)) is not None]
        self._set_epochs = [set_epoch for _, set_epoch in pairs]
        self._loaders = [with_sampler(dataloader, sampler) for sampler, _ in pairs]

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[tuple[Any, ...]]:
        """Iterates over an epoch.

        Args:
            epoch: Index of the epoch.
            first_batch: Index of the batch to start with.

        Returns:
            An iterator over tuples with one batch from each order.
        """
        for set_epoch in self._set_epochs:
            set_epoch(epoch)
        for loader in self._loaders:
            sampler: Any = loader.sampler
            sampler.num_skipped = first_batch * (loader.batch_size or 0)
        return zip(*self._loaders, strict=True)


def can_reorder(dataloader: object) -> TypeGuard[DataLoader[Any]]:
    """Returns whether the data of a dataloader can be shuffled in another order.

    Args:
        dataloader: Anything that yields batches.

    Returns:
        False for dataloaders that do not shuffle, iterable datasets and custom samplers.
    """
    return (
        (type(dataloader) is DataLoader or getattr(dataloader, "yields_plain_batches", False))
        and isinstance(dataloader, DataLoader)
        and not isinstance(dataloader.dataset, IterableDataset)
        and type(dataloader.batch_sampler) is BatchSampler
        and _reordered(dataloader.sampler, 0, 0) is not None
    )


def is_shuffled(dataloader: object) -> bool:
    """Returns whether a dataloader is known to give its data in another order than that of the data set.

    Args:
        dataloader: Anything that yields batches.

    Returns:
        False for dataloaders that do not shuffle, and where it cannot be told.
    """
    return isinstance(dataloader, DataLoader) and _reordered(dataloader.sampler, 0, 0) is not None


def _reordered(sampler: object, seed: int, number: int) -> tuple[Sampler[Any], Callable[[int], None]] | None:
    """Returns a sampler of the same rows in another order and a function that sets its epoch; None if impossible."""
    reordered: Any = copy.copy(sampler)
    if type(sampler) is DistributedSampler:
        reordered.seed = mix_seed(sampler.seed, number)  # the same in all processes
        return (reordered, reordered.set_epoch) if sampler.shuffle else None
    if not isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler):
        return None
    if hasattr(sampler, "seed") and hasattr(sampler, "set_epoch"):
        reordered.seed = mix_seed(reordered.seed, number)
        return reordered, reordered.set_epoch
    reordered.generator = torch.Generator()

    def set_epoch(epoch: int) -> None:
        reordered.generator.manual_seed(mix_seed(seed, number, epoch))

    return reordered, set_epoch


def with_sampler(dataloader: DataLoader[Any], sampler: Sampler[Any], drop_last: bool | None = None) -> DataLoader[Any]:
    """Returns a dataloader with another sampler.

    Args:
        dataloader: The dataloader.
        sampler: The sampler.
        drop_last: Whether to leave out a smaller last batch; None for as before.

    Returns:
        The new dataloader.
    """
    return DataLoader(
        dataloader.dataset,
        batch_size=dataloader.batch_size,
        sampler=_Rest(sampler),
        num_workers=dataloader.num_workers,
        collate_fn=dataloader.collate_fn,
        pin_memory=dataloader.pin_memory,
        drop_last=dataloader.drop_last if drop_last is None else drop_last,
        timeout=dataloader.timeout,
        worker_init_fn=dataloader.worker_init_fn,
        multiprocessing_context=dataloader.multiprocessing_context,
        prefetch_factor=dataloader.prefetch_factor,
        persistent_workers=dataloader.persistent_workers,
        generator=torch.Generator(),
    )


class _Rest(Sampler[Any]):
    """Rows of a sampler without the first `num_skipped` ones."""

    def __init__(self, sampler: Sampler[Any]) -> None:
        self.sampler = sampler
        self.num_skipped = 0

    def __iter__(self) -> Iterator[Any]:
        return islice(self.sampler, self.num_skipped, None)

    def __len__(self) -> int:
        return len(self.sampler) - self.num_skipped  # type: ignore[arg-type]
