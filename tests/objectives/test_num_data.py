"""Number of training examples for all kinds of dataloaders and samplers."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_vi.objectives import count_training_data

DATA = TensorDataset(torch.zeros(100, 1))
WEIGHTS = torch.ones(100)


class Iterable(IterableDataset[int]):
    def __iter__(self) -> Iterator[int]:
        yield from range(100)


class IterableWithLength(Iterable):
    def __len__(self) -> int:
        return 100


class CustomSampler(Sampler[int]):
    """A custom sampler with a length."""

    def __iter__(self) -> Iterator[int]:
        return iter(range(20))

    def __len__(self) -> int:
        return 20


class SamplerWithoutLength(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(range(20))


def ranks(sampler: Any) -> DistributedSamplerWrapper:
    return DistributedSamplerWrapper(sampler, num_replicas=3, rank=1)


LOADERS: dict[str, tuple[Callable[[], Any], int | None]] = {
    "plain": (lambda: DataLoader(DATA, batch_size=8), 100),
    "shuffled": (lambda: DataLoader(DATA, batch_size=8, shuffle=True), 100),
    "ragged": (lambda: DataLoader(DATA, batch_size=64), 100),
    "drop_last": (lambda: DataLoader(DATA, batch_size=64, drop_last=True), 100),
    "Subset": (lambda: DataLoader(Subset(DATA, range(30)), batch_size=8, shuffle=True), 30),
    "ConcatDataset": (lambda: DataLoader(ConcatDataset([DATA, DATA]), batch_size=8), 200),
    "SubsetRandomSampler": (lambda: DataLoader(DATA, sampler=SubsetRandomSampler(range(30))), 30),
    "custom sampler": (lambda: DataLoader(DATA, sampler=CustomSampler()), 20),
    "RandomSampler, with replacement": (
        lambda: DataLoader(DATA, sampler=RandomSampler(DATA, replacement=True, num_samples=1000)),
        100,
    ),
    "RandomSampler, few": (lambda: DataLoader(DATA, sampler=RandomSampler(DATA, num_samples=10)), 100),
    "WeightedRandomSampler": (lambda: DataLoader(DATA, sampler=WeightedRandomSampler(WEIGHTS, 1000)), 100),
    "DistributedSampler": (lambda: DataLoader(DATA, sampler=DistributedSampler(DATA, 3, 1)), 100),
    "DistributedSampler of a Subset": (
        lambda: DataLoader(Subset(DATA, range(31)), sampler=DistributedSampler(Subset(DATA, range(31)), 3, 1)),
        31,
    ),
    "UnrepeatedDistributedSampler": (
        lambda: DataLoader(DATA, sampler=UnrepeatedDistributedSampler(DATA, num_replicas=3, rank=1)),
        100,
    ),
    "wrapped SubsetRandomSampler": (lambda: DataLoader(DATA, sampler=ranks(SubsetRandomSampler(range(31)))), 31),
    "wrapped WeightedRandomSampler": (
        lambda: DataLoader(DATA, sampler=ranks(WeightedRandomSampler(WEIGHTS, 1000))),
        100,
    ),
    "wrapped RandomSampler, with replacement": (
        lambda: DataLoader(DATA, sampler=ranks(RandomSampler(DATA, replacement=True, num_samples=1000))),
        100,
    ),
    "batch_sampler": (
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler(range(30)), 8, False)),
        30,
    ),
    "batch_sampler, weighted": (
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(WeightedRandomSampler(WEIGHTS, 1000), 8, False)),
        100,
    ),
    "batch_sampler, in order": (
        lambda: DataLoader(DATA, batch_sampler=BatchSampler(SequentialSampler(range(30)), 8, False)),
        30,
    ),
    "batch_sampler, a list": (lambda: DataLoader(DATA, batch_sampler=[[0, 1], [2, 3]]), None),
    "batches as samples": (
        lambda: DataLoader(DATA, sampler=BatchSampler(RandomSampler(DATA), 8, False), batch_size=None),
        100,
    ),
    "a dataset of batches": (lambda: DataLoader(DATA, batch_size=None), None),
    "IterableDataset": (lambda: DataLoader(Iterable(), batch_size=8), None),
    "IterableDataset with a length": (lambda: DataLoader(IterableWithLength(), batch_size=8), 100),
    "sampler without a length": (lambda: DataLoader(DATA, sampler=SamplerWithoutLength()), None),
    "several dataloaders": (lambda: {"a": DataLoader(DATA), "b": DataLoader(DATA)}, None),
    "a list of batches": (lambda: [torch.zeros(3, 1)], None),
    "empty": (lambda: DataLoader(Subset(DATA, [])), 0),
}


@pytest.mark.parametrize(("make", "expected"), LOADERS.values(), ids=LOADERS)
def test_count(make: Callable[[], Any], expected: int | None) -> None:
    assert count_training_data(make()) == expected
