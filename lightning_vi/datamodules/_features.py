"""Features of the columns of a table: scaled numbers, indicators of missing values, and encoded categories."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_vi.datamodules._faults import UNKNOWN_LEVEL, FaultKind, Faults
from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules._standardize import FloatArray, Standardizer
from lightning_vi.datamodules._values import Levels, sort_levels

Encoding = Literal["one_hot", "ordinal"]
UnknownLevels = Literal["bucket", "refuse"]
Missing = Literal["refuse", "drop", "impute"]
Values = FloatArray | Levels


def is_missing(values: Values) -> NDArray[np.bool_]:
    """Returns the mask of the missing values of a column, [N]."""
    return values.is_missing if isinstance(values, Levels) else np.isnan(values)


@dataclass(frozen=True)
class InputColumn:
    """How an input column is encoded, as found in the training rows.

    Attributes:
        name: Name of the column.
        levels: Levels of a column of categories, as text; None for a column of numbers.
        fill: Median of the numbers, or the most frequent level, in place of missing values; None if there is none.
        has_indicator: Whether a feature tells that the value was missing.
    """

    name: Any
    levels: list[str] | None = None
    fill: float | str | None = None
    has_indicator: bool = False

    @classmethod
    def fit(cls, name: Any, values: Values, train: IntArray, impute: bool, unknown_levels: UnknownLevels) -> Self:
        """Returns the encoding that the training rows determine."""
        present = train[~is_missing(values)[train]]
        has_indicator = impute and len(present) < len(train)
        if not isinstance(values, Levels):
            median = float(np.median(values[present])) if impute and len(present) else None
            return cls(name, None, median, has_indicator)
        counts = np.bincount(values.codes[present], minlength=len(values.names))
        counted = dict(zip(values.names, counts.tolist(), strict=True))
        levels = sort_levels({level for level in values.names if counted[level] or unknown_levels == "refuse"})
        mode = max(levels, key=lambda level: counted[level]) if impute and len(present) else None
        return cls(name, levels, mode, has_indicator)

    def numbers(self, values: Values) -> FloatArray:
        """Returns the numbers of a column, imputed if there is a median, [N]."""
        found = cast(FloatArray, values)
        return found if self.fill is None else np.where(np.isnan(found), cast(float, self.fill), found)

    def codes(self, values: Values) -> IntArray:
        """Position of each level in `levels`, len(levels) for others, that of `fill` for missing ones, [N]."""
        levels = self.levels or []
        found = cast(Levels, values).numbered(levels)
        return found if self.fill is None else np.where(found < 0, levels.index(str(self.fill)), found)


@dataclass(frozen=True)
class Features:
    """The features of a table's input columns: all numbers, then indicators of missing values, then categories.

    Attributes:
        columns: The input columns.
        encoding: Of categories: `one_hot`, one feature for each level, or `ordinal`, one feature with its number.
        unknown_levels: `bucket`, where other levels than those of the training rows are one more level, or `refuse`.
        missing: What happens to rows with missing values.
    """

    columns: list[InputColumn]
    encoding: Encoding = "one_hot"
    unknown_levels: UnknownLevels = "bucket"
    missing: Missing = "refuse"

    @classmethod
    def from_state(cls, state: Mapping[str, Any] | None, input_names: Sequence[Any]) -> Self:
        """Returns the features whose `state` is given; those of columns of numbers alone if it is None."""
        if state is None:
            return cls([InputColumn(name) for name in input_names])
        return cls(**{**state, "columns": [InputColumn(**column) for column in state["columns"]]})

    def state(self) -> dict[str, Any]:
        """Returns the attributes as numbers, strings, lists and dictionaries."""
        return asdict(self)

    @property
    def numbers(self) -> list[InputColumn]:
        """The columns of numbers."""
        return [column for column in self.columns if column.levels is None]

    @property
    def categories(self) -> list[InputColumn]:
        """The columns of categories."""
        return [column for column in self.columns if column.levels is not None]

    @property
    def indicators(self) -> list[InputColumn]:
        """The columns with an indicator of missing values."""
        return [column for column in self.columns if column.has_indicator]

    @property
    def cardinalities(self) -> list[int]:
        """Number of levels of each column of categories, with the bucket of unknown levels."""
        return [len(column.levels or []) + (self.unknown_levels == "bucket") for column in self.categories]

    @property
    def names(self) -> list[str]:
        """Names of the features, such as `age missing` and `city=Bonn`."""
        names = [str(column.name) for column in self.numbers]
        names += [f"{column.name} missing" for column in self.indicators]
        bucket = ["(unknown)"] if self.unknown_levels == "bucket" else []
        for column in self.categories:
            one_hot = [f"{column.name}={level}" for level in [*(column.levels or []), *bucket]]
            names += one_hot if self.encoding == "one_hot" else [str(column.name)]
        return names

    def differences(self, other: "Features") -> list[str]:
        """Returns what differs from other features of the same columns, in words."""
        found = [
            f"{name}={getattr(self, name)!r} instead of {getattr(other, name)!r}"
            for name in ("encoding", "unknown_levels", "missing")
            if getattr(self, name) != getattr(other, name)
        ]
        changed = [ours.name for ours, theirs in zip(self.columns, other.columns, strict=True) if ours != theirs]
        return found + [f"other levels or missing values in {name!r}" for name in changed]

    def report(self, values: Mapping[Any, Values], faults: Faults, missing: FaultKind) -> None:
        """Reports values that have no place: missing ones that are neither imputed nor left out, and unknown levels.

        Args:
            values: Values by the name of the column.
            faults: Where they are reported.
            missing: The fault of missing values.
        """
        for column in self.columns:
            if self.missing == "refuse" or (self.missing == "impute" and column.fill is None):
                faults.count(column.name, missing, is_missing(values[column.name]))
            if column.levels is not None and self.unknown_levels == "refuse":
                found = cast(Levels, values[column.name])
                unknown, note = column.codes(found) == len(column.levels), f"; the levels are {column.levels}"
                faults.count(column.name, UNKNOWN_LEVEL, unknown, found.texts(), note)

    def fit_scale(self, values: Mapping[Any, Values], train: IntArray) -> Standardizer:
        """Returns the scaling of all features: numbers are standardized by the training rows, others stay."""
        mean, std = np.zeros(len(self.names)), np.ones(len(self.names))
        for number, column in enumerate(self.numbers):
            scale = Standardizer.fit(column.numbers(values[column.name])[train, None])
            mean[number], std[number] = scale.mean[0], scale.std[0]
        return Standardizer(mean, std)

    def encode(self, values: Mapping[Any, Values], scale: Standardizer | None, rows: IntArray) -> Tensor:
        """Returns the features of some rows, [n, F] float32; there must be nothing to `report`."""
        features = np.zeros((len(rows), len(self.names)), dtype=np.float32)
        for position, column in enumerate(self.numbers):
            mean, std = (0.0, 1.0) if scale is None else (scale.mean[position], scale.std[position])
            features[:, position] = (column.numbers(values[column.name])[rows] - mean) / std
        for position, column in enumerate(self.indicators, len(self.numbers)):
            features[:, position] = is_missing(values[column.name])[rows]
        position = len(self.numbers) + len(self.indicators)
        for column, cardinality in zip(self.categories, self.cardinalities, strict=True):
            codes = column.codes(values[column.name])[rows]
            if self.encoding == "ordinal":
                features[:, position] = codes
            else:
                features[np.arange(len(rows)), position + codes] = 1.0
            position += 1 if self.encoding == "ordinal" else cardinality
        return torch.from_numpy(features)
