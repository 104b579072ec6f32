"""Class labels of a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from lightning_vi.datamodules._faults import NO_INTEGER, UNKNOWN_LABEL, Faults
from lightning_vi.datamodules._split import IntArray


def find_classes(column: "pd.Series[Any]", faults: Faults) -> list[Any]:
    """Returns the C label values of a column in sorted order; missing labels do not count.

    Args:
        column: The column.
        faults: Where labels are reported that are a non-integer float or neither a number nor text, mix types, or are
            fewer than two.
    """
    codes, uniques = pd.factorize(column)
    found = set(uniques.tolist())
    fractional = [isinstance(value, float) and not value.is_integer() for value in uniques.tolist()]
    faults.count(column.name, NO_INTEGER, np.array([*fractional, False])[codes], column.array)
    if other := sorted({type(value).__name__ for value in found if not isinstance(value, str | int | float)}):
        faults.say(f"the labels in {column.name!r} must be numbers or text, got {other}")
        return []
    if len({isinstance(value, str) for value in found}) > 1:
        kinds = sorted({type(value).__name__ for value in found})
        faults.say(f"the labels in {column.name!r} mix the types {kinds}")
        return []
    if len(found) < 2:
        faults.say(f"{column.name!r} must have at least two classes, got {list(found)}")
    return sorted(found)


def to_codes(column: "pd.Series[Any]", classes: Sequence[Any], faults: Faults) -> IntArray:
    """Returns the labels encoded as 0..C-1, -1 for missing ones, [N].

    Args:
        column: The column.
        classes: The label values.
        faults: Where labels are reported that are no class.
    """
    code = {label: number for number, label in enumerate(classes)}
    numbers, values = pd.factorize(column)
    found = np.array([*(code.get(value, len(classes)) for value in values.tolist()), -1], dtype=np.int64)[numbers]
    note = f"; the classes are {list(classes)}"
    faults.count(column.name, UNKNOWN_LABEL, found == len(classes), column.array, note)
    return found
