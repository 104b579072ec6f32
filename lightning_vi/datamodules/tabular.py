"""Datamodule of a table: a file or a DataFrame."""

from collections.abc import Mapping
from typing import Any, Unpack, cast

import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor

from lightning_vi.datamodules._checks import check_seed
from lightning_vi.datamodules._faults import MISSING_INPUT, TEXT_TARGET, Faults
from lightning_vi.datamodules._features import (
    Encoding,
    Features,
    InputColumn,
    Missing,
    UnknownLevels,
    Values,
    is_missing,
)
from lightning_vi.datamodules._files import Reading, TableSource, read_table
from lightning_vi.datamodules._identity import whole_digest
from lightning_vi.datamodules._labels import find_classes, to_codes
from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules._standardize import Standardizer, as_float32
from lightning_vi.datamodules._state import DataState, digest
from lightning_vi.datamodules._table import check_options, class_names_of, input_columns_of, input_values
from lightning_vi.datamodules._table_splits import group_numbers, split_predefined, split_table, time_numbers
from lightning_vi.datamodules._treatment import (
    Task,
    Treatment,
    as_list,
    check_columns,
    missing_targets,
    report_missing_targets,
    row_ids,
)
from lightning_vi.datamodules._values import to_numbers
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, Rows, Splits
from lightning_vi.datamodules.new_table import NewTableDataModule
from lightning_vi.errors import InputValueError


