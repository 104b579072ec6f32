"""Datamodule of a table: a CSV or Parquet file or a DataFrame."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack, get_args

import numpy as np
import pandas as pd
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from lightning_vi.datamodules._checks import check_seed
from lightning_vi.datamodules._split import IntArray, predefined_rows, split_rows
from lightning_vi.datamodules._standardize import Standardizer, as_float32
from lightning_vi.datamodules._state import DataState, digest
from lightning_vi.datamodules._table import check_columns, find_classes, numeric_columns, read_table, to_codes
from lightning_vi.datamodules._treatment import Task, Treatment, row_ids
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, Rows, take_splits
from lightning_vi.datamodules.new_table import NewTableDataModule, is_seen, table_digest
from lightning_vi.errors import InputValueError


class TabularDataModule(ArrayDataModule):
    """Regression or classification with the numeric columns of a table as inputs.

    The table is read, checked, split and standardized at construction. The result depends on the arguments only: every
    instance, in any process, has the same splits.

    Units: input columns are standardized with the mean and standard deviation (ddof = 0) of the training rows; the
    standard deviation of a constant column is set to 1. Regression targets stay in original units; methods standardize
    them internally by `target_mean` and `target_std`.

    Args:
        data: Path of a `.csv` file (with a header) or a `.parquet` file, or a DataFrame.
        target_columns: Name or names of the target columns; exactly one for classification.
        task: `regression`, or `classification`: the sorted unique values of the target become classes 0..C-1. Never
            inferred from the data.
        input_columns: Names of the input columns; None for all columns but the targets and `id_column`.
        val_fraction: Fraction of the rows for validation; 0 for none.
        test_fraction: Fraction of the rows for testing. Ignored if `test_indices` is given.
        calib_fraction: Fraction of the rows for calibration; 0 for none.
        train_indices: Row numbers of a predefined training set, only with `test_indices`; None for all rows not in
            `test_indices`. Validation and calibration rows are fractions of *these* rows.
        test_indices: Row numbers of a predefined test set; None for a random one of size `test_fraction`.
        split_seed: Seed of the split.
        standardise_inputs: If True, standardizes the inputs.
        standardise_targets: If True, methods standardize the targets; no effect in classification.
        id_column: Name of a column that identifies the rows in the file of predictions, and is no input; None for the
            row numbers.
        batch_size: Number of rows per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Inputs, [N, F] float32; None if the fraction is 0.
        Y_train, Y_val, Y_test, Y_calib: Targets in original units, [N, D] float32, or class labels, [N] int64.
        input_names, target_names: Names of the F input and D target columns.
        input_mean, input_std: Training statistics, [F] float32; None if `standardise_inputs` is False.
        target_mean, target_std: Training statistics, [D] float32; None if `standardise_targets` is False or in
            classification.
        classes: The C label values of the table, in the order of the classes; None in regression.
        num_classes: Number of classes C; None in regression.
        row_indices: Row numbers in the table by split, [N] int64 each.

    Raises:
        FileNotFoundError: If `data` is a path without a file.
        ImportError: If `data` is a Parquet file and pyarrow is missing (`pip install 'lightning-vi[parquet]'`).
        TypeError: If `data` is neither a path nor a DataFrame.
        ValueError: If the suffix is unknown; the table or a split is empty; columns are missing, duplicated, both input
            and target, not numeric or not finite; labels are missing; or row numbers are out of range, repeated or in
            both sets.

    Example:
        >>> table = pd.DataFrame({"width": range(20), "height": [3.0, 4.0] * 10, "weight": range(20, 40)})
        >>> dm = TabularDataModule(table, target_columns="weight", task="regression")
        >>> dm.input_names, dm.X_train.shape, dm.Y_test.shape
        (['width', 'height'], torch.Size([12, 2]), torch.Size([4, 1]))
    """

    kind_of_data = "table"

    def __init__(
        self,
        data: str | Path | pd.DataFrame,
        target_columns: str | list[str],
        task: Task,
        input_columns: str | list[str] | None = None,
        *,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        calib_fraction: float = 0.1,
        train_indices: list[int] | None = None,
        test_indices: list[int] | None = None,
        split_seed: int = 42,
        standardise_inputs: bool = True,
        standardise_targets: bool = True,
        id_column: str | None = None,
        batch_size: int = 32,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        if task not in get_args(Task):
            raise InputValueError(f"task must be one of {list(get_args(Task))}, got {task!r}.")
        frame = read_table(data)
        target_names = _as_list(target_columns)
        check_columns("target_columns", target_names, frame, UNLABELED)
        ids = row_ids(frame, id_column)
        input_names = _input_names(input_columns, target_names, frame, id_column)
        inputs = numeric_columns("input_columns", input_names, frame, "encode them as numbers or omit them")
        targets, classes = _targets(target_names, frame, task)

        rows = _rows(
            len(frame),
            {"test": test_fraction, "val": val_fraction, "calib": calib_fraction},
            train_indices,
            test_indices,
            check_seed("split_seed", split_seed),
        )
        self._treatment = Treatment(
            task,
            input_names,
            target_names,
            classes,
            id_column,
            input_scale=Standardizer.fit(inputs[rows["train"]]) if standardise_inputs else None,
            target_scale=Standardizer.fit(targets[rows["train"]]) if standardise_targets and classes is None else None,
        )
        super().__init__(
            **take_splits(self._treatment.scaled(inputs), self._treatment.as_targets(targets), rows),
            num_classes=None if classes is None else len(classes),
            batch_size=batch_size,
            **loader_options,
        )
        for name, scale in (("input", self._treatment.input_scale), ("target", self._treatment.target_scale)):
            if scale is not None:
                setattr(self, f"{name}_mean", as_float32(scale.mean))
                setattr(self, f"{name}_std", as_float32(scale.std))
        self.input_names = input_names
        self.target_names = target_names
        self.classes = classes
        self.row_indices = {name: torch.tensor(index) for name, index in rows.items()}
        self._data = data
        self._ids = ids
        self._digests = {"rows": table_digest(inputs, targets), "split": digest(*self.row_indices.values())}

    @property
    def data_state(self) -> DataState:
        """Facts by which new tables are treated as this one: columns, scaling, classes, and a digest of the rows."""
        return super().data_state | self._treatment.state()

    def transform(self, data: str | Path | pd.DataFrame) -> Tensor:
        """Returns the inputs of any table as the network sees them: the columns and the scaling of this table.

        Args:
            data: A table with the input columns, as the argument `data` of the class; other columns are ignored.

        Returns:
            Inputs for `method.predict`, [N, F] float32.

        Raises:
            ValueError: If a column is missing, not numeric or not finite.
        """
        return self._treatment.scaled(self._treatment.raw_inputs(read_table(data)))

    def new_data(self, data: str | Path | pd.DataFrame, **options: Any) -> NewTableDataModule:
        """Returns a datamodule of all rows of another table, treated as this one.

        Args:
            data: The other table, which may lack the targets.
            **options: `id_column`, `batch_size` and loader options, see `NewTableDataModule`.

        Returns:
            The datamodule.

        Raises:
            ValueError: See `NewTableDataModule`.
        """
        return NewTableDataModule(data, self.data_state, **({"batch_size": self.batch_size} | options))

    @property
    def predict_row_ids(self) -> tuple[str, NDArray[Any]]:
        """Name and values of the identifiers of the rows that `predict_dataloader` yields: row numbers by default."""
        state = self._training_state()
        if state is not None and not self._is_seen(state):
            return self._as_new_table(state).predict_row_ids
        name, values = self._ids
        return name, values[self.row_indices["test"].numpy()]

    def _is_seen(self, state: DataState) -> bool:
        """Tells whether the table was used in the fit, or in the calibration, that the state is from."""
        same_columns = state["input_names"] == self.input_names and state["classes"] == self.classes
        rows = self.data_state["tables"][0]["rows"]
        return same_columns and any(table["rows"] == rows for table in state["tables"])

    def _as_new_table(self, state: DataState) -> NewTableDataModule:
        return NewTableDataModule(self._data, state, id_column=self._treatment.id_column, batch_size=self.batch_size)

    def _rows_as_trained(self, name: str, state: DataState) -> Rows | None:
        """The split's rows if the method has seen the table; otherwise all rows, since it was trained on none."""
        if not self._is_seen(state):
            new = self._as_new_table(state)
            return (new.X, new.Y) if name == "predict" else new.labeled_rows()
        if self.data_state["tables"][0] not in state["tables"]:
            rank_zero_warn(
                "The method was trained on other rows of this table: the split differs from that of the fit, and some "
                "of the rows that are scored are training rows. Use the fractions, indices and split_seed of the fit."
            )
        index = self.row_indices.get("test" if name == "predict" else name)
        if index is None:
            return None
        treatment = Treatment.from_state(state)
        if not self._treatment.differences(treatment):
            return self._own_rows(name)
        frame = read_table(self._data)
        inputs, targets = (
            treatment.scaled(treatment.raw_inputs(frame)),
            treatment.as_targets(treatment.raw_targets(frame)),
        )
        return inputs[index], targets[index]

    def _differences(self, state: DataState) -> list[str]:
        return self._treatment.differences(Treatment.from_state(state))


