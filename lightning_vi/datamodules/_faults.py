"""Everything that is wrong with a table, reported in one error."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_vi.errors import InputValueError

MAX_SHOWN = 3


@dataclass(frozen=True)
class FaultKind:
    """A kind of wrong values.

    Attributes:
        one: Predicate of one value.
        several: Predicate of several values.
        remedy: What the user may do.
        shows_value: Whether the message shows the values.
    """

    one: str
    several: str
    remedy: str
    shows_value: bool = True


NO_NUMBER = FaultKind(
    "is no number",
    "are no numbers",
    "correct them, mark missing values by read_options={'na_values': [...]}, name columns of categories in "
    "categorical_columns, or leave columns out by drop_columns",
)
TEXT_TARGET = FaultKind(
    "is no number", "are no numbers", "correct them, or pass task='classification' for class labels"
)
INFINITE = FaultKind(
    "is infinite or beyond float32", "are infinite or beyond float32", "correct them or leave the column out"
)
MISSING_INPUT = FaultKind(
    "is missing", "are missing", "pass missing='impute' or missing='drop', or fill them", shows_value=False
)
NEW_MISSING_INPUT = FaultKind("is missing", "are missing", "fill them as in the training data", shows_value=False)
MISSING_TARGET = FaultKind(
    "is missing", "are missing", "pass missing='drop' to leave rows without a target out", shows_value=False
)
MISSING_SPLIT = FaultKind("is missing", "are missing", "complete the column by which rows are split", shows_value=False)
UNKNOWN_LEVEL = FaultKind(
    "is a level that the fit did not have",
    "are levels that the fit did not have",
    "correct them, or fit with unknown_levels='bucket'",
)
UNKNOWN_LABEL = FaultKind("is no class of the fit", "are no classes of the fit", "correct the labels")
NO_INTEGER = FaultKind(
    "is no integer", "are no integers", "give class labels, or pass task='regression' for a continuous target"
)


@dataclass
class _Tally:
    count: int = 0
    examples: list[str] = field(default_factory=list)
    note: str = ""


class Faults:
    """Collects what is wrong with a table, chunk by chunk."""

    def __init__(self) -> None:
        self.num_rows = 0
        self._tallies: dict[tuple[Any, FaultKind], _Tally] = {}
        self._statements: dict[str, None] = {}

    def __bool__(self) -> bool:
        return bool(self._tallies or self._statements)

    def count(self, column: Any, kind: FaultKind, wrong: NDArray[np.bool_], values: Any = None, note: str = "") -> None:
        """Adds wrong values of a column.

        Args:
            column: Name of the column.
            kind: What is wrong.
            wrong: Mask of the wrong values among the rows of the present chunk, [n].
            values: The values, [n]; None if they are not shown.
            note: An addition to the message.
        """
        rows = np.flatnonzero(wrong)
        if len(rows) == 0:
            return
        tally = self._tallies.setdefault((column, kind), _Tally(note=note))
        tally.count += len(rows)
        for row in rows[: MAX_SHOWN - len(tally.examples)]:
            number = self.num_rows + int(row)
            tally.examples.append(f"{_plain(values[row])!r} in row {number}" if kind.shows_value else str(number))

    def say(self, fault: str) -> None:
        """Adds a fault that is no count of values, with its remedy."""
        self._statements[fault] = None

    def end_chunk(self, num_rows: int) -> None:
        """Counts the rows of a chunk, after its faults."""
        self.num_rows += num_rows

    def raise_if_any(self) -> None:
        """Raises a `ValueError` that lists all faults and remedies, if there are any."""
        if not self:
            return
        found = [self._sentence(column, kind, tally) for (column, kind), tally in self._tallies.items()]
        found += self._statements
        remedies = list(dict.fromkeys(kind.remedy for _, kind in self._tallies))
        listed = found[0] if len(found) == 1 else "; ".join(f"({k}) {text}" for k, text in enumerate(found, 1))
        start = "data: " if len(found) == 1 else f"data has {len(found)} faults: "
        advice = "".join(f" {remedy[0].upper()}{remedy[1:]}." for remedy in remedies)
        raise InputValueError(f"{start}{listed}.{advice}" + (" Rows count from 0." if self._tallies else ""))

    def _sentence(self, column: Any, kind: FaultKind, tally: _Tally) -> str:
        more = tally.count - len(tally.examples)
        verb = kind.one if tally.count == 1 else kind.several
        row = "" if kind.shows_value else ("row " if tally.count == 1 else "rows ")
        shown = row + ", ".join(tally.examples) + (f" and {more} more" if more else "") + tally.note
        return f"{tally.count} of {self.num_rows} values in {column!r} {verb}: {shown}"


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
