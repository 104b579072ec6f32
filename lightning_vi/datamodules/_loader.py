"""Dataloaders of rows, which a resumed fit continues where it was."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_vi.datamodules._rows import RowDataset, collate_rows
from lightning_vi.datamodules._shuffle import EpochShuffle


class ResumableLoader(DataLoader[Any]):
    """`DataLoader` whose position within an epoch is part of Lightning's checkpoints.

    A pass after `load_state_dict` starts after the batches that had been delivered, if the epoch is the same; the
    sampler must depend on the epoch alone. Skipped batches are made and discarded. A pass starts with its first batch,
    when Lightning has told the sampler the epoch.
    """

    yields_plain_batches = True
    _position: tuple[int, int] = (0, 0)
    _resumed: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch: int = getattr(self.sampler, "epoch", 0)
        first = self._resumed[1] if self._resumed is not None and self._resumed[0] == epoch else 0
        self._resumed = None
        self._position = (epoch, first)
        for index, batch in enumerate(super().__iter__()):
            if index >= first:
                self._position = (epoch, index + 1)
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Returns the epoch and the number of batches that have been delivered in it."""
        epoch, num_batches = self._position if self._resumed is None else self._resumed
        return {"epoch": epoch, "num_batches": num_batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Sets the position at which the next pass starts."""
        epoch, num_batches = state["epoch"], state["num_batches"]
        if num_batches >= len(self):
            epoch, num_batches = epoch + 1, 0
        self._resumed = (epoch, num_batches)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)


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
    return dataset_loader(
        RowDataset(inputs, targets),
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=pin_memory,
        shuffle_seed=shuffle_seed,
        shuffle=shuffle,
    )


def dataset_loader(
    dataset: Any, *, batch_size: int, num_workers: int, pin_memory: bool, shuffle_seed: int, shuffle: bool = False
) -> DataLoader[Any]:
    """Returns batches of a dataset with `__getitems__`; see `row_loader`."""
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