UNLABELED = " To predict a table without targets, use NewTableDataModule(data, checkpoint)."


def open_table(state: DataState, data: str | Path | pd.DataFrame, **arguments: Any) -> LightningDataModule:
    """Opens a table for a method that is fitted.

    Args:
        state: State of the datamodule of the fit.
        data: The table.
        **arguments: Further arguments of `TabularDataModule`.

    Returns:
        A `TabularDataModule` if the table was used in the fit or in a calibration, else a `NewTableDataModule`.

    Raises:
        ValueError: If the table does not fit, or the arguments describe other columns than those of the fit.
    """
    frame = read_table(data)
    if is_seen(frame, state):
        return TabularDataModule(frame, **arguments)
    _check_described(Treatment.from_state(state), **arguments)
    options = {name: value for name, value in arguments.items() if name in NEW_TABLE_OPTIONS}
    return NewTableDataModule(frame, state, **options)


NEW_TABLE_OPTIONS = ("id_column", "batch_size", *LoaderOptions.__annotations__)


def _check_described(
    treatment: Treatment,
    task: Task,
    target_columns: str | list[str],
    input_columns: str | list[str] | None = None,
    **_: Any,
) -> None:
    found = {"task": task, "target_columns": _as_list(target_columns), "input_columns": treatment.input_names}
    if input_columns is not None:
        found["input_columns"] = _as_list(input_columns)
    fitted = {
        "task": treatment.task,
        "target_columns": treatment.target_names,
        "input_columns": treatment.input_names,
    }
    for name, value in found.items():
        if value != fitted[name]:
            raise InputValueError(f"{name} must be that of the fit, {fitted[name]!r}, got {value!r}.")


