"""Number of training examples of a dataloader."""

from collections.abc import Sized
from typing import Any

from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, RandomSampler, WeightedRandomSampler


def count_training_data(dataloader: Any) -> int | None:
    """Counts the training examples N that a dataloader samples from, over all ranks.

    Samplers over a subset count the subset; samplers with replacement count the whole dataset. Dropping the last batch
    or limiting the number of batches does not change N.

    Args:
        dataloader: A `torch.utils.data.DataLoader` or any other object.

    Returns:
        N, or None if it is unknown, as for iterable datasets without ``__len__`` and for objects that are not a single
        dataloader. The length of an iterable dataset is that of the data of all workers and ranks.

    Example:
        >>> import torch
        >>> from torch.utils.data import DataLoader, Subset, TensorDataset
        >>> data = TensorDataset(torch.zeros(100, 1))
        >>> count_training_data(DataLoader(Subset(data, range(30)), batch_size=8))
        30
    """
    if not isinstance(dataloader, DataLoader):
        return None
    if isinstance(dataloader.dataset, IterableDataset):
        return len(dataloader.dataset) if isinstance(dataloader.dataset, Sized) else None
    batches: Any = dataloader.sampler if dataloader.batch_sampler is None else dataloader.batch_sampler
    try:
        return len(_source(getattr(batches, "sampler", None), dataloader.dataset))
    except (TypeError, NotImplementedError):
        return None


def _source(sampler: Any, dataset: Any) -> Any:
    """Collection of the examples that a sampler samples from."""
    if isinstance(sampler, DistributedSampler):
        wrapped = getattr(sampler.dataset, "_sampler", None)
        return sampler.dataset if wrapped is None else _source(wrapped, dataset)
    if isinstance(sampler, RandomSampler):
        return sampler.data_source
    return dataset if isinstance(sampler, WeightedRandomSampler) else sampler
