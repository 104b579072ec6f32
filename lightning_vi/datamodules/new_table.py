"""Datamodule of a table that a method was not trained on."""

from pathlib import Path
from typing import Any, Unpack

import pandas as pd
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_vi.datamodules._loader import row_loader
from lightning_vi.datamodules._standardize import FloatArray
from lightning_vi.datamodules._state import DataState, check_version, digest, read_data_state
from lightning_vi.datamodules._table import read_table
from lightning_vi.datamodules._treatment import Treatment, row_ids
from lightning_vi.datamodules.base import LoaderOptions, loader_settings
from lightning_vi.errors import InputValueError


class NewTableDataModule(LightningDataModule):
    """All rows of a new table, treated as the table that a method was trained on.

    Columns, their order, scaling and classes are those of the fit. The table needs the input columns of the fit, and
    may have others, which are ignored. `predict_dataloader` also works without targets; validation, test and
    calibration need them. Batches have the rows in the order of the table.

    Args:
        data: Path of a `.csv` or `.parquet` file, or a DataFrame.
        checkpoint: Path of a checkpoint of the fit, or the `state_dict()` of its `TabularDataModule`.
        id_column: Name of the column that identifies the rows in the file of predictions; by default that of the fit,
            or else the row numbers.
        batch_size: Number of rows per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X: Inputs as the network sees them, [N, F] float32.
        Y: Targets in original units, [N, D] float32, or class labels, [N] int64; None if the table lacks a target.
        input_names, target_names: Names of the F input and D target columns.
        classes: The C label values of the table, in the order of the classes; None in regression.
        num_classes: Number of classes C; None in regression.
        predict_row_ids: Name and values of the identifiers of the rows.

    Raises:
        FileNotFoundError: If `data` or `checkpoint` is a path without a file.
        ValueError: If an input column is missing, not numeric or not finite; a label is no class of the fit; the
            checkpoint is not one of a fit on a `TabularDataModule`; or an argument is out of range.

    Example:
        >>> from lightning_vi.datamodules import TabularDataModule
        >>> table = pd.DataFrame({"width": range(20), "height": [3.0, 4.0] * 10, "weight": range(20, 40)})
        >>> trained = TabularDataModule(table, target_columns="weight", task="regression")
        >>> new = NewTableDataModule(pd.DataFrame({"height": [3.5], "width": [9.0]}), trained.state_dict())
        >>> new.X.shape, new.Y is None
        (torch.Size([1, 2]), True)
    """

    def __init__(
        self,
        data: str | Path | pd.DataFrame,
        checkpoint: str | Path | DataState,
        *,
        id_column: str | None = None,
        batch_size: int = 32,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__()
        self._settings = loader_settings(type(self).__name__, batch_size, loader_options)
        state = checkpoint if isinstance(checkpoint, dict) else _state_of(checkpoint)
        check_version(state, "table")
        self.data_state = state
        treatment = Treatment.from_state(state)
        frame = read_table(data)
        self.X: Tensor = treatment.scaled(treatment.raw_inputs(frame))
        self.Y: Tensor | None = None
        if treatment.has_all_targets(frame):
            self.Y = treatment.as_targets(treatment.raw_targets(frame))
        self.input_names, self.target_names = treatment.input_names, treatment.target_names
        self.classes = treatment.classes
        self.num_classes = None if treatment.classes is None else len(treatment.classes)
        ids = row_ids(frame, treatment.id_column if id_column is None else id_column)
        self.predict_row_ids: tuple[str, NDArray[Any]] = ids

    def labeled_rows(self) -> tuple[Tensor, Tensor]:
        """Returns `X` and `Y`.

        Raises:
            ValueError: If a target is missing.
        """
        if self.Y is None:
            raise InputValueError(
                f"data: the target columns of the fit, {self.target_names}, are missing or have missing values; a "
                "table without targets can be predicted, but not scored"
            )
        return self.X, self.Y

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns batches `(x, y)` of all rows, or `x` if a target is missing."""
        return row_loader(self.X, self.Y, **self._settings)

    def test_dataloader(self) -> DataLoader[Any]:
        """Returns batches `(x, y)` of all rows.

        Raises:
            ValueError: If a target is missing.
        """
        return row_loader(*self.labeled_rows(), **self._settings)

    def val_dataloader(self) -> DataLoader[Any]:
        """Returns the same batches as `test_dataloader`."""
        return self.test_dataloader()

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Returns the same batches as `test_dataloader`."""
        return self.test_dataloader()


def table_digest(inputs: FloatArray, targets: NDArray[Any]) -> str:
    """Returns a digest of the values of a table, rounded to float32, in which a CSV file equals the original."""
    return digest(inputs.astype("float32"), targets.astype("float32"))


def is_seen(frame: pd.DataFrame, state: DataState) -> bool:
    """Tells whether a table was used in the fit, or in the calibration, that a state is from."""
    treatment = Treatment.from_state(state)
    try:
        rows = table_digest(treatment.raw_inputs(frame), treatment.raw_targets(frame))
    except InputValueError:
        return False
    return any(table["rows"] == rows for table in state["tables"])


def _state_of(checkpoint: str | Path) -> DataState:
    state = read_data_state(checkpoint)
    if state is None:
        raise InputValueError(
            f"checkpoint={str(checkpoint)!r} does not say how its training data were treated: it is not from a fit on "
            "a TabularDataModule"
        )
    return state
