"""Dataset of tensor rows whose batches are gathered with one indexing call instead of one call per row."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from lightning_vi.datamodules._loader import ResumableLoader
from lightning_vi.datamodules._shuffle import EpochShuffle

Sample = tuple[Tensor, Tensor]


class RowBatch:
    """Samples of one batch, stored as whole tensors but usable as a sequence of `(x, y)` samples.

    `torch.utils.data` requires `Dataset.__getitems__` to return a sequence of samples. This class is one, so that any
    collate function works with it, while `collate_rows` returns the tensors directly.

    Args:
        inputs: Inputs of the batch, [B, ...].
        targets: Targets of the batch, [B, ...]; None for samples `x` without targets.
    """

    def __init__(self, inputs: Tensor, targets: Tensor | None) -> None:
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Sample | Tensor:
        return self.inputs[index] if self.targets is None else (self.inputs[index], self.targets[index])

    def __iter__(self) -> Iterator[Sample | Tensor]:
        return map(self.__getitem__, range(len(self)))


class RowDataset(Dataset[Sample | Tensor]):
    """Dataset of pairs of rows `(X[i], Y[i])`, or of rows `X[i]`.

    Args:
        inputs: Inputs, [N, ...].
        targets: Targets, [N, ...]; None for unlabeled rows.
    """

    def __init__(self, inputs: Tensor, targets: Tensor | None) -> None:
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Sample | Tensor:
        return self.inputs[index] if self.targets is None else (self.inputs[index], self.targets[index])

    def __getitems__(self, indices: Sequence[int]) -> RowBatch:
        rows = torch.tensor(indices, dtype=torch.long)
        return RowBatch(self.inputs[rows], None if self.targets is None else self.targets[rows])


def collate_rows(batch: RowBatch | list[Sample]) -> Sample | Tensor:
    """Returns the batch `(x, y)`, or `x`, without a Python call per row for a `RowBatch`."""
    if not isinstance(batch, RowBatch):
        inputs, targets = default_collate(batch)
        return inputs, targets
    return batch.inputs if batch.targets is None else (batch.inputs, batch.targets)


def row_loader(
    inputs: Tensor,
    targets: Tensor | None,
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
    shuffle_seed: int,
    shuffle: bool = False,
) -> DataLoader[Any]:
    """Returns batches `(x, y)`, or `x`, of rows, in order or shuffled for each epoch.

    Args:
        inputs: Inputs, [N, ...].
        targets: Targets, [N, ...]; None for unlabeled rows.
        batch_size: Number of rows per batch.
        num_workers: Number of worker processes.
        pin_memory: Whether batches are copied to page-locked memory.
        shuffle_seed: Seed of the order.
        shuffle: Whether to shuffle.
    """
    dataset = RowDataset(inputs, targets)
    return (ResumableLoader if shuffle else DataLoader)(
        dataset,
        batch_size=batch_size,
        sampler=EpochShuffle(dataset, shuffle_seed) if shuffle else None,
        collate_fn=collate_rows,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        # Without a generator, each pass draws a base seed from the global random state of PyTorch.
        generator=torch.Generator().manual_seed(shuffle_seed),
    )
