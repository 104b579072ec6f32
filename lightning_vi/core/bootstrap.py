"""Bootstrap samples of consecutive rows, one for each member of an ensemble."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, Sampler

from lightning_vi.core.data_order import with_sampler
from lightning_vi.errors import InputTypeError
from lightning_vi.noise import mix_seed


def block_bootstrap(num_rows: int, num_members: int, block: int, seed: int) -> Tensor:
    """Draws blocks of consecutive rows with replacement (moving block bootstrap; Kunsch, 1989).

    Args:
        num_rows: Number of rows N.
        num_members: Number of samples M.
        block: Number of rows of a block; 1 for the ordinary bootstrap.
        seed: Seed.

    Returns:
        Row numbers of each sample, shape [M, N]; the last block is cut off.

    Example:
        >>> block_bootstrap(6, 2, 3, seed=0).shape
        torch.Size([2, 6])
    """
    size = min(block, num_rows)
    generator = torch.Generator().manual_seed(mix_seed(seed, num_members, size))
    num_blocks = math.ceil(num_rows / size)
    starts = torch.randint(num_rows - size + 1, (num_members, num_blocks), generator=generator, device="cpu")
    return (starts.unsqueeze(-1) + torch.arange(size, device="cpu")).flatten(1)[:, :num_rows]


class BootstrapOrders:
    """Iterates over a bootstrap sample of a dataloader's rows for each member, in a new order in each epoch.

    Args:
        dataloader: A dataloader of a data set whose rows can be indexed.
        num_members: Number of members M.
        block: Number of rows of a block.
        seed: Seed of the samples and of the orders.

    Attributes:
        dataloader: The original dataloader.

    Raises:
        TypeError: If rows cannot be indexed, or batches are not made of rows.
    """

    def __init__(self, dataloader: Any, num_members: int, block: int, seed: int) -> None:
        if (
            not isinstance(dataloader, DataLoader)
            or isinstance(dataloader.dataset, IterableDataset)
            or type(dataloader.batch_sampler) is not BatchSampler
        ):
            raise InputTypeError(
                f"bootstrap_block={block} needs a DataLoader with a batch_size, of a data set whose rows can be "
                f"indexed, got a {type(dataloader).__name__}"
            )
        self.dataloader = dataloader
        rows = block_bootstrap(len(dataloader.dataset), num_members, block, seed)  # type: ignore[arg-type]
        self._samplers = [_Sample(own, mix_seed(seed, index)) for index, own in enumerate(rows)]
        self._loaders = [with_sampler(dataloader, sampler) for sampler in self._samplers]

    def epoch(self, epoch: int, first_batch: int = 0) -> Iterator[tuple[Any, ...]]:
        """Iterates over an epoch, see `DataOrders.epoch`.

        Args:
            epoch: Index of the epoch.
            first_batch: Index of the batch to start with.

        Returns:
            An iterator over tuples with one batch for each member.
        """
        for sampler, loader in zip(self._samplers, self._loaders, strict=True):
            sampler.epoch = epoch
            loader.sampler.num_skipped = first_batch * (loader.batch_size or 0)  # type: ignore[attr-defined]
        return zip(*self._loaders, strict=True)


class _Sample(Sampler[int]):
    """The rows of one sample in random order."""

    def __init__(self, rows: Tensor, seed: int) -> None:
        self.rows = rows
        self.seed = seed
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, self.epoch))
        order = torch.randperm(len(self.rows), generator=generator, device="cpu")
        return iter(self.rows[order].tolist())

    def __len__(self) -> int:
        return len(self.rows)
