"""Splits of rows that depend only on their number, the fractions and the seed."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lightning_vi.errors import InputValueError

IntArray = NDArray[np.int64]


def split_rows(
    rows: IntArray,
    fractions: Mapping[str, float],
    seed: int,
    strata: IntArray | None = None,
    unit: str = "rows",
) -> dict[str, IntArray]:
    """Returns disjoint row numbers for each named split; all other rows are `train`.

    Args:
        rows: Row numbers to split, [N].
        fractions: Fraction of the N rows per split name; a split of fraction 0 is omitted.
        seed: Seed of the split.
        strata: Class labels, indexed by row number, for a stratified split; None for a random split.
        unit: What is split, for the messages.

    Raises:
        ValueError: If a fraction is outside [0, 1), they sum to 1 or more, or a split would be empty.
    """
    from sklearn.model_selection import train_test_split

    listed = check_fractions(fractions)
    splits: dict[str, IntArray] = {}
    remaining = rows
    for name, fraction in fractions.items():
        if fraction == 0.0:
            continue
        count = round(fraction * len(rows))
        if count == 0:
            raise InputValueError(
                f"{name}_fraction={fraction} of {len(rows)} {unit} leaves the {name} split empty; "
                f"pass a larger fraction or more {unit}."
            )
        if count >= len(remaining):
            raise InputValueError(f"The fractions must leave rows to train on, got {listed} of {len(rows)} {unit}.")
        remaining, splits[name] = train_test_split(
            remaining,
            test_size=count,
            random_state=seed,
            stratify=None if strata is None else strata[remaining],
        )
    return {"train": remaining, **splits}


def check_fractions(fractions: Mapping[str, float]) -> str:
    """Returns the fractions in words; raises a `ValueError` unless each is in [0, 1) and their sum below 1."""
    for name, fraction in fractions.items():
        if not 0.0 <= fraction < 1.0:
            raise InputValueError(f"{name}_fraction must be at least 0 and less than 1, got {fraction!r}.")
    listed = ", ".join(f"{name}_fraction={fraction}" for name, fraction in fractions.items())
    if sum(fractions.values()) >= 1.0:
        raise InputValueError(f"The fractions must sum to less than 1, to leave rows to train on, got {listed}.")
    return listed


def predefined_rows(
    n_rows: int, train_indices: Sequence[int] | None, test_indices: Sequence[int]
) -> tuple[IntArray, IntArray]:
    """Returns the given training and test rows; all other rows are training rows if `train_indices` is None.

    Raises:
        ValueError: If row numbers are not integers in [0, n_rows), are empty, repeated or in both sets.
    """
    test = _checked_rows("test_indices", test_indices, n_rows)
    if train_indices is None:
        train = np.setdiff1d(np.arange(n_rows), test)
        if len(train) == 0:
            raise InputValueError(f"test_indices must leave rows to train on, got all {n_rows} rows.")
        return train, test
    train = _checked_rows("train_indices", train_indices, n_rows)
    if shared := np.intersect1d(train, test).tolist():
        raise InputValueError(
            f"train_indices and test_indices must not overlap, got {len(shared)} rows in both: {shared[:5]}"
            f"{', ...' if len(shared) > 5 else ''}."
        )
    return train, test


def _checked_rows(argument: str, indices: Sequence[int], n_rows: int) -> IntArray:
    rows = np.asarray(indices)
    if rows.ndim != 1 or len(rows) == 0 or not np.issubdtype(rows.dtype, np.integer):
        raise InputValueError(
            f"{argument} must be one or more row numbers, got {rows.dtype} values of shape {rows.shape}."
        )
    if rows.min() < 0 or rows.max() >= n_rows:
        raise InputValueError(
            f"{argument} must be between 0 and {n_rows - 1}, got numbers from {rows.min()} to {rows.max()}."
        )
    if len(np.unique(rows)) < len(rows):
        raise InputValueError(f"{argument} must give each row once, got {len(rows) - len(np.unique(rows))} repeated.")
    return rows.astype(np.int64)
