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
