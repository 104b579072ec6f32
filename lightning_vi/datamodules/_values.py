"""Values of the columns of a table: numbers, or levels of a category."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_vi.datamodules._faults import INFINITE, NO_NUMBER, FaultKind, Faults
from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules._standardize import FloatArray


@dataclass(frozen=True)
class Levels:
    """Values of a column of categories.

    Attributes:
        codes: Number of each row's level in `names`, -1 for a missing value, [N].
        names: The different values as text.
    """

    codes: IntArray
    names: list[str]

    def __getitem__(self, rows: slice) -> "Levels":
        return Levels(self.codes[rows], self.names)

    @property
    def is_missing(self) -> NDArray[np.bool_]:
        """Mask of the missing values, [N]."""
        return self.codes < 0

    def texts(self) -> NDArray[np.object_]:
        """Returns the level of each row, None for a missing value, [N]."""
        return np.array([*self.names, None], dtype=object)[self.codes]

    def numbered(self, levels: Sequence[str]) -> IntArray:
        """Position of each row's level in `levels`, len(levels) for others, -1 for missing ones, [N]."""
        position = {level: number for number, level in enumerate(levels)}
        found = [position.get(name, len(levels)) for name in self.names]
        return np.array([*found, -1], dtype=np.int64)[self.codes]


def is_number_like(column: "pd.Series[Any]") -> bool:
    """Tells whether a column has numbers, perhaps with faults: a numeric type, or texts of which half are numbers."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return False
    if not is_text(column):
        return True
    present = column.dropna()
    numbers = pd.to_numeric(present, errors="coerce")
    return len(present) == 0 or bool(numbers.notna().mean() >= 0.5)


def is_text(column: "pd.Series[Any]") -> bool:
    """Tells whether a column has text or mixed objects."""
    return pd.api.types.is_object_dtype(column.dtype) or pd.api.types.is_string_dtype(column.dtype)


def to_numbers(column: "pd.Series[Any]", faults: Faults, kind: FaultKind = NO_NUMBER) -> FloatArray:
    """Numbers of a column, NaN for missing and 0 for wrong values, [N].

    Args:
        column: A column of numbers, or of texts of numbers.
        faults: Where values that are no finite numbers are reported.
        kind: The fault of values that are no numbers.
    """
    dtype = column.dtype
    if is_text(column) or isinstance(dtype, pd.CategoricalDtype):
        column = column.astype(object)
        values = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = np.isnan(values) & ~column.isna().to_numpy()
        faults.count(column.name, kind, wrong, column.array)
        values = np.where(wrong, 0.0, values)
    elif pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    else:
        faults.say(
            f"the values in {column.name!r} are of type {dtype}, which are no numbers: convert them, or leave the "
            "column out by drop_columns"
        )
        return np.zeros(len(column))
    infinite = np.abs(values) > np.finfo(np.float32).max
    if infinite.any():
        faults.count(column.name, INFINITE, infinite, values)
        values = np.where(infinite, 0.0, values)
    return values


def to_levels(column: "pd.Series[Any]") -> Levels:
    """Returns the levels of a column, as text: 1, 1.0 and '1' are one level."""
    codes, values = pd.factorize(column)
    return Levels(codes.astype(np.int64), [level_name(value) for value in values])


def level_name(value: Any) -> str:
    """Returns the text of a level, in which integers have no decimals."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    text = str(value)
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


def sort_levels(names: set[str]) -> list[str]:
    """Returns levels in order: by number if all are numbers, else by text."""
    try:
        return sorted(names, key=lambda name: (float(name), name))
    except ValueError:
        return sorted(names)


def fingerprint(values: FloatArray | Levels) -> NDArray[np.float32]:
    """Returns numbers that identify the values of a column, [N]: they themselves, or numbers of 24 bits for levels."""
    if isinstance(values, Levels):
        hashes = [int(hashlib.blake2b(name.encode(), digest_size=3).hexdigest(), 16) for name in values.names]
        return np.array([*hashes, -1], dtype=np.float32)[values.codes]
    numbers = values.astype(np.float32)
    numbers[np.isnan(numbers)] = np.nan  # one bit pattern
    return numbers
