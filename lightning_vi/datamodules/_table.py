"""Roles and values of the columns of a table."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import pandas as pd

from lightning_vi.datamodules._faults import Faults
from lightning_vi.datamodules._features import Encoding, Missing, UnknownLevels, Values
from lightning_vi.datamodules._treatment import Task, as_list, check_columns
from lightning_vi.datamodules._values import is_number_like, to_levels, to_numbers
from lightning_vi.errors import InputValueError

CHOICES = {"task": Task, "encoding": Encoding, "unknown_levels": UnknownLevels, "missing": Missing}
MAX_LEVELS = 100
UNNAMED = re.compile(r"\s*|Unnamed: \d+(_level_\d+)?")


def check_options(**options: Any) -> None:
    """Raises a `ValueError` unless each option is one of its choices."""
    for name, value in options.items():
        if value not in get_args(CHOICES[name]):
            raise InputValueError(f"{name} must be one of {list(get_args(CHOICES[name]))}, got {value!r}.")


def input_columns_of(
    frame: pd.DataFrame,
    input_columns: str | list[str] | None,
    target_names: Sequence[Any],
    drop_columns: Sequence[Any] | None,
    roles: Mapping[str, Any],
) -> list[Any]:
    """Returns the names of the input columns.

    Args:
        frame: The table.
        input_columns: Those that are given; None for all without another role.
        target_names: Names of the target columns.
        drop_columns: Names of columns that are no inputs.
        roles: Names of the columns that identify and split rows, by argument.

    Raises:
        ValueError: If a column is missing, has no name or has two roles.
    """
    dropped = as_list(drop_columns) if drop_columns else []
    if dropped:
        check_columns("drop_columns", dropped, frame)
    for argument, name in roles.items():
        if name is not None:
            check_columns(argument, [name], frame)
            if name in target_names:
                raise InputValueError(f"{argument} and target_columns must not overlap, got {name!r} in both.")
    if input_columns is None:
        taken = [*target_names, *dropped, *roles.values()]
        names = [name for name in frame.columns if name not in taken]
        if not names:
            raise InputValueError(f"target_columns={list(target_names)}: no input columns remain of the table.")
        _refuse_unnamed(names)
        return names
    names = as_list(input_columns)
    check_columns("input_columns", names, frame)
    others = {"target_columns": list(target_names), "drop_columns": dropped, "id_column": [roles["id_column"]]}
    for argument, columns in others.items():
        if shared := [name for name in names if name in columns]:
            raise InputValueError(f"input_columns and {argument} must not overlap, got {shared} in both.")
    return names


def unnamed_columns(names: Sequence[Any]) -> list[Any]:
    """Returns the columns without a name, which pandas calls `Unnamed: 0`."""
    return [name for name in names if UNNAMED.fullmatch(str(name))]


def _refuse_unnamed(names: Sequence[Any]) -> None:
    if unnamed := unnamed_columns(names):
        raise InputValueError(
            f"data has a column without a name, {unnamed[0]!r}, such as the row numbers that DataFrame.to_csv writes: "
            f"leave it out by drop_columns={unnamed!r}, or let it identify the rows by id_column={unnamed[0]!r}."
        )


def input_values(
    frame: pd.DataFrame, names: Sequence[Any], categorical_columns: Sequence[Any] | None, faults: Faults
) -> dict[Any, Values]:
    """Returns the numbers or levels of the input columns.

    Args:
        frame: The table.
        names: Names of the input columns.
        categorical_columns: Names of the columns of categories; None for those of text.
        faults: Where wrong values are reported.

    Raises:
        ValueError: If a column of categories is no input column.
    """
    if foreign := [name for name in categorical_columns or [] if name not in names]:
        raise InputValueError(f"categorical_columns must be input columns, {list(names)}, got {foreign}.")
    values: dict[Any, Values] = {}
    for name in names:
        column = frame[name]
        if name in (categorical_columns or []):
            values[name] = to_levels(column)
        elif categorical_columns is not None or is_number_like(column):
            values[name] = to_numbers(column, faults)
        else:
            values[name] = levels = to_levels(column)
            if len(levels.names) > MAX_LEVELS:
                faults.say(
                    f"{name!r} has {len(levels.names)} different texts, such as {levels.names[0]!r}: leave the column "
                    "out by drop_columns, or name all columns of categories in categorical_columns"
                )
    return values


def class_names_of(classes: Sequence[Any] | None, names: Sequence[str] | None) -> list[str] | None:
    """Returns the names of the classes, by default those in the table.

    Raises:
        ValueError: If there are none, names repeat, or there are more or fewer than classes.
    """
    if names is None:
        return None if classes is None else [str(label) for label in classes]
    if classes is None:
        raise InputValueError(f"class_names is for task='classification', got {list(names)}.")
    if len(names) != len(classes) or len(set(names)) < len(names):
        raise InputValueError(
            f"class_names must have one name for each of the {len(classes)} labels {list(classes)}, got {list(names)}."
        )
    return list(names)
