"""How the columns of a table become inputs and targets: fitted on the training rows, and part of the checkpoint."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_vi.datamodules._standardize import FloatArray, Standardizer, as_float32
from lightning_vi.datamodules._table import check_columns, numeric_columns, to_codes

Task = Literal["regression", "classification"]
INPUTS, TARGETS, IDS = "the input columns of the fit", "the target columns of the fit", "id_column"


@dataclass(frozen=True)
class Treatment:
    """Columns of a table in their order, their scaling, and the classes.

    Attributes:
        task: `regression` or `classification`.
        input_names: Names of the F input columns.
        target_names: Names of the D target columns.
        classes: The C label values of the table, in the order of the classes; None in regression.
        id_column: Name of the column that identifies rows; None for row numbers.
        input_scale: Scaling of the inputs; None for none.
        target_scale: Scaling by which methods standardize the targets; None for none.
    """

    task: Task
    input_names: list[Any]
    target_names: list[Any]
    classes: list[Any] | None
    id_column: Any | None
    input_scale: Standardizer | None
    target_scale: Standardizer | None

    def state(self) -> dict[str, Any]:
        """Returns the attributes as numbers, strings, lists and tensors."""
        return {
            "task": self.task,
            "input_names": list(self.input_names),
            "target_names": list(self.target_names),
            "classes": None if self.classes is None else list(self.classes),
            "id_column": self.id_column,
            "input_scale": _scale_state(self.input_scale),
            "target_scale": _scale_state(self.target_scale),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Returns the treatment whose `state` is given; further entries are ignored."""
        entries: dict[str, Any] = {field.name: state[field.name] for field in fields(cls)}
        for name in ("input_scale", "target_scale"):
            entries[name] = _scale_from(entries[name])
        return cls(**entries)

    def differences(self, other: "Treatment") -> list[str]:
        """Returns what differs from another treatment, in words; row identifiers do not count."""
        found = [
            f"{name} {getattr(self, name)} instead of {getattr(other, name)}"
            for name in ("task", "input_names", "target_names", "classes")
            if getattr(self, name) != getattr(other, name)
        ]
        if not found:
            scales = {
                "inputs": (self.input_scale, other.input_scale),
                "targets": (self.target_scale, other.target_scale),
            }
            found = [f"another scaling of the {name}" for name, pair in scales.items() if not _same(*pair)]
        return found

    def raw_inputs(self, frame: pd.DataFrame) -> FloatArray:
        """Returns the input columns in their units, [N, F].

        Raises:
            ValueError: If a column is missing, not numeric or not finite.
        """
        check_columns(INPUTS, self.input_names, frame)
        return numeric_columns(INPUTS, self.input_names, frame, "encode them as in the training data")

    def scaled(self, inputs: FloatArray) -> Tensor:
        """Returns inputs as the network sees them, [N, F] float32."""
        return as_float32(inputs if self.input_scale is None else self.input_scale(inputs))

    def raw_targets(self, frame: pd.DataFrame) -> NDArray[Any]:
        """Returns the targets in their units, [N, D], or the encoded labels, [N].

        Raises:
            ValueError: If a column is missing or not numeric, or a value is missing, not finite or no class.
        """
        check_columns(TARGETS, self.target_names, frame)
        if self.classes is None:
            return numeric_columns(TARGETS, self.target_names, frame, "encode them as in the training data")
        return to_codes(frame[self.target_names[0]], self.classes)

    def has_all_targets(self, frame: pd.DataFrame) -> bool:
        """Tells whether the table has each target column, without missing values."""
        has_columns = all(name in frame.columns for name in self.target_names)
        return has_columns and not bool(frame[self.target_names].isna().any(axis=None))

    def as_targets(self, targets: NDArray[Any]) -> Tensor:
        """Returns `raw_targets` as a tensor, float32 or int64."""
        return torch.tensor(targets, dtype=torch.float32 if self.classes is None else torch.int64)


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
