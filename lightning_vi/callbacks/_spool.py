"""The rows of many batches of predictions, most of them in a temporary folder."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

ROWS_IN_MEMORY = 50_000
POSITION = ["dataloader", "index"]


class PredictionRows:
    """Rows with the columns `dataloader` and `index`, of which a limited number is in memory.

    Attributes:
        has_index: Whether each row has an index.
        dataloaders: Indices of the dataloaders.
    """

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None
        self.clear()

    def clear(self) -> None:
        """Discards all rows."""
        if self._folder is not None:
            self._folder.cleanup()
        self._folder = None
        self._files: list[Path] = []
        self._tables: list[pd.DataFrame] = []
        self._num_in_memory = 0
        self._last = (-1, -1)
        self._in_order = True
        self.has_index = True
        self.dataloaders: set[int] = set()

    def append(self, table: pd.DataFrame) -> None:
        """Adds rows at the end.

        Args:
            table: The rows, at least one.
        """
        loaders = table["dataloader"].to_numpy()
        self.dataloaders.update(loaders.tolist())
        self.has_index = self.has_index and not table["index"].isna().any()
        if self.has_index:
            index = table["index"].to_numpy()
            rises = (loaders[1:] > loaders[:-1]) | ((loaders[1:] == loaders[:-1]) & (index[1:] >= index[:-1]))
            self._in_order &= bool(np.all(rises)) and (loaders[0], index[0]) >= self._last
            self._last = loaders[-1], index[-1]
        self._tables.append(table)
        self._num_in_memory += len(table)
        if self._num_in_memory >= ROWS_IN_MEMORY:
            self._write()

    def parts(self) -> Iterator[pd.DataFrame]:
        """Yields the rows as they were added, some at a time."""
        for file in self._files:
            yield pd.read_pickle(file)
        if self._tables:
            yield pd.concat(self._tables, ignore_index=True)

    def sorted_parts(self) -> Iterator[pd.DataFrame]:
        """Yields the rows by dataloader and index: some at a time if they were added so, else all at once."""
        if self._in_order and (self.has_index or len(self.dataloaders) <= 1):
            yield from self.parts()
        else:
            yield pd.concat(list(self.parts()), ignore_index=True).sort_values(POSITION, kind="stable")

    def _write(self) -> None:
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="lightning_vi_")
        file = Path(self._folder.name) / f"{len(self._files)}.pkl"
        pd.concat(self._tables, ignore_index=True).to_pickle(file)
        self._files.append(file)
        self._tables, self._num_in_memory = [], 0
