"""The number of training data N, found in a dataloader."""

from collections.abc import Sized
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, WeightedRandomSampler


def count_training_data(dataloader: Any) -> int | None:
    """Number of data that one epoch of training draws from, over all ranks.

    A sampler that runs over part of a dataset counts that part, one that draws with replacement the whole dataset,
    one that is spread over ranks all of them together. A last batch that is dropped, and a limit on the number of
    batches, change nothing: they cut the epoch short, not the data set.

    Args:
        dataloader: A `torch.utils.data.DataLoader`, or anything else.

    Returns:
        N, or None where it cannot be known: iterable datasets, several dataloaders, other objects.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, Subset, TensorDataset
        >>> data = TensorDataset(torch.zeros(100, 1))
        >>> count_training_data(DataLoader(Subset(data, range(30)), batch_size=8))
        30
    """
    if not isinstance(dataloader, DataLoader) or isinstance(dataloader.dataset, IterableDataset):
        return None
    sampler = dataloader.sampler
    if not isinstance(getattr(dataloader.batch_sampler, "sampler", sampler), type(sampler)):
        sampler = dataloader.batch_sampler.sampler  # type: ignore[union-attr]
    if isinstance(sampler, DistributedSampler):
        source: Any = sampler.dataset
    elif isinstance(sampler, RandomSampler):
        source = sampler.data_source
    elif isinstance(sampler, WeightedRandomSampler):
        source = dataloader.dataset
    else:
        source = sampler
    return len(source) if isinstance(source, Sized) else None