class TabularDataModule(ArrayDataModule):
    """Regression or classification with columns of a table as inputs.

    The table is read, checked, split, encoded and standardized at construction. The result depends on the arguments
    only: every instance, in any process, has the same splits. All that is wrong with a table is in one error.

    Features: the F inputs of the network are the columns of numbers, then an indicator for each column with imputed
    values, then the columns of categories. Columns of numbers are standardized with the mean and standard deviation
    (ddof = 0) of the training rows; the standard deviation of a constant column is set to 1. Indicators and categories
    are not scaled. Regression targets stay in original units; methods standardize them internally by `target_mean` and
    `target_std`.

    Args:
        data: Path of a table, or a DataFrame. Files are `.csv`, `.tsv`, `.txt` and `.jsonl`, which may be compressed as
            in `.csv.gz`, `.parquet` and `.feather`, and `.xlsx`, `.xls` and `.ods`.
        target_columns: Name or names of the target columns; exactly one for classification.
        task: `regression`, or `classification`: the sorted unique values of the target become classes 0..C-1. Never
            inferred from the data.
        input_columns: Names of the input columns; None for all columns that no other argument names.
        categorical_columns: Names of the input columns whose values are categories; None for columns of text, unless
            half of the texts are numbers. Boolean columns are numbers 0 and 1.
        encoding: `one_hot`: one feature for each level of a column of categories. `ordinal`: one feature with the
            number of the level, for the embeddings of `lightning_vi.backbones.TabularMLP`.
        unknown_levels: `bucket`: the levels are those of the training rows, and all others, also in new tables, count
            as one more level. No datum trains its weights, so that a variational method keeps its prior there.
            `refuse`: the levels are those of the table, and others in new tables are errors.
        missing: `refuse` makes missing values errors. `drop` leaves out rows with a missing input or target. `impute`
            replaces missing inputs by the median or the most frequent level of the training rows, adds a feature that
            tells where, for each column with missing values in training rows, and leaves out rows without a target.
        drop_columns: Names of columns to leave out of the inputs.
        val_fraction: Fraction of the rows for validation; 0 for none. With `group_column`, fractions are of the groups.
        test_fraction: Fraction of the rows for testing. Ignored if `test_indices` is given.
        calib_fraction: Fraction of the rows for calibration; 0 for none.
        train_indices: Row numbers of a predefined training set, only with `test_indices`; None for all rows not in
            `test_indices`. Validation and calibration rows are fractions of *these* rows.
        test_indices: Row numbers of a predefined test set; None for a random one of size `test_fraction`.
        group_column: Name of a column whose values stay together: no group has rows in two splits. It is no input.
        time_column: Name of a column of numbers or dates by which rows are split: training rows are the earliest, then
            come those for validation, calibration and test. Rows of one time stay together. It is no input.
        split_seed: Seed of the split.
        standardise_inputs: If True, standardizes the columns of numbers.
        standardise_targets: If True, methods standardize the targets; no effect in classification.
        id_column: Name of a column that identifies the rows in the file of predictions, and is no input; None for the
            row numbers.
        class_names: Names of the classes, in the order of the sorted labels, for tables of predictions; None for the
            labels.
        sep: Separator of the columns of a text file; None for a tab in `.tsv` files and a comma in others.
        read_options: Further arguments of the function of pandas that reads the file, such as `decimal`, `na_values`,
            `encoding` or `sheet_name`.
        batch_size: Number of rows per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Inputs, [N, F] float32; None if the fraction is 0.
        Y_train, Y_val, Y_test, Y_calib: Targets in original units, [N, D] float32, or class labels, [N] int64.
        input_names, target_names: Names of the input and D target columns.
        feature_names: Names of the F features.
        cardinalities: Numbers of levels of the last features if `encoding` is `ordinal`; empty for `one_hot`.
        input_mean, input_std: Scaling of the features by training statistics, [F] float32, 0 and 1 for those that are
            not scaled; None if `standardise_inputs` is False.
        target_mean, target_std: Training statistics, [D] float32; None if `standardise_targets` is False or in
            classification.
        classes: The C label values of the table, in the order of the classes; None in regression.
        class_names: Names of the C classes; None in regression.
        num_classes: Number of classes C; None in regression.
        row_indices: Row numbers in the table by split, [N] int64 each.

    Raises:
        FileNotFoundError: If `data` is a path without a file.
        ImportError: If a package that reads the file is missing (`pip install 'lightning-vi[parquet]'` or `[excel]`).
        TypeError: If `data` is neither a path nor a DataFrame.
        ValueError: If the suffix is unknown; the table or a split is empty; columns are missing, unnamed, duplicated or
            have two roles; values do not fit their column; or row numbers are out of range, repeated or in both sets.

    Example:
        >>> table = pd.DataFrame({"width": range(20), "color": ["red", "blue"] * 10, "weight": range(20, 40)})
        >>> dm = TabularDataModule(table, target_columns="weight", task="regression")
        >>> dm.feature_names
        ['width', 'color=blue', 'color=red', 'color=(unknown)']
        >>> dm.X_train.shape, dm.Y_test.shape
        (torch.Size([12, 4]), torch.Size([4, 1]))
    """

    kind_of_data = "table"

    def __init__(
        self,
        data: TableSource,
        target_columns: str | list[str],
        task: Task,
        input_columns: str | list[str] | None = None,
        *,
        categorical_columns: list[str] | None = None,
        encoding: Encoding = "one_hot",
        unknown_levels: UnknownLevels = "bucket",
        missing: Missing = "refuse",
        drop_columns: list[str] | None = None,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        calib_fraction: float = 0.1,
        train_indices: list[int] | None = None,
        test_indices: list[int] | None = None,
        group_column: str | None = None,
        time_column: str | None = None,
        split_seed: int = 42,
        standardise_inputs: bool = True,
        standardise_targets: bool = True,
        id_column: str | None = None,
        class_names: list[str] | None = None,
        sep: str | None = None,
        read_options: dict[str, Any] | None = None,
        batch_size: int = 32,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        check_options(task=task, encoding=encoding, unknown_levels=unknown_levels, missing=missing)
        check_seed("split_seed", split_seed)
        reading = Reading.of(data, sep, read_options)
        frame = read_table(data, reading.as_text(categorical_columns or []))
        target_names = as_list(target_columns)
        check_columns("target_columns", target_names, frame, UNLABELED)
        ids = row_ids(frame, id_column)
        roles = {"id_column": id_column, "group_column": group_column, "time_column": time_column}
        input_names = input_columns_of(frame, input_columns, target_names, drop_columns, roles)

        faults = Faults()
        values = input_values(frame, input_names, categorical_columns, faults)
        targets, classes = _targets(target_names, frame, task, faults)
        groups = None if group_column is None else group_numbers(frame[group_column], faults)
        times = None if time_column is None else time_numbers(frame[time_column], faults)
        kept = _kept_rows(values, targets, target_names, missing, faults)
        faults.end_chunk(len(frame))
        faults.raise_if_any()

        fractions = {"test": test_fraction, "val": val_fraction, "calib": calib_fraction}
        if test_indices is not None:
            _refuse_with("test_indices", group_column=group_column, time_column=time_column)
            rows = split_predefined(len(frame), kept, fractions, split_seed, train_indices, test_indices)
        else:
            _refuse_with("group_column", time_column=time_column if group_column is not None else None)
            if train_indices is not None:
                raise InputValueError("train_indices requires test_indices, got test_indices=None.")
            rows = split_table(kept, fractions, split_seed, groups, times)
        features = _fit_features(values, rows["train"], encoding, unknown_levels, missing)
        self._treatment = Treatment(
            task,
            input_names,
            target_names,
            classes,
            id_column,
            input_scale=features.fit_scale(values, rows["train"]) if standardise_inputs else None,
            target_scale=Standardizer.fit(targets[rows["train"]]) if standardise_targets and classes is None else None,
            features=features,
            class_names=class_names_of(classes, class_names),
            reading=reading,
        )
        super().__init__(
            **cast(Splits, {name: self._treated(values, targets, index) for name, index in rows.items()}),
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
        self.feature_names = features.names
        self.cardinalities = features.cardinalities if encoding == "ordinal" else []
        self.classes = classes
        self.class_names = self._treatment.class_names
        self.row_indices = {name: torch.tensor(index) for name, index in rows.items()}
        self._data = data
        self._ids = ids
        self._digests = {
            "rows": whole_digest(list(values.values()), targets),
            "split": digest(*self.row_indices.values()),
        }

    def _treated(
        self, values: Mapping[Any, Values], targets: NDArray[Any], index: IntArray, treatment: Treatment | None = None
    ) -> tuple[Tensor, Tensor]:
        """Returns the inputs and targets of some rows."""
        treatment = self._treatment if treatment is None else treatment
        inputs = treatment.features.encode(values, treatment.input_scale, index)
        return inputs, treatment.as_targets(targets[index])

    @property
    def data_state(self) -> DataState:
        """Facts by which new tables are treated as this one: columns, encoding, scaling, classes, and a digest."""
        return super().data_state | self._treatment.state()

    def transform(self, data: TableSource) -> Tensor:
        """Returns the inputs of any table as the network sees them: the columns, encoding and scaling of this table.

        Args:
            data: A table with the input columns, as the argument `data` of the class; other columns are ignored.

        Returns:
            Inputs for `method.predict`, [N, F] float32.

        Raises:
            ValueError: If a column is missing, or values do not fit; missing ones do with `missing="impute"` alone.
        """
        return self._treatment.all_inputs(read_table(data, self._treatment.reading_of(data)))

    def table(self) -> pd.DataFrame:
        """Returns the whole table as it was read, with texts for categories, and rows in the order of the file."""
        texts = [column.name for column in self._treatment.features.categories]
        return read_table(self._data, self._treatment.reading.as_text(texts))

    def new_data(self, data: TableSource, **options: Any) -> NewTableDataModule:
        """Returns a datamodule of all rows of another table, treated as this one.

        Args:
            data: The other table, which may lack the targets.
            **options: `id_column`, `batch_size` and others, see `NewTableDataModule`.

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
        return NewTableDataModule(
            self._data,
            state,
            id_column=self._treatment.id_column,
            batch_size=self.batch_size,
            sep=self._treatment.reading.separator(self._data),
            read_options=self._treatment.reading.options,
        )

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
        frame = read_table(self._data, self._treatment.reading.as_text(treatment.texts))
        faults = Faults()
        values, targets = treatment.inputs(frame, faults), treatment.targets(frame, faults)
        return self._treated(values, targets, index.numpy(), treatment)

    def _differences(self, state: DataState) -> list[str]:
        return self._treatment.differences(Treatment.from_state(state))


UNLABELED = " To predict a table without targets, use NewTableDataModule(data, checkpoint)."


def _targets(
    names: list[Any], frame: pd.DataFrame, task: Task, faults: Faults
) -> tuple[NDArray[Any], list[Any] | None]:
    """Returns the targets [N, D] and None, or the encoded labels [N] and the classes."""
    if task == "regression":
        return np.stack([to_numbers(frame[name], faults, TEXT_TARGET) for name in names], axis=1), None
    if len(names) != 1:
        raise InputValueError(f"target_columns must name one column when task='classification', got {names}.")
    classes = find_classes(frame[names[0]], faults)
    return to_codes(frame[names[0]], classes, Faults()), classes


def _kept_rows(
    values: Mapping[Any, Values], targets: NDArray[Any], target_names: list[Any], missing: Missing, faults: Faults
) -> IntArray:
    """Returns the row numbers of the rows that are used; missing values without a remedy are reported."""
    kept = ~missing_targets(targets)
    if missing == "refuse":
        report_missing_targets(target_names, targets, faults)
        for name, column in values.items():
            faults.count(name, MISSING_INPUT, is_missing(column))
    if missing == "drop":
        kept &= ~np.any([is_missing(column) for column in values.values()], axis=0)
    if not kept.any() and not faults:
        faults.say(f"no row is left without missing values (missing={missing!r})")
    elif not kept.all() and not faults:
        rank_zero_info(f"{len(kept) - kept.sum()} of {len(kept)} rows have missing values and are left out.")
    return np.flatnonzero(kept)


def _fit_features(
    values: Mapping[Any, Values], train: IntArray, encoding: Encoding, unknown_levels: UnknownLevels, missing: Missing
) -> Features:
    impute = missing == "impute"
    columns = [InputColumn.fit(name, column, train, impute, unknown_levels) for name, column in values.items()]
    if empty := [column.name for column in columns if impute and column.fill is None]:
        raise InputValueError(
            f"data has no values in training rows in {empty}: leave them out by drop_columns={empty}."
        )
    return Features(columns, encoding, unknown_levels, missing)


def _refuse_with(argument: str, **others: Any) -> None:
    if given := [name for name, value in others.items() if value is not None]:
        raise InputValueError(f"{argument} and {given[0]} split the rows in two ways: pass one of them.")
