"""Datamodule of a table that a method was not trained on."""

from functools import cached_property
from pathlib import Path
from typing import Any, Unpack, cast

from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_vi.datamodules._chunks import ChunkedRows, Survey, survey
from lightning_vi.datamodules._files import TableSource
from lightning_vi.datamodules._loader import dataset_loader
from lightning_vi.datamodules._state import DataState, check_version, read_data_state
from lightning_vi.datamodules._table import class_names_of
from lightning_vi.datamodules._treatment import Treatment
from lightning_vi.datamodules.base import LoaderOptions, loader_settings
from lightning_vi.errors import InputValueError


class NewTableDataModule(LightningDataModule):
    """All rows of a new table, treated as the table that a method was trained on.

    Columns, their order, encoding, scaling and classes are those of the fit. The table needs the input columns of the
    fit, and may have others, which are ignored. `predict_dataloader` also works without targets; validation, test and
    calibration need them. Batches have the rows in the order of the table. Text and Parquet files are read in chunks,
    once to be checked and once for each pass over the rows, so that memory does not grow with their size. Missing
    values are treated as in the fit: they are errors, imputed, or the row is left out with a warning.

    Args:
        data: Path of a file as for `TabularDataModule`, or a DataFrame.
        checkpoint: Path of a checkpoint of the fit, or the `state_dict()` of its `TabularDataModule`.
        id_column: Name of the column that identifies the rows in the file of predictions; by default that of the fit,
            or else the row numbers.
        sep: Separator of the columns of a text file; None for that of the fit.
        read_options: Further arguments of the function of pandas that reads the file; None for those of the fit.
        batch_size: Number of rows per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        input_names, target_names: Names of the input and D target columns.
        feature_names: Names of the F features.
        classes: The C label values of the table, in the order of the classes; None in regression.
        class_names: Names of the C classes; None in regression.
        num_classes: Number of classes C; None in regression.
        predict_row_ids: Name and values of the identifiers of the rows.

    Raises:
        FileNotFoundError: If `data` or `checkpoint` is a path without a file.
        ValueError: If an input column is missing or values do not fit; a label is no class of the fit; the
            checkpoint is not one of a fit on a `TabularDataModule`; or an argument is out of range.

    Example:
        >>> import pandas as pd
        >>> from lightning_vi.datamodules import TabularDataModule
        >>> table = pd.DataFrame({"width": range(20), "height": [3.0, 4.0] * 10, "weight": range(20, 40)})
        >>> trained = TabularDataModule(table, target_columns="weight", task="regression")
        >>> new = NewTableDataModule(pd.DataFrame({"height": [3.5], "width": [9.0]}), trained.state_dict())
        >>> new.X.shape, new.Y is None
        (torch.Size([1, 2]), True)
    """

    def __init__(
        self,
        data: TableSource,
        checkpoint: str | Path | DataState,
        *,
        id_column: str | None = None,
        sep: str | None = None,
        read_options: dict[str, Any] | None = None,
        batch_size: int = 32,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        super().__init__()
        self._settings = loader_settings(type(self).__name__, batch_size, loader_options)
        state = checkpoint if isinstance(checkpoint, dict) else _state_of(checkpoint)
        check_version(state, "table")
        self.data_state = state
        treatment = Treatment.from_state(state)
        reading = treatment.reading_of(data, sep, read_options)
        found = survey(data, reading, treatment, treatment.id_column if id_column is None else id_column)
        _say_what_differs(found)
        self._rows = ChunkedRows(data, reading, treatment, found.kept, found.has_targets)
        self.input_names, self.target_names = treatment.input_names, treatment.target_names
        self.feature_names = treatment.features.names
        self.classes, self.class_names = treatment.classes, class_names_of(treatment.classes, treatment.class_names)
        self.num_classes = None if treatment.classes is None else len(treatment.classes)
        self.predict_row_ids: tuple[str, NDArray[Any]] = found.id_name, found.ids

    @cached_property
    def X(self) -> Tensor:  # noqa: N802
        """Inputs as the network sees them, [N, F] float32."""
        return self._rows.all_rows().inputs

    @cached_property
    def Y(self) -> Tensor | None:  # noqa: N802
        """Targets in original units, [N, D] float32, or class labels, [N] int64; None if the table lacks a target."""
        return self._rows.all_rows().targets

    def labeled_rows(self) -> tuple[Tensor, Tensor]:
        """Returns `X` and `Y`.

        Raises:
            ValueError: If a target is missing.
        """
        self._require_targets()
        return self.X, cast(Tensor, self.Y)

    def _require_targets(self) -> None:
        if not self._rows.has_targets:
            raise InputValueError(
                f"data: the target columns of the fit, {self.target_names}, are missing or have missing values; a "
                "table without targets can be predicted, but not scored"
            )

    def predict_dataloader(self) -> DataLoader[Any]:
        """Returns batches `(x, y)` of all rows, or `x` if a target is missing."""
        return dataset_loader(self._rows, **self._settings)

    def test_dataloader(self) -> DataLoader[Any]:
        """Returns batches `(x, y)` of all rows.

        Raises:
            ValueError: If a target is missing.
        """
        self._require_targets()
        return dataset_loader(self._rows, **self._settings)

    def val_dataloader(self) -> DataLoader[Any]:
        """Returns the same batches as `test_dataloader`."""
        return self.test_dataloader()

    def calibration_dataloader(self) -> DataLoader[Any]:
        """Returns the same batches as `test_dataloader`."""
        return self.test_dataloader()


def _say_what_differs(found: Survey) -> None:
    """Warns about rows that are left out, and levels that the training rows did not have."""
    if left_out := found.num_rows - len(found.kept):
        rank_zero_warn(
            f"{left_out} of {found.num_rows} rows have missing values and are left out, as in the fit, which had "
            "missing='drop'."
        )
    if unknown := {name: number for name, number in found.unknown.items() if number}:
        rank_zero_warn(
            f"The table has values that are no level of the training rows, by column: {unknown}. They count as one "
            "unknown level, for which the method has seen no data."
        )


def _state_of(checkpoint: str | Path) -> DataState:
    state = read_data_state(checkpoint)
    if state is None:
        raise InputValueError(
            f"checkpoint={str(checkpoint)!r} does not say how its training data were treated: it is not from a fit on "
            "a TabularDataModule"
        )
    return state
