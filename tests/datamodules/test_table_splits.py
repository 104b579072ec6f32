"""Splits of a table by groups and by time, against those of scikit-learn."""

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.model_selection import GroupShuffleSplit, TimeSeriesSplit

from lightning_vi.datamodules import TabularDataModule

IN_TIME = ("train", "val", "calib", "test")


def visits(rows: int = 120, patients: int = 25) -> pd.DataFrame:
    noise = np.random.default_rng(5)
    days = noise.permutation(rows) // 2  # two visits a day
    return pd.DataFrame(
        {
            "patient": [f"p{number}" for number in noise.integers(0, patients, rows)],
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(days, unit="D"),
            "dose": noise.normal(size=rows),
            "effect": noise.normal(size=rows),
        }
    )


def data_of(frame: pd.DataFrame, **options: Any) -> TabularDataModule:
    dropped = [name for name in ("patient", "day") if name not in options.values()]
    return TabularDataModule(frame, "effect", "regression", drop_columns=dropped, **options)


def of_splits(dm: TabularDataModule, column: pd.Series) -> dict[str, set[Any]]:
    return {name: set(column.iloc[rows.numpy()]) for name, rows in dm.row_indices.items()}


def test_no_group_has_rows_in_two_splits() -> None:
    frame = visits()
    dm = data_of(frame, group_column="patient")
    groups = of_splits(dm, frame["patient"])
    assert set(groups) == set(IN_TIME)
    assert sum(map(len, groups.values())) == frame["patient"].nunique() == len(set.union(*groups.values()))
    assert sorted(torch.cat(list(dm.row_indices.values())).tolist()) == list(range(120))
    assert dm.input_names == ["dose"]


def test_test_groups_are_those_of_scikit_learn() -> None:
    frame = visits().assign(patient=lambda table: table["patient"].str[1:].astype(int))
    for seed in (0, 42):
        splitter = GroupShuffleSplit(n_splits=1, test_size=round(0.2 * frame["patient"].nunique()), random_state=seed)
        ((_, test),) = splitter.split(frame, groups=frame["patient"])
        dm = data_of(frame, group_column="patient", split_seed=seed)
        assert dm.row_indices["test"].tolist() == test.tolist()


@pytest.mark.parametrize("form", ["dates", "texts", "numbers"])
def test_splits_follow_each_other_in_time(form: str) -> None:
    frame = visits()
    days = frame["day"]
    if form == "texts":
        frame["day"] = days.dt.strftime("%Y-%m-%d")
    elif form == "numbers":
        frame["day"] = (days - days.min()).dt.days
    dm = data_of(frame, time_column="day")
    found = of_splits(dm, days)
    assert all(max(found[earlier]) < min(found[later]) for earlier, later in pairwise(IN_TIME))
    assert [len(dm.row_indices[name]) for name in IN_TIME] == [72, 12, 12, 24]


def test_test_rows_are_the_last_fold_of_scikit_learn() -> None:
    frame = visits().sort_values("day", ignore_index=True)
    *_, (_, test) = TimeSeriesSplit(n_splits=2, test_size=24).split(frame)
    assert data_of(frame, time_column="day").row_indices["test"].tolist() == test.tolist()


def test_rows_of_one_time_stay_together() -> None:
    frame = visits().assign(day=lambda table: np.repeat(np.arange(8), 15))
    found = of_splits(data_of(frame, time_column="day", calib_fraction=0.0), frame["day"])
    assert found == {"train": set(range(5)), "val": {5}, "test": {6, 7}}


def test_dropped_rows_are_in_no_split() -> None:
    frame = visits()
    frame.loc[::7, "dose"] = np.nan
    for options in ({"group_column": "patient"}, {"time_column": "day"}, {"test_indices": list(range(30))}):
        dm = data_of(frame, missing="drop", **options)
        assert not set(torch.cat(list(dm.row_indices.values())).tolist()) & set(range(0, 120, 7))


def test_a_time_that_is_an_input_too() -> None:
    frame = visits().assign(day=range(120))
    dm = TabularDataModule(frame, "effect", "regression", ["day", "dose"], time_column="day")
    assert dm.input_names == ["day", "dose"]
    assert dm.X_train[:, 0].max() < dm.X_test[:, 0].min()


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no group": ({"group_column": "clinic"}, r"group_column: no columns \['clinic'\]"),
    "target": ({"group_column": "effect"}, "group_column and target_columns must not overlap, got 'effect'"),
    "both": ({"group_column": "patient", "time_column": "day"}, "group_column and time_column split the rows in two"),
    "predefined": ({"time_column": "day", "test_indices": [1]}, "test_indices and time_column split the rows in two"),
    "few groups": ({"group_column": "ward"}, "test_fraction=0.2 of 2 groups leaves the test split empty"),
    "one time": (
        {"time_column": "ward"},
        "test_fraction=0.2 of 120 rows, in the order of time_column, leaves the train",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_impossible_splits_are_refused(case: str) -> None:
    options, message = BAD[case]
    frame = visits().assign(ward=["a", "b"] * 60 if "group_column" in options else 1)
    with pytest.raises(ValueError, match=message):
        TabularDataModule(frame, "effect", "regression", ["dose"], **options)


def test_faults_of_groups_and_times_are_counted() -> None:
    frame = visits()
    frame["patient"] = frame["patient"].where(frame.index != 4)
    with pytest.raises(ValueError, match=r"1 of 120 values in 'patient' is missing: row 4\. Complete the column"):
        data_of(frame, group_column="patient")
    frame["day"] = frame["day"].astype(str).where(frame.index != 9, "soon")
    with pytest.raises(ValueError, match="1 of 120 values in 'day' is no time: 'soon' in row 9"):
        data_of(frame, time_column="day")