def _as_list(names: str | list[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _input_names(
    input_columns: str | list[str] | None, target_names: list[str], frame: pd.DataFrame, id_column: str | None
) -> list[str]:
    if input_columns is None:
        names = [name for name in frame.columns if name not in target_names and name != id_column]
        if not names:
            raise InputValueError(
                f"target_columns={target_names} are all columns of the table; no input columns remain."
            )
        return names
    names = _as_list(input_columns)
    check_columns("input_columns", names, frame)
    if shared := [name for name in names if name in target_names]:
        raise InputValueError(f"input_columns and target_columns must not overlap, got {shared} in both.")
    return names


def _targets(names: list[str], frame: pd.DataFrame, task: Task) -> tuple[NDArray[Any], list[Any] | None]:
    """Returns the targets [N, D] and None, or the encoded labels [N] and the classes."""
    if task == "regression":
        remedy = "encode them as numbers or pass task='classification'"
        return numeric_columns("target_columns", names, frame, remedy), None
    if len(names) != 1:
        raise InputValueError(f"target_columns must name one column when task='classification', got {names}.")
    column = frame[names[0]]
    classes = find_classes(column)
    return to_codes(column, classes), classes


def _rows(
    n_rows: int,
    fractions: dict[str, float],
    train_indices: Sequence[int] | None,
    test_indices: Sequence[int] | None,
    seed: int,
) -> dict[str, IntArray]:
    if test_indices is not None:
        train, test = predefined_rows(n_rows, train_indices, test_indices)
        others = {name: fraction for name, fraction in fractions.items() if name != "test"}
        return {**split_rows(train, others, seed), "test": test}
    if train_indices is not None:
        raise InputValueError("train_indices requires test_indices, got test_indices=None.")
    if fractions["test"] == 0.0:
        raise InputValueError("test_fraction must be greater than 0 when test_indices is None, got 0.0.")
    return split_rows(np.arange(n_rows), fractions, seed)
