"""How the columns of a table become inputs and targets: fitted on the training rows, and part of the checkpoint."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_vi.datamodules._faults import MISSING_TARGET, NEW_MISSING_INPUT, Faults
from lightning_vi.datamodules._features import Features, Values, is_missing
from lightning_vi.datamodules._files import Reading, TableSource
from lightning_vi.datamodules._labels import to_codes
from lightning_vi.datamodules._standardize import Standardizer
from lightning_vi.datamodules._values import to_levels, to_numbers
from lightning_vi.errors import InputValueError

Task = Literal["regression", "classification"]
INPUTS, TARGETS, IDS = "the input columns of the fit", "the target columns of the fit", "id_column"


@dataclass(frozen=True)
class Treatment:
    """Columns of a table in their order, their encoding and scaling, and the classes.

    Attributes:
        task: `regression` or `classification`.
        input_names: Names of the input columns.
        target_names: Names of the D target columns.
        classes: The C label values of the table, in the order of the classes; None in regression.
        id_column: Name of the column that identifies rows; None for row numbers.
        input_scale: Scaling of the F features; None for none.
        target_scale: Scaling by which methods standardize the targets; None for none.
        features: Encoding of the input columns.
        class_names: Names of the classes in tables of predictions; None for the label values.
        reading: How the file was read.
    """

    task: Task
    input_names: list[Any]
    target_names: list[Any]
    classes: list[Any] | None
    id_column: Any | None
    input_scale: Standardizer | None
    target_scale: Standardizer | None
    features: Features
    class_names: list[str] | None
    reading: Reading

    def state(self) -> dict[str, Any]:
        """Returns the attributes as numbers, strings, lists, dictionaries and tensors."""
        return {
            "task": self.task,
            "input_names": list(self.input_names),
            "target_names": list(self.target_names),
            "classes": None if self.classes is None else list(self.classes),
            "id_column": self.id_column,
            "input_scale": _scale_state(self.input_scale),
            "target_scale": _scale_state(self.target_scale),
            "features": self.features.state(),
            "class_names": self.class_names,
            "reading": self.reading.state(),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Returns the treatment whose `state` is given; version 1 lacks the last entries, others are ignored."""
        entries: dict[str, Any] = {field.name: state.get(field.name) for field in fields(cls)}
        for name in ("input_scale", "target_scale"):
            entries[name] = _scale_from(entries[name])
        entries["features"] = Features.from_state(entries["features"], entries["input_names"])
        entries["reading"] = Reading(**(entries["reading"] or {}))
        return cls(**entries)

    def differences(self, other: "Treatment") -> list[str]:
        """Returns what differs from another treatment, in words; identifiers, names and files do not count."""
        found = [
            f"{name} {getattr(self, name)} instead of {getattr(other, name)}"
            for name in ("task", "input_names", "target_names", "classes")
            if getattr(self, name) != getattr(other, name)
        ]
        if not found:
            found = self.features.differences(other.features)
        if not found:
            scales = {
                "inputs": (self.input_scale, other.input_scale),
                "targets": (self.target_scale, other.target_scale),
            }
            found = [f"another scaling of the {name}" for name, pair in scales.items() if not _same(*pair)]
        return found

    @property
    def texts(self) -> list[Any]:
        """Columns whose values are text, so that `01` stays `01` where a file is read."""
        names = [column.name for column in self.features.categories]
        has_text = self.classes is not None and all(isinstance(label, str) for label in self.classes)
        return names + (self.target_names if has_text else [])

    def reading_of(
        self, data: TableSource, sep: str | None = None, read_options: Mapping[str, Any] | None = None
    ) -> Reading:
        """Returns how another table is read: as given, or else as the table of the fit was."""
        is_given = sep is not None or bool(read_options)
        reading = Reading.of(data, sep, read_options) if is_given else self.reading.for_other(data)
        return reading.as_text(self.texts)

    def all_inputs(self, frame: pd.DataFrame) -> Tensor:
        """Returns the inputs of all rows as the network sees them, [N, F].

        Raises:
            ValueError: If a column is missing or values do not fit.
        """
        faults = Faults()
        values = self.inputs(frame, faults)
        self.features.report(values, faults, NEW_MISSING_INPUT)
        if self.features.missing == "drop":
            for name, column in values.items():
                faults.count(name, NEW_MISSING_INPUT, is_missing(column))
        faults.end_chunk(len(frame))
        faults.raise_if_any()
        return self.features.encode(values, self.input_scale, np.arange(len(frame)))

    def inputs(self, frame: pd.DataFrame, faults: Faults) -> dict[Any, Values]:
        """Returns the values of the input columns; values that are no finite numbers are reported.

        Raises:
            ValueError: If a column is missing.
        """
        check_columns(INPUTS, self.input_names, frame)
        return {
            column.name: to_numbers(frame[column.name], faults)
            if column.levels is None
            else to_levels(frame[column.name])
            for column in self.features.columns
        }

    def targets(self, frame: pd.DataFrame, faults: Faults) -> NDArray[Any]:
        """Returns the targets in their units, [N, D], or the encoded labels, [N]; NaN and -1 for missing ones.

        Raises:
            ValueError: If a column is missing.
        """
        check_columns(TARGETS, self.target_names, frame)
        if self.classes is not None:
            return to_codes(frame[self.target_names[0]], self.classes, faults)
        return np.stack([to_numbers(frame[name], faults) for name in self.target_names], axis=1)

    def as_targets(self, targets: NDArray[Any]) -> Tensor:
        """Returns `targets` as a tensor, float32 or int64."""
        return torch.tensor(targets, dtype=torch.float32 if self.classes is None else torch.int64)


