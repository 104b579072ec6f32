"""Datamodule of a table for a method that is fitted."""

from typing import Any

from lightning import LightningDataModule

from lightning_vi.datamodules._files import TableSource
from lightning_vi.datamodules._identity import is_seen
from lightning_vi.datamodules._state import DataState
from lightning_vi.datamodules._treatment import Task, Treatment, as_list
from lightning_vi.datamodules.base import LoaderOptions
from lightning_vi.datamodules.new_table import NewTableDataModule
from lightning_vi.datamodules.tabular import TabularDataModule
from lightning_vi.errors import InputValueError

NEW_TABLE_OPTIONS = ("id_column", "batch_size", *LoaderOptions.__annotations__)


def open_table(state: DataState, data: TableSource, **arguments: Any) -> LightningDataModule:
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
    treatment = Treatment.from_state(state)
    how = {name: arguments.get(name) for name in ("sep", "read_options")}
    if how == {"sep": treatment.reading.sep, "read_options": treatment.reading.options or None}:
        how = {}  # those of the fit, which another format of file does not have
    if is_seen(data, treatment.reading_of(data, **how), state):
        return TabularDataModule(data, **arguments)
    _check_described(treatment, **arguments)
    options: dict[str, Any] = {name: value for name, value in arguments.items() if name in NEW_TABLE_OPTIONS}
    return NewTableDataModule(data, state, **options | how)


def _check_described(
    treatment: Treatment,
    task: Task,
    target_columns: str | list[str],
    input_columns: str | list[str] | None = None,
    **_: Any,
) -> None:
    found = {"task": task, "target_columns": as_list(target_columns), "input_columns": treatment.input_names}
    if input_columns is not None:
        found["input_columns"] = as_list(input_columns)
    fitted = {
        "task": treatment.task,
        "target_columns": treatment.target_names,
        "input_columns": treatment.input_names,
    }
    for name, value in found.items():
        if value != fitted[name]:
            raise InputValueError(f"{name} must be that of the fit, {fitted[name]!r}, got {value!r}.")
