"""Arguments of a `TabularDataModule` that a table suggests."""

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lightning_vi.datamodules._files import Reading, TableSource, read_table
from lightning_vi.datamodules._table import MAX_LEVELS, unnamed_columns
from lightning_vi.datamodules._treatment import check_columns
from lightning_vi.datamodules._values import is_number_like

MAX_CLASSES = 10
ID_NAME = re.compile(r"(.*[\W_])?(id|index)", re.IGNORECASE)
IDENTIFIES, NO_NAME = "is different in each row", "has no name"


@dataclass(frozen=True)
class Suggestion:
    """Suggested arguments of a `TabularDataModule`, and what was guessed.

    Attributes:
        arguments: The arguments.
        facts: What was guessed, a line each, with the option that says otherwise.
    """

    arguments: dict[str, Any]
    facts: list[str]


def suggest_arguments(
    data: TableSource,
    target: list[str],
    *,
    task: str | None,
    sep: str | None,
    missing: str | None,
    id_column: str | None,
    drop_columns: list[str],
    categorical_columns: list[str] | None,
    **options: Any,
) -> Suggestion:
    """Guesses the arguments of a `TabularDataModule` that are None.

    Args:
        data: The table.
        target: Names of the target columns.
        task: `regression` or `classification`.
        sep: Separator of the columns of a text file.
        missing: Treatment of missing values.
        id_column: Name of the column that identifies rows.
        drop_columns: Names of columns that are no inputs.
        categorical_columns: Names of columns of categories; other columns of text are categories too.
        **options: Further arguments.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If it has no such target.
    """
    frame = read_table(data, Reading.of(data, sep, None))
    check_columns("--target", target, frame)
    facts = []
    if task is None:
        task, reason = guess_task(frame[target])
        other = "classification" if task == "regression" else "regression"
        facts.append(f"task: {task}, because {reason} (else: --task {other})")
    taken = {*target, *drop_columns, *(categorical_columns or []), id_column}
    taken |= {options.get("group_column"), options.get("time_column")}
    dropped = list(drop_columns)
    for name, reason in unfit_columns(frame[[name for name in frame.columns if name not in taken]]).items():
        if id_column is None and reason == IDENTIFIES:
            id_column = name
            facts.append(f"identifier: {name!r} {reason} (else: --id_column)")
        else:
            dropped.append(name)
            other = "--id_column" if reason == NO_NAME else "--categorical_columns"
            facts.append(f"no input: {name!r} {reason} (else: {other})")
    no_inputs = (taken - set(categorical_columns or [])) | {*dropped, id_column}
    inputs = [name for name in frame.columns if name not in no_inputs]
    categories = [name for name in inputs if name in (categorical_columns or []) or not is_number_like(frame[name])]
    facts.append(f"inputs: {len(inputs)} columns, of categories {', '.join(map(repr, categories)) or 'none'}")
    gaps = frame[[*inputs, *target]].isna().any()
    if missing is None and gaps.any():
        missing = "impute" if gaps[inputs].any() else "drop"
        where = ", ".join(repr(name) for name in gaps.index[gaps])
        facts.append(f"missing values: {missing}, because of gaps in {where} (else: --missing)")
    arguments: dict[str, Any] = {"target_columns": target[0] if len(target) == 1 else target, "task": task}
    found = {
        "sep": sep,
        "missing": missing,
        "id_column": id_column,
        "drop_columns": dropped or None,
        "categorical_columns": categories if categorical_columns else None,
        **options,
    }
    return Suggestion(arguments | {name: value for name, value in found.items() if value is not None}, facts)


def guess_task(targets: pd.DataFrame) -> tuple[str, str]:
    """Returns the task that the target columns suggest, and why."""
    name, column = targets.columns[0], targets.iloc[:, 0]
    count = column.nunique()
    if targets.shape[1] > 1:
        return "regression", f"there are {targets.shape[1]} targets"
    if not is_number_like(column):
        return "classification", f"{name!r} has {count} different texts"
    if pd.api.types.is_bool_dtype(column.dtype):
        return "classification", f"{name!r} is true or false"
    numbers = pd.to_numeric(column, errors="coerce")
    if count <= MAX_CLASSES and bool((numbers.dropna() % 1 == 0).all()):
        return "classification", f"{name!r} has {count} different whole numbers"
    return "regression", f"{name!r} has {count} different numbers"


def unfit_columns(frame: pd.DataFrame) -> dict[Any, str]:
    """Returns the columns that are no inputs, and why."""
    found: dict[Any, str] = {}
    unnamed = unnamed_columns(list(frame.columns))
    for name in frame.columns:
        column = frame[name]
        is_unique = len(frame) > MAX_CLASSES and bool(column.notna().all()) and column.is_unique
        is_text, is_id = not is_number_like(column), bool(ID_NAME.fullmatch(str(name)))
        if name in unnamed:
            found[name] = NO_NAME
        elif pd.api.types.is_datetime64_any_dtype(column.dtype):
            found[name] = "has dates"
        elif is_unique and (is_text or is_id):
            found[name] = IDENTIFIES
        elif is_text and column.nunique() > MAX_LEVELS:
            found[name] = f"has {column.nunique()} different texts"
    return found