def missing_targets(targets: NDArray[Any]) -> NDArray[np.bool_]:
    """Returns the mask of rows with a missing target, [N]."""
    return np.asarray(targets < 0 if targets.ndim == 1 else np.isnan(targets).any(axis=1))


def report_missing_targets(names: Sequence[Any], targets: NDArray[Any], faults: Faults) -> None:
    """Reports missing targets, column by column."""
    for name, column in zip(names, targets.reshape(len(targets), -1).T, strict=True):
        faults.count(name, MISSING_TARGET, missing_targets(column[:, None] if targets.ndim == 2 else column))


def as_list(names: Any) -> list[Any]:
    """Returns a list of names, given one or several."""
    return [names] if isinstance(names, str) else list(names)


def check_columns(argument: str, names: Sequence[Any], frame: pd.DataFrame, remedy: str = "") -> None:
    """Raises a `ValueError`, ending with the remedy, unless `names` is one or more distinct columns of the table."""
    if not names:
        raise InputValueError(f"{argument} must name at least one column, got none of {list(frame.columns)}.")
    if missing := [name for name in names if name not in frame.columns]:
        remedy += _separator_hint(frame, missing)
        raise InputValueError(f"{argument}: no columns {missing}; the table has {list(frame.columns)}.{remedy}")
    if len(set(names)) < len(names):
        raise InputValueError(f"{argument} must name each column once, got {list(names)}.")


def _separator_hint(frame: pd.DataFrame, missing: Sequence[Any]) -> str:
    """A hint at another separator, if the table has one column whose name contains the missing ones."""
    header = str(frame.columns[0])
    if len(frame.columns) > 1 or not all(str(name) in header for name in missing):
        return ""
    used = next((sep for sep in (";", "\t", "|", " ") if sep in header), ";")
    return f" The columns of the file are separated otherwise: pass sep={used!r}."


def row_ids(frame: pd.DataFrame, column: Any | None) -> tuple[str, NDArray[Any]]:
    """Returns the name and the values of the column that identifies rows: row numbers, `index`, if it is None.

    Raises:
        ValueError: If there is no such column.
    """
    if column is None:
        return "index", np.arange(len(frame))
    check_columns(IDS, [column], frame)
    return str(column), frame[column].to_numpy()


def _scale_state(scale: Standardizer | None) -> dict[str, Tensor] | None:
    return None if scale is None else {"mean": torch.tensor(scale.mean), "std": torch.tensor(scale.std)}


def _scale_from(state: Mapping[str, Tensor] | None) -> Standardizer | None:
    return None if state is None else Standardizer(mean=state["mean"].numpy(), std=state["std"].numpy())


def _same(ours: Standardizer | None, theirs: Standardizer | None) -> bool:
    if ours is None or theirs is None:
        return ours is theirs
    return np.allclose(ours.mean, theirs.mean, rtol=1e-9) and np.allclose(ours.std, theirs.std, rtol=1e-9)
