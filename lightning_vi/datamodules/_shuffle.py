"""Shuffling that depends on (seed, epoch) alone."""

from collections.abc import Iterator, Sized

import numpy as np
import torch
from torch.utils.data import RandomSampler


class EpochShuffle(RandomSampler):
    """A random permutation of the rows per epoch, a function of the seed and the epoch and of nothing else.

    A generator that is carried from epoch to epoch would give a resumed run, or one that reloads its
    dataloaders, another order than an unbroken one. Lightning calls `set_epoch` before each epoch; in a plain
    loop each pass counts as an epoch. As a `RandomSampler` it tells Lightning that the loader is shuffled, so
    that the `DistributedSampler` injected in a distributed run shuffles too.

    Args:
        data_source: The dataset to draw rows from.
        seed: Seed of the order.
    """

    def __init__(self, data_source: Sized, seed: int) -> None:
        super().__init__(data_source)
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass the one of this epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        entropy = np.random.SeedSequence([self.seed, self.epoch]).generate_state(1, np.uint64)
        self.epoch += 1
        generator = torch.Generator().manual_seed(int(entropy[0] >> np.uint64(1)))
        order: list[int] = torch.randperm(len(self), generator=generator).tolist()
        return iter(order)
