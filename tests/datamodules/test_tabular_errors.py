"""Errors of TabularDataModule name the argument, its value and what is expected."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lightning_vi.datamodules import TabularDataModule


def table(**columns: Any) -> pd.DataFrame:
    basic = {"a": np.arange(20.0), "b": np.arange(20.0) ** 2, "y": np.linspace(5.0, 6.0, 20)}
    return pd.DataFrame({**basic, **columns})


def with_value(value: object, at: int = 3) -> list[object]:
    values: list[object] = list(np.arange(20.0))
    values[at] = value
    return values


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data='.*missing\.parquet': file not found"):
        TabularDataModule(tmp_path / "missing.parquet", "y", "regression")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FileNotFoundError, match="file not found"):
        TabularDataModule(tmp_path / "folder.csv", "y", "regression")


def test_unknown_suffix(tmp_path: Path) -> None:
    for name in ("t.dat", "t", "t.gz", "t.parquet.gz"):
        table().to_csv(tmp_path / name)
        with pytest.raises(ValueError, match=rf"data must be a path ending in \.csv, \.tsv, .*got '.*{name}'"):
            TabularDataModule(tmp_path / name, "y", "regression")


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "t.csv").touch()
    with pytest.raises(ValueError, match="expected a header and rows, got an empty file"):
        TabularDataModule(tmp_path / "t.csv", "y", "regression")


def test_header_without_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n")
    with pytest.raises(ValueError, match=r"data must have at least one row, got none, with columns \['a', 'y'\]"):
        TabularDataModule(tmp_path / "t.csv", "y", "regression")


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.parquet").touch()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"pip install 'lightning-vi\[parquet\]'"):
        TabularDataModule(tmp_path / "t.parquet", "y", "regression")


def test_data_of_another_type() -> None:
    with pytest.raises(TypeError, match="data must be the path of a file or a DataFrame, got ndarray"):
        TabularDataModule(np.zeros((3, 2)), "y", "regression")


def test_repeated_column_names() -> None:
    data = table().set_axis(["a", "a", "y"], axis=1)
    with pytest.raises(ValueError, match=r"unique column names, got duplicates of \['a'\]"):
        TabularDataModule(data, "y", "regression")


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown task": ({"task": "ranking"}, r"task must be one of \['regression', 'classification'\], got 'ranking'"),
    "missing target": (
        {"target_columns": "price"},
        r"target_columns: no columns \['price'\]; the table has \['a', 'b', 'y'\]",
    ),
    "missing input": (
        {"input_columns": ["a", "c"]},
        r"input_columns: no columns \['c'\]; the table has \['a', 'b', 'y'\]",
    ),
    "no target": ({"target_columns": []}, "target_columns must name at least one column"),
    "no input": ({"input_columns": []}, "input_columns must name at least one column"),
    "only targets": ({"target_columns": ["a", "b", "y"]}, "no input columns remain"),
    "target twice": ({"target_columns": ["y", "y"]}, r"target_columns must name each column once, got \['y', 'y'\]"),
    "input twice": ({"input_columns": ["a", "a"]}, r"input_columns must name each column once, got \['a', 'a'\]"),
    "overlap": ({"input_columns": ["a", "y"]}, r"must not overlap, got \['y'\] in both"),
    "two label columns": (
        {"task": "classification", "target_columns": ["a", "b"]},
        r"target_columns must name one column when task='classification', got \['a', 'b'\]",
    ),
    "continuous labels": (
        {"task": "classification"},
        r"18 of 20 values in 'y' are no integers: 5\.05.* in row 1, .* and 15 more\..*pass task='regression'",
    ),
    "negative fraction": ({"val_fraction": -0.1}, "val_fraction must be at least 0 and less than 1, got -0.1"),
    "fraction of one": ({"test_fraction": 1.0}, "test_fraction must be at least 0 and less than 1, got 1.0"),
    "fraction not a number": ({"calib_fraction": float("nan")}, "calib_fraction must be .*got nan"),
    "fractions sum to one": (
        {"test_fraction": 0.5, "val_fraction": 0.25, "calib_fraction": 0.25},
        "sum to less than 1.*test_fraction=0.5, val_fraction=0.25, calib_fraction=0.25",
    ),
    "fraction too small": ({"calib_fraction": 0.01}, "calib_fraction=0.01 of 20 rows leaves the calib split empty"),
    "nothing to train on": (
        {"test_fraction": 0.5, "val_fraction": 0.49, "calib_fraction": 0.0},
        "must leave rows to train on, got test_fraction=0.5, .* of 20 rows",
    ),
    "no test rows": ({"test_fraction": 0.0}, "test_fraction must be greater than 0"),
    "train rows alone": ({"train_indices": [1, 2]}, "train_indices requires test_indices"),
    "no test numbers": ({"test_indices": []}, "test_indices must be one or more row numbers"),
    "mask": ({"test_indices": [True, False]}, "test_indices must be one or more row numbers, .*got bool"),
    "fractional rows": ({"test_indices": [1.0, 2.0]}, "test_indices must be one or more row numbers, .*got float64"),
    "nested rows": ({"test_indices": [[1], [2]]}, r"test_indices must be one or more row numbers, .*shape \(2, 1\)"),
    "row too large": ({"test_indices": [1, 20]}, "test_indices must be between 0 and 19, got numbers from 1 to 20"),
    "row negative": ({"test_indices": [-1]}, "test_indices must be between 0 and 19, got numbers from -1 to -1"),
    "row repeated": ({"test_indices": [1, 1, 2]}, "test_indices must give each row once, got 1 repeated"),
    "all rows tested": ({"test_indices": range(20)}, "test_indices must leave rows to train on, got all 20"),
    "train row out of range": (
        {"test_indices": [1], "train_indices": [2, 99]},
        "train_indices must be between 0 and 19, got numbers from 2 to 99",
    ),
    "rows in both": (
        {"test_indices": [1, 2], "train_indices": [2, 3]},
        r"train_indices and test_indices must not overlap, got 1 rows in both: \[2\]",
    ),
}


@pytest.mark.parametrize(("options", "message"), CASES.values(), ids=CASES.keys())
def test_invalid_arguments(options: dict[str, Any], message: str) -> None:
    arguments = {"target_columns": "y", "task": "regression", **options}
    with pytest.raises(ValueError, match=message):
        TabularDataModule(table(), **arguments)


COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "text input": (
        {"b": with_value("n/a?")},
        r"^data: 1 of 20 values in 'b' is no number: 'n/a\?' in row 3\. .*'na_values'.* Rows count from 0\.$",
    ),
    "many texts": (
        {"b": ["u", "v", *range(18)]},
        r"2 of 20 values in 'b' are no numbers: 'u' in row 0, 'v' in row 1\.",
    ),
    "time input": ({"b": pd.date_range("2020-01-01", periods=20)}, "^data: the values in 'b' are of type datetime64"),
    "complex input": ({"b": np.arange(20) * 1j}, "^data: the values in 'b' are of type complex128.*drop_columns"),
    "text target": (
        {"y": ["u", "v"] * 10},
        r"^data: 20 of 20 values in 'y' are no numbers: 'u' in row 0, .* and 17 more\. .*task='classification'",
    ),
    "several faults": (
        {"a": with_value(np.nan), "b": with_value("x", at=0), "y": with_value(np.inf)},
        r"^data has 3 faults: \(1\) 1 .* in 'b' is no number: .*; \(2\) 1 .* in 'y' is infinite or beyond float32: inf "
        r"in row 3; \(3\) 1 .* in 'a' is missing: row 3\. Correct them, .*missing='impute'",
    ),
    "infinite input": ({"b": with_value(-np.inf)}, "^data: 1 of 20 values in 'b' is infinite .*: -inf in row 3"),
    "missing nullable input": (
        {"b": pd.array(with_value(pd.NA), dtype="Float64")},
        r"^data: 1 of 20 values in 'b' is missing: row 3\. Pass missing='impute'",
    ),
    "input beyond float32": ({"b": with_value(1e39)}, r"values in 'b' is infinite or beyond float32: 1e\+39 in row 3"),
    "NaN target": ({"y": with_value(np.nan)}, r"^data: 1 of 20 values in 'y' is missing: row 3\. Pass missing='drop'"),
    "infinite target": ({"y": with_value(np.inf)}, "^data: 1 of 20 values in 'y' is infinite .*: inf in row 3"),
    "unnamed": (
        {"Unnamed: 0": range(20)},
        r"without a name, 'Unnamed: 0', .* by drop_columns=\['Unnamed: 0'\].*id_col",
    ),
}


@pytest.mark.parametrize(("columns", "message"), COLUMNS.values(), ids=COLUMNS.keys())
def test_invalid_columns(columns: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularDataModule(table(**columns), "y", "regression")


LABELS: dict[str, tuple[Any, str]] = {
    "NaN": (with_value(np.nan), "1 of 20 values in 'label' is missing: row 3"),
    "None": ([None, "x", "y", "x"] * 5, "5 of 20 values in 'label' are missing: rows 0, 4, 8 and 2 more"),
    "infinite": (with_value(np.inf), "1 of 20 values in 'label' is no integer: inf in row 3"),
    "mixed types": (pd.Series(["x", 1] * 10, dtype=object), r"'label' mix the types \['int', 'str'\]"),
    "one class": (["x"] * 20, r"'label' must have at least two classes, got \['x'\]"),
}


@pytest.mark.parametrize(("labels", "message"), LABELS.values(), ids=LABELS.keys())
def test_invalid_labels(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TabularDataModule(table(label=labels), "label", "classification")
