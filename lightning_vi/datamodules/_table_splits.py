"""Splits of the rows of a table: at random, predefined, by groups or by time."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lightning_vi.datamodules._faults import MISSING_SPLIT, FaultKind, Faults
from lightning_vi.datamodules._split import IntArray, check_fractions, predefined_rows, split_rows
from lightning_vi.datamodules._values import is_text, sort_levels, to_levels
from lightning_vi.errors import InputValueError

NO_TIME = FaultKind("is no time", "are no times", "give times as numbers or as dates such as 2024-12-31")
IN_TIME = ("train", "val", "calib", "test")


def group_numbers(column: "pd.Series[Any]", faults: Faults) -> IntArray:
    """Returns the number of each row's group, in the order of the groups' names, [N]."""
    levels = to_levels(column)
    faults.count(column.name, MISSING_SPLIT, levels.is_missing)
    return levels.numbered(sort_levels(set(levels.names)))


def time_numbers(column: "pd.Series[Any]", faults: Faults) -> NDArray[Any]:
    """Returns the times of a column as numbers, [N]."""
    faults.count(column.name, MISSING_SPLIT, column.isna().to_numpy())
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about a format that pandas cannot guess
        times = pd.to_datetime(column.astype(str) if is_text(column) else column, errors="coerce", utc=True)
    faults.count(column.name, NO_TIME, (times.isna() & column.notna()).to_numpy(), column.array)
    return times.dt.tz_localize(None).to_numpy().astype(np.int64)


def split_table(
    kept: IntArray,
    fractions: Mapping[str, float],
    seed: int,
    groups: IntArray | None = None,
    times: NDArray[Any] | None = None,
) -> dict[str, IntArray]:
    """Returns disjoint row numbers of each split.

    Args:
        kept: Row numbers to split.
        fractions: Fraction of the rows, or of the groups, by the name of the split.
        seed: Seed of the split.
        groups: Group of each row of the table, which stays in one split; None for none.
        times: Time of each row of the table; None for none. Each split is later than the one before, in the order
            train, val, calib, test.

    Raises:
        ValueError: If a fraction is out of range or a split would be empty.
    """
    if fractions["test"] == 0.0:
        raise InputValueError("test_fraction must be greater than 0 when test_indices is None, got 0.0.")
    if times is not None:
        return _split_by_time(kept, fractions, times)
    if groups is None:
        return split_rows(kept, fractions, seed)
    of_kept = groups[kept]
    parts = split_rows(np.unique(of_kept), fractions, seed, unit="groups")
    return {name: kept[np.isin(of_kept, numbers)] for name, numbers in parts.items()}


def _split_by_time(kept: IntArray, fractions: Mapping[str, float], times: NDArray[Any]) -> dict[str, IntArray]:
    check_fractions(fractions)
    ordered = kept[np.argsort(times[kept], kind="stable")]
    moments = times[ordered]
    splits: dict[str, IntArray] = {}
    stop = len(ordered)
    for name in reversed(IN_TIME[1:]):
        if fractions[name] == 0.0:
            continue
        start = stop - round(fractions[name] * len(ordered))
        start = int(np.searchsorted(moments, moments[start], side="left")) if 0 < start < stop else start
        if not 0 < start < stop:
            raise InputValueError(
                f"{name}_fraction={fractions[name]} of {len(ordered)} rows, in the order of time_column, leaves the "
                f"{name if start >= stop else 'train'} split empty; rows of one time stay together."
            )
        splits[name], stop = ordered[start:stop], start
    return {"train": ordered[:stop], **splits}


def split_predefined(
    num_rows: int,
    kept: IntArray,
    fractions: Mapping[str, float],
    seed: int,
    train_indices: Sequence[int] | None,
    test_indices: Sequence[int],
) -> dict[str, IntArray]:
    """Returns a predefined split, without the rows that are not kept; see `split_table`."""
    train, test = predefined_rows(num_rows, train_indices, test_indices)
    train, test = train[np.isin(train, kept)], test[np.isin(test, kept)]
    if min(len(train), len(test)) == 0:
        raise InputValueError("train_indices and test_indices must name rows without missing values, got none.")
    others = {name: fraction for name, fraction in fractions.items() if name != "test"}
    return {**split_rows(train, others, seed), "test": test}
