"""Digest of a table's values, by which a table is recognized wherever it is read from."""

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_vi.datamodules._faults import Faults
from lightning_vi.datamodules._features import Values
from lightning_vi.datamodules._files import CHUNK_ROWS, Reading, TableSource, count_rows, read_chunks
from lightning_vi.datamodules._state import DataState
from lightning_vi.datamodules._treatment import Treatment
from lightning_vi.datamodules._values import fingerprint
from lightning_vi.errors import InputValueError


def table_digest(num_rows: int, chunks: Iterable[tuple[list[Values], NDArray[Any]]]) -> str:
    """Returns a digest of the values of a table, rounded to float32, in which a CSV file equals the original.

    Args:
        num_rows: Number of rows N.
        chunks: Values of the input columns, and targets, [n, D] or [n], of consecutive rows.
    """
    total = hashlib.blake2b(digest_size=16)
    targets: list[NDArray[Any]] = []
    for values, chunk_targets in chunks:
        if not targets:
            total.update(f"float32{[num_rows, len(values)]}".encode())
        total.update(np.stack([fingerprint(column) for column in values], axis=1).tobytes())
        targets.append(chunk_targets.astype("float32"))
    joined = np.concatenate(targets)
    total.update(f"float32{list(joined.shape)}".encode())
    total.update(joined.tobytes())
    return total.hexdigest()


def whole_digest(values: list[Values], targets: NDArray[Any]) -> str:
    """Returns the digest of a table in memory."""
    starts = range(0, len(targets), CHUNK_ROWS)
    return table_digest(
        len(targets),
        (
            ([column[start : start + CHUNK_ROWS] for column in values], targets[start : start + CHUNK_ROWS])
            for start in starts
        ),
    )


def is_seen(data: TableSource, reading: Reading, state: DataState) -> bool:
    """Tells whether a table was used in the fit, or in the calibration, that a state is from."""
    treatment = Treatment.from_state(state)

    def treated(frame: pd.DataFrame) -> tuple[list[Values], NDArray[Any]]:
        faults = Faults()
        values, targets = list(treatment.inputs(frame, faults).values()), treatment.targets(frame, faults)
        faults.raise_if_any()
        return values, targets

    try:
        rows = table_digest(count_rows(data, reading), (treated(frame) for frame in read_chunks(data, reading)))
    except InputValueError:
        return False
    return any(table["rows"] == rows for table in state["tables"])
