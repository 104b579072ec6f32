"""Rows of a table of a file, treated as in a fit, with a chunk of them in memory."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lightning_vi.datamodules._faults import NEW_MISSING_INPUT, Faults
from lightning_vi.datamodules._features import is_missing
from lightning_vi.datamodules._files import Reading, TableSource, read_chunks
from lightning_vi.datamodules._rows import RowBatch, Sample
from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules._treatment import Treatment, missing_targets, row_ids


class Survey(NamedTuple):
    """Result of one pass over a table.

    Attributes:
        num_rows: Number of rows of the table.
        kept: Row numbers of the rows that are not left out, [N].
        has_targets: Whether each of these rows has all targets.
        id_name: Name of the row identifiers.
        ids: Identifiers of the rows that are not left out, [N].
        unknown: Number of values by column that are no level of the training rows.
    """

    num_rows: int
    kept: IntArray
    has_targets: bool
    id_name: str
    ids: Any
    unknown: dict[Any, int]


def survey(data: TableSource, reading: Reading, treatment: Treatment, id_column: Any | None) -> Survey:
    """Checks all rows of a table.

    Raises:
        ValueError: If a column is missing or values do not fit; the message has all of them.
    """
    faults = Faults()
    kept: list[IntArray] = []
    ids: list[NDArray[Any]] = []
    unknown: dict[Any, int] = dict.fromkeys([column.name for column in treatment.features.categories], 0)
    id_name, has_targets = "index", True
    for frame in read_chunks(data, reading):
        values = treatment.inputs(frame, faults)
        treatment.features.report(values, faults, NEW_MISSING_INPUT)
        for column in treatment.features.categories:
            unknown[column.name] += int((column.codes(values[column.name]) == len(column.levels or [])).sum())
        stays = np.ones(len(frame), dtype=bool)
        if treatment.features.missing == "drop":
            stays = ~np.any([is_missing(column) for column in values.values()], axis=0)
        has_targets = has_targets and all(name in frame.columns for name in treatment.target_names)
        if has_targets:
            has_targets = not missing_targets(treatment.targets(frame, faults))[stays].any()
        id_name, chunk_ids = row_ids(frame, id_column)
        ids.append(chunk_ids[stays] if id_column is not None else faults.num_rows + chunk_ids[stays])
        kept.append(faults.num_rows + np.flatnonzero(stays))
        faults.end_chunk(len(frame))
    faults.raise_if_any()
    return Survey(faults.num_rows, np.concatenate(kept), has_targets, id_name, np.concatenate(ids), unknown)


class ChunkedRows(Dataset[Sample | Tensor]):
    """Rows `(x, y)` or `x` of a table; those of the present chunk are in memory, and earlier ones are read anew.

    Args:
        data: The table.
        reading: How it is read.
        treatment: How it is treated.
        rows: Row numbers in the table of the rows, [N].
        has_targets: Whether there are targets.
    """

    def __init__(
        self, data: TableSource, reading: Reading, treatment: Treatment, rows: IntArray, has_targets: bool
    ) -> None:
        self.data, self.reading, self.treatment = data, reading, treatment
        self.rows, self.has_targets = rows, has_targets
        self._chunks: Iterator[pd.DataFrame] | None = None
        self._start = self._stop = 0
        self._inputs = torch.empty(0)
        self._targets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state for worker processes, which open the file themselves."""
        return self.__dict__ | {"_chunks": None, "_start": 0, "_stop": 0}

    def __getitem__(self, index: int) -> Sample | Tensor:
        return self.__getitems__([index])[0]

    def all_rows(self) -> RowBatch:
        """Returns all rows at once."""
        return self.__getitems__(range(len(self)))

    def __getitems__(self, indices: Sequence[int]) -> RowBatch:
        wanted = self.rows[np.asarray(indices, dtype=np.int64)]
        order = np.argsort(wanted, kind="stable")
        parts: list[RowBatch] = []
        done = 0
        while done < len(order):
            self._seek(int(wanted[order[done]]))
            stop = int(np.searchsorted(wanted[order], self._stop))
            rows = torch.from_numpy(wanted[order[done:stop]] - self._start)
            parts.append(RowBatch(self._inputs[rows], None if self._targets is None else self._targets[rows]))
            done = stop
        back = torch.from_numpy(np.argsort(order, kind="stable"))
        targets = [part.targets for part in parts if part.targets is not None]
        inputs = torch.cat([part.inputs for part in parts])[back]
        return RowBatch(inputs, torch.cat(targets)[back] if targets else None)

    def _seek(self, row: int) -> None:
        """Makes the chunk of a row the present one."""
        if self._chunks is None or row < self._start:
            self._chunks = read_chunks(self.data, self.reading)
            self._start = self._stop = 0
        while row >= self._stop:
            frame = next(self._chunks)
            self._start, self._stop = self._stop, self._stop + len(frame)
            if row < self._stop:
                self._load(frame)

    def _load(self, frame: pd.DataFrame) -> None:
        ignored = Faults()
        values, every = self.treatment.inputs(frame, ignored), np.arange(len(frame))
        self._inputs = self.treatment.features.encode(values, self.treatment.input_scale, every)
        self._targets = None
        if self.has_targets:
            self._targets = self.treatment.as_targets(self.treatment.targets(frame, ignored))
