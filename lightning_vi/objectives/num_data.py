"""The number of training data N, found in a dataloader."""

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
    sampler: Any = dataloader.sampler if dataloader.batch_sampler is None else dataloader.batch_sampler
    if dataloader.batch_size is None and not hasattr(sampler, "sampler"):
        return None
    source = _source(getattr(sampler, "sampler", dataloader.sampler), dataloader.dataset)
    try:
        return len(source)
    except (TypeError, NotImplementedError):
        return None


def _source(sampler: Any, dataset: Any) -> Any:
    """What a sampler draws from."""
    if isinstance(sampler, DistributedSampler):
        wrapped = getattr(sampler.dataset, "_sampler", None)
        return sampler.dataset if wrapped is None else _source(wrapped, dataset)
    if isinstance(sampler, RandomSampler):
        return sampler.data_source
    return dataset if isinstance(sampler, WeightedRandomSampler) else sampler
