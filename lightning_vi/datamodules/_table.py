"""Conversion of tables to arrays: reading files, checking columns, encoding labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules._standardize import FloatArray
from lightning_vi.errors import InputTypeError, InputValueError


def read_table(data: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Returns the table in a `.csv` or `.parquet` file; a DataFrame is returned as it is.

    Raises:
        FileNotFoundError: If the file does not exist.
        ImportError: If a Parquet file is given and pyarrow is not installed.
        TypeError: If `data` is neither a path nor a DataFrame.
        ValueError: If the suffix is unknown, the table has no rows, or column names are not unique.
    """
    frame = data if isinstance(data, pd.DataFrame) else _read_file(data)
    if len(frame) == 0:
        raise InputValueError(f"data must have at least one row, got none, with columns {list(frame.columns)}.")
    if not frame.columns.is_unique:
        repeated = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
        raise InputValueError(f"data must have unique column names, got duplicates of {repeated}.")
    return frame


def _read_file(data: str | Path) -> pd.DataFrame:
    if not isinstance(data, str | Path):
        raise InputTypeError(f"data must be the path of a file or a DataFrame, got {type(data).__name__}.")
    path = Path(data).expanduser()
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise InputValueError(f"data must be a path ending in .csv or .parquet, got {str(data)!r}.")
    if not path.is_file():
        raise FileNotFoundError(f"data={str(data)!r}: file not found ({path.absolute()}).")
    if suffix == ".csv":
        try:
            return pd.read_csv(path)
        except pd.errors.EmptyDataError as error:
            raise InputValueError(f"data={str(data)!r}: expected a header and rows, got an empty file.") from error
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise ImportError(f"Reading data={str(data)!r} needs pyarrow: pip install 'lightning-vi[parquet]'.") from error
    return pd.read_parquet(path, engine="pyarrow")


def check_columns(argument: str, names: Sequence[str], frame: pd.DataFrame, remedy: str = "") -> None:
    """Raises a `ValueError`, ending with the remedy, unless `names` is one or more distinct columns of the table."""
    if not names:
        raise InputValueError(f"{argument} must name at least one column, got none of {list(frame.columns)}.")
    if missing := [name for name in names if name not in frame.columns]:
        raise InputValueError(f"{argument}: no columns {missing}; the table has {list(frame.columns)}.{remedy}")
    if len(set(names)) < len(names):
        raise InputValueError(f"{argument} must name each column once, got {list(names)}.")


def numeric_columns(argument: str, names: Sequence[str], frame: pd.DataFrame, remedy: str) -> FloatArray:
    """Returns the columns as floating-point numbers, [N, len(names)].

    Args:
        argument: What the columns are, for the messages.
        names: Names of the columns.
        frame: The table.
        remedy: What to do about columns that are not numeric.

    Raises:
        ValueError: If a column is neither real nor boolean, or has NaN, missing or infinite values.
    """
    kinds = {name: frame[name].dtype for name in names}
    if wrong := {name: str(kind) for name, kind in kinds.items() if not _is_real(kind)}:
        raise InputValueError(f"{argument} must be numeric columns, got {wrong}; {remedy}.")
    values = np.stack([frame[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in names], axis=1)
    counts = (~(np.abs(values) <= np.finfo(np.float32).max)).sum(axis=0)
    if counts.any():
        bad = {name: int(count) for name, count in zip(names, counts, strict=True) if count}
        raise InputValueError(
            f"{argument} must be finite in float32, got NaN, missing or infinite values "
            f"(count per column): {bad}; drop or fill these rows."
        )
    return values


def _is_real(dtype: Any) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype)


def find_classes(column: "pd.Series[Any]") -> list[Any]:
    """Returns the C label values of a column in sorted order.

    Raises:
        ValueError: If a label is missing or a non-integer float, neither a number nor text, the types of the labels are
            mixed, or there are fewer than two classes.
    """
    _check_complete(column)
    values = column.tolist()
    if fractional := sum(isinstance(value, float) and not value.is_integer() for value in values):
        raise InputValueError(
            f"target_columns: task='classification' needs class labels, got {fractional} values in "
            f"{column.name!r} that are not integers; pass task='regression' for a continuous target."
        )
    if other := sorted({type(value).__name__ for value in values if not isinstance(value, str | int | float)}):
        raise InputValueError(f"target_columns: the labels in {column.name!r} must be numbers or text, got {other}.")
    try:
        classes = sorted(set(values))
    except TypeError as error:
        kinds = sorted({type(value).__name__ for value in values})
        raise InputValueError(f"target_columns: the labels in {column.name!r} mix the types {kinds}.") from error
    if len(classes) < 2:
        raise InputValueError(f"target_columns: {column.name!r} must have at least two classes, got {classes}.")
    return classes


def to_codes(column: "pd.Series[Any]", classes: Sequence[Any]) -> IntArray:
    """Returns the labels encoded as 0..C-1, [N].

    Raises:
        ValueError: If a label is missing or no class.
    """
    _check_complete(column)
    code = {label: number for number, label in enumerate(classes)}
    values = column.tolist()
    if unknown := {value for value in values if value not in code}:
        shown = sorted(map(repr, unknown))
        raise InputValueError(
            f"target_columns: {column.name!r} has {len(shown)} labels that are no classes of the fit: "
            f"{', '.join(shown[:5])}{', ...' if len(shown) > 5 else ''}; the classes are {list(classes)}."
        )
    return np.array([code[value] for value in values], dtype=np.int64)


def _check_complete(column: "pd.Series[Any]") -> None:
    if missing := int(column.isna().sum()):
        raise InputValueError(f"target_columns: {missing} labels in {column.name!r} are NaN or missing.")
