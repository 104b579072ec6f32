"""Dataset of tensor rows whose batches are gathered with one indexing call instead of one call per row."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

Sample = tuple[Tensor, Tensor]


class RowBatch:
    """Samples of one batch, stored as whole tensors but usable as a sequence of `(x, y)` samples.

    `torch.utils.data` requires `Dataset.__getitems__` to return a sequence of samples. This class is one, so that any
    collate function works with it, while `collate_rows` returns the tensors directly.

    Args:
        inputs: Inputs of the batch, [B, ...].
        targets: Targets of the batch, [B, ...].
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Sample:
        return self.inputs[index], self.targets[index]

    def __iter__(self) -> Iterator[Sample]:
        return zip(self.inputs, self.targets, strict=True)


class RowDataset(Dataset[Sample]):
    """Dataset of pairs of rows `(X[i], Y[i])`.

    Args:
        inputs: Inputs, [N, ...].
        targets: Targets, [N, ...].
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> Sample:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> RowBatch:
        rows = torch.tensor(indices, dtype=torch.long)
        return RowBatch(self.inputs[rows], self.targets[rows])


def collate_rows(batch: RowBatch | list[Sample]) -> Sample:
    """Returns the batch `(x, y)`, without a Python call per row for a `RowBatch`."""
    if isinstance(batch, RowBatch):
        return batch.inputs, batch.targets
    inputs, targets = default_collate(batch)
    return inputs, targets
