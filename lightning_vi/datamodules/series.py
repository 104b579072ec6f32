"""Datamodule of a time series: windows of past rows as inputs, the rows that follow as targets."""

from collections.abc import Sequence
from typing import Any, Unpack, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from lightning_vi.datamodules._checks import check_int
from lightning_vi.datamodules._faults import FaultKind, Faults
from lightning_vi.datamodules._files import Reading, TableSource, read_table
from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules._standardize import FloatArray, Standardizer, as_float32
from lightning_vi.datamodules._table_splits import split_table, time_numbers
from lightning_vi.datamodules._treatment import as_list, check_columns
from lightning_vi.datamodules._values import to_numbers
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, Splits
from lightning_vi.errors import InputValueError

MISSING_VALUE = FaultKind(
    "is missing", "are missing", "fill them, for example by DataFrame.interpolate()", shows_value=False
)
REPEATED_TIME = FaultKind(
    "is the time of an earlier row",
    "are times of earlier rows",
    "give one row for each time, and fit several series one at a time",
)


class SeriesDataModule(ArrayDataModule):
    """Forecasting of columns of a table from a window of past rows.

    An input is a window of L consecutive rows, and its target are the values of the target columns in the next H rows.
    The table is split in the order of time: training rows are the earliest, then come those for validation, calibration
    and test. No target is in two splits, and by default no row is: windows do not cross the borders.

    Input columns are standardized with the mean and standard deviation of the training rows. Targets stay in original
    units; methods standardize them by `target_mean` and `target_std`. Training windows are shuffled; all others are in
    the order of time, which calibrations such as `AdaptiveConformal` need.

    Args:
        data: Path of a table, or a DataFrame; see `TabularDataModule` for the files.
        target_columns: Name or names of the columns to forecast.
        window: Number L of past rows of an input.
        horizon: Number H of rows to forecast.
        input_columns: Names of the F input columns; None for all columns, the target columns among them.
        time_column: Name of a column of numbers or dates by which the rows are sorted. It is no input. None if the rows
            are in order already.
        drop_columns: Names of columns to leave out of the inputs.
        stride: Distance of the first rows of consecutive windows.
        share_history: If True, the windows of validation, calibration and test may begin in the split before, so that
            the first row of each split is forecast too.
        val_fraction: Fraction of the rows for validation; 0 for none.
        calib_fraction: Fraction of the rows for calibration; 0 for none.
        test_fraction: Fraction of the rows for testing.
        standardise_inputs: If True, standardizes the inputs.
        standardise_targets: If True, methods standardize the targets.
        sep: Separator of the columns of a text file; None for a tab in `.tsv` files and a comma in others.
        read_options: Further arguments of the function of pandas that reads the file.
        batch_size: Number of windows per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Windows, [N, L, F] float32; None if the fraction is 0. They share the memory of
            the series.
        Y_train, Y_val, Y_test, Y_calib: Targets in original units, [N, H * D] float32: all D columns of the first row,
            then those of the second, and so on.
        target_names: Names of the H * D targets, such as `load +1`; the column's name if `horizon` is 1.
        input_names: Names of the F input columns.
        times: Time of the first row that is forecast by split, [N] each: values of `time_column`, or row numbers.

    Raises:
        FileNotFoundError: If `data` is a path without a file.
        TypeError: If `data` is neither a path nor a DataFrame.
        ValueError: If an argument is out of range, a column or a value is missing or no number, a time is repeated, or
            a split has too few rows for a window.

    Example:
        >>> table = pd.DataFrame({"load": np.sin(np.arange(100.0)), "wind": np.arange(100.0)})
        >>> dm = SeriesDataModule(table, "load", window=5, horizon=2)
        >>> dm.X_train.shape, dm.Y_train.shape, dm.target_names
        (torch.Size([44, 5, 2]), torch.Size([44, 2]), ['load +1', 'load +2'])
    """

    def __init__(
        self,
        data: TableSource,
        target_columns: str | list[str],
        *,
        window: int = 24,
        horizon: int = 1,
        input_columns: str | list[str] | None = None,
        time_column: str | None = None,
        drop_columns: list[str] | None = None,
        stride: int = 1,
        share_history: bool = False,
        val_fraction: float = 0.1,
        calib_fraction: float = 0.2,
        test_fraction: float = 0.2,
        standardise_inputs: bool = True,
        standardise_targets: bool = True,
        sep: str | None = None,
        read_options: dict[str, Any] | None = None,
        batch_size: int = 32,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        self.window = check_int("window", window, at_least=1)
        self.horizon = check_int("horizon", horizon, at_least=1)
        self.stride = check_int("stride", stride, at_least=1)
        self._time_column = time_column
        frame = read_table(data, Reading.of(data, sep, read_options))
        targets = as_list(target_columns)
        check_columns("target_columns", targets, frame)
        self.input_names = _input_names(frame, input_columns, time_column, drop_columns)
        frame, values = _ordered_values(frame, list(dict.fromkeys([*self.input_names, *targets])), time_column)

        fractions = {"test": test_fraction, "val": val_fraction, "calib": calib_fraction}
        rows = split_table(np.arange(len(frame)), fractions, seed=0, times=np.arange(len(frame)))
        inputs, outputs = (np.stack([values[name] for name in names], 1) for names in (self.input_names, targets))
        scale_in, scale_out = (Standardizer.fit(part[rows["train"]]) for part in (inputs, outputs))
        self._input_scale = scale_in if standardise_inputs else None
        x, y = self._scaled(inputs), as_float32(outputs)
        spans = {name: self._span(name, index, share_history) for name, index in rows.items()}
        splits = {name: self._windows(x, y, first, stop) for name, (first, stop) in spans.items()}
        super().__init__(**cast(Splits, splits), batch_size=batch_size, **loader_options)
        if standardise_inputs:
            self.input_mean, self.input_std = as_float32(scale_in.mean), as_float32(scale_in.std)
        if standardise_targets:
            self.target_mean = as_float32(scale_out.mean).repeat(horizon)
            self.target_std = as_float32(scale_out.std).repeat(horizon)
        self.target_names = [
            f"{name} +{step}" if horizon > 1 else str(name) for step in range(1, horizon + 1) for name in targets
        ]
        clock = np.arange(len(frame)) if time_column is None else frame[time_column].to_numpy()
        self.times = {
            name: clock[first + self.window : stop - horizon + 1 : stride] for name, (first, stop) in spans.items()
        }

    @property
    def predict_row_ids(self) -> tuple[str, NDArray[Any]]:
        """Name and values of the identifiers of the rows for prediction: the time of the first row that is forecast."""
        return self._time_column or "index", self.times["test"]

    def transform(self, data: TableSource) -> Tensor:
        """Returns the windows of any table with the input columns, scaled as those of this one.

        The last window consists of the last L rows, for a forecast of rows that are not known yet.

        Args:
            data: A table with the input columns and `time_column`, of at least L rows.

        Returns:
            Inputs for `method.predict`, one for each row from the L-th on, [N, L, F] float32.

        Raises:
            ValueError: If a column or a value is missing, or there are too few rows.
        """
        frame = read_table(data, Reading.of(data, None, None))
        check_columns("data", self.input_names, frame)
        _, values = _ordered_values(frame, self.input_names, self._time_column)
        if len(frame) < self.window:
            raise InputValueError(f"data must have at least window={self.window} rows, got {len(frame)}.")
        return _unfolded(self._scaled(np.stack([values[name] for name in self.input_names], 1)), self.window)

    def _scaled(self, inputs: FloatArray) -> Tensor:
        return as_float32(inputs if self._input_scale is None else self._input_scale(inputs))

    def _span(self, name: str, rows: IntArray, share_history: bool) -> tuple[int, int]:
        """First row of a split's first window, and the row after its last target."""
        first, stop = int(rows[0]), int(rows[-1]) + 1
        first = max(first - self.window, 0) if share_history else first
        if stop - first < self.window + self.horizon:
            raise InputValueError(
                f"window={self.window} and horizon={self.horizon} need {self.window + self.horizon} rows, but the "
                f"{name} split has {len(rows)}: pass a smaller window, a larger {name}_fraction, or share_history=True."
            )
        return first, stop

    def _windows(self, x: Tensor, y: Tensor, first: int, stop: int) -> tuple[Tensor, Tensor]:
        inputs = _unfolded(x[first : stop - self.horizon], self.window)
        targets = _unfolded(y[first + self.window : stop], self.horizon)
        return inputs[:: self.stride], targets[:: self.stride].flatten(1)


def _unfolded(rows: Tensor, size: int) -> Tensor:
    """All windows of consecutive rows, [N, size, F], a view of the rows, [T, F]."""
    return rows.unfold(0, size, 1).movedim(1, 2)


def _input_names(
    frame: pd.DataFrame,
    input_columns: str | list[str] | None,
    time_column: str | None,
    drop_columns: Sequence[Any] | None,
) -> list[Any]:
    if time_column is not None:
        check_columns("time_column", [time_column], frame)
    dropped = as_list(drop_columns) if drop_columns else []
    if dropped:
        check_columns("drop_columns", dropped, frame)
    if input_columns is None:
        names = [name for name in frame.columns if name not in (time_column, *dropped)]
    else:
        names = as_list(input_columns)
        check_columns("input_columns", names, frame)
        if shared := [name for name in names if name in (time_column, *dropped)]:
            raise InputValueError(f"input_columns must not be in time_column or drop_columns, got {shared} in both.")
    if not names:
        raise InputValueError("no input columns remain of the table: name them in input_columns.")
    return names


def _ordered_values(
    frame: pd.DataFrame, names: Sequence[Any], time_column: str | None
) -> tuple[pd.DataFrame, dict[Any, FloatArray]]:
    """Returns the table in the order of time, and its numbers by column, [T] each."""
    faults = Faults()
    times: NDArray[Any] = np.arange(len(frame))
    if time_column is not None:
        check_columns("time_column", [time_column], frame)
        times = time_numbers(frame[time_column], faults)
        faults.count(
            time_column, REPEATED_TIME, pd.Series(times).duplicated().to_numpy(), frame[time_column].to_numpy()
        )
    values = {name: to_numbers(frame[name], faults) for name in names}
    for name, column in values.items():
        faults.count(name, MISSING_VALUE, np.isnan(column))
    faults.end_chunk(len(frame))
    faults.raise_if_any()
    order = np.argsort(times, kind="stable")
    return frame.iloc[order], {name: column[order] for name, column in values.items()}
