"""Shuffling that depends on the seed and the epoch only."""

from collections.abc import Iterator, Sized

import numpy as np
import torch
from torch.utils.data import RandomSampler


class EpochShuffle(RandomSampler):
    """Sampler of a random permutation of the rows per epoch, which depends on the seed and the epoch only.

    With a generator that advances from epoch to epoch, the order of a run that is resumed or reloads its dataloaders
    would differ from that of an uninterrupted run. Lightning calls `set_epoch` before each epoch; in a plain loop each
    pass counts as an epoch. The base class is `RandomSampler` so that the `DistributedSampler` that Lightning injects
    shuffles too.

    Args:
        data_source: Dataset to sample from.
        seed: Seed of the order.
    """

    def __init__(self, data_source: Sized, seed: int) -> None:
        super().__init__(data_source)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch of the next pass."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        entropy = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
        self.epoch += 1
        generator = torch.Generator().manual_seed(int(entropy[0] >> np.uint64(1)))
        order: list[int] = torch.randperm(len(self), generator=generator).tolist()
        return iter(order)
