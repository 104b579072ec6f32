"""TabularDataModule: categories and missing values, against the encoders of scikit-learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from lightning_vi.datamodules import NewTableDataModule, TabularDataModule

SPLITS = ("train", "val", "test", "calib")


def houses(rows: int = 200, seed: int = 0) -> pd.DataFrame:
    """Prices, with categories, and gaps in three of the columns."""
    noise = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "house": [f"h{seed}-{row}" for row in range(rows)],
            "area": noise.normal(120.0, 30.0, rows),
            "city": noise.choice(["Ulm", "Bonn", "Kiel"], rows, p=[0.6, 0.3, 0.1]),
            "age": noise.integers(0, 100, rows).astype(float),
            "heating": noise.choice(["gas", "oil"], rows),
            "rooms": noise.integers(1, 6, rows),
        }
    )
    frame["price"] = frame["area"] * 2 + frame["rooms"] * 10 + noise.normal(0, 5, rows)
    return frame


def with_gaps(frame: pd.DataFrame, columns: list[str], seed: int = 1) -> pd.DataFrame:
    noise = np.random.default_rng(seed)
    return frame.assign(**{name: frame[name].where(noise.random(len(frame)) > 0.2) for name in columns})


def data_of(frame: Any, **options: Any) -> TabularDataModule:
    return TabularDataModule(frame, "price", "regression", id_column="house", **options)


def assert_inputs(dm: TabularDataModule, split: str, expected: np.ndarray) -> None:
    np.testing.assert_allclose(getattr(dm, f"X_{split}").numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("split", SPLITS)
def test_categories_are_encoded_as_by_scikit_learn(split: str) -> None:
    frame, dm = houses(), data_of(houses())
    train, rows = frame.iloc[dm.row_indices["train"].numpy()], frame.iloc[dm.row_indices[split].numpy()]
    numbers, texts = ["area", "age", "rooms"], ["city", "heating"]
    scaled = StandardScaler().fit(train[numbers]).transform(rows[numbers])
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(train[texts]).transform(rows[texts])
    bucket = np.zeros((len(rows), 1))
    assert_inputs(dm, split, np.hstack([scaled, one_hot[:, :3], bucket, one_hot[:, 3:], bucket]))
    assert dm.feature_names == [
        *numbers, "city=Bonn", "city=Kiel", "city=Ulm", "city=(unknown)", "heating=gas", "heating=oil",
        "heating=(unknown)",
    ]  # fmt: skip
    assert dm.n_inputs == 10


def test_ordinal_codes_come_last() -> None:
    frame, dm = houses(), data_of(houses(), encoding="ordinal", categorical_columns=["city", "heating", "rooms"])
    rows = frame.iloc[dm.row_indices["test"].numpy()]
    codes = OrdinalEncoder().fit(frame[["city", "heating", "rooms"]]).transform(rows[["city", "heating", "rooms"]])
    np.testing.assert_array_equal(dm.X_test[:, 2:].numpy(), codes)
    assert dm.feature_names == ["area", "age", "city", "heating", "rooms"]
    assert dm.cardinalities == [4, 3, 6]


def test_missing_values_are_imputed_as_by_scikit_learn() -> None:
    frame = with_gaps(houses(), ["age", "heating", "area"])
    dm = data_of(frame, missing="impute", encoding="ordinal")
    train, rows = (frame.iloc[dm.row_indices[name].numpy()] for name in ("train", "test"))
    numbers = ["area", "age", "rooms"]
    imputer = SimpleImputer(strategy="median", add_indicator=True).fit(train[numbers])
    filled = imputer.transform(rows[numbers])
    scaler = StandardScaler().fit(imputer.transform(train[numbers])[:, :3])
    mode = SimpleImputer(strategy="most_frequent").fit(train[["heating"]].astype(object))
    heating = (mode.transform(rows[["heating"]].astype(object)) == "oil").astype(float)
    city = np.searchsorted(["Bonn", "Kiel", "Ulm"], rows["city"])[:, None]
    gaps = np.hstack([filled[:, 3:], rows[["heating"]].isna()])
    assert_inputs(dm, "test", np.hstack([scaler.transform(filled[:, :3]), gaps, city, heating]))
    assert dm.feature_names[3:] == ["area missing", "age missing", "heating missing", "city", "heating"]


def test_rows_with_missing_values_are_dropped() -> None:
    frame = with_gaps(houses(), ["age", "city", "price"])
    dm = data_of(frame, missing="drop")
    complete = frame.dropna()
    rows = torch.cat([dm.row_indices[name] for name in SPLITS])
    assert sorted(rows.tolist()) == complete.index.tolist()
    assert dm.Y_test[:, 0].tolist() == pytest.approx(frame["price"].iloc[dm.row_indices["test"].numpy()].tolist())
    assert dm.predict_row_ids[1].tolist() == frame["house"].iloc[dm.row_indices["test"].numpy()].tolist()
    without = data_of(complete.reset_index(drop=True))
    assert len(without.X_train) == len(dm.X_train)


def test_a_row_without_a_target_is_left_out_where_inputs_are_imputed() -> None:
    frame = with_gaps(houses(), ["price"])
    dm = data_of(frame, missing="impute")
    assert sorted(torch.cat(list(dm.row_indices.values())).tolist()) == frame.index[frame["price"].notna()].tolist()


def test_missing_values_are_refused_by_default() -> None:
    with pytest.raises(ValueError, match=r"has 2 faults: .* of 200 values in 'city' are missing: rows \d.*'age'"):
        data_of(with_gaps(houses(), ["age", "city"]))


@pytest.mark.parametrize("encoding", ["one_hot", "ordinal"])
@pytest.mark.parametrize("missing", ["refuse", "impute"])
def test_new_rows_are_encoded_as_the_training_rows(encoding: Any, missing: Any, tmp_path: Path) -> None:
    """A table of test rows alone, by the frame and by a file, in other column orders."""
    frame = with_gaps(houses(), ["age", "city"]) if missing == "impute" else houses()
    dm = data_of(frame, encoding=encoding, missing=missing)
    rows = frame.iloc[dm.row_indices["test"].numpy()][frame.columns[::-1]]
    rows.drop(columns="price").to_csv(tmp_path / "new.csv", index=False)
    for table in (rows, tmp_path / "new.csv"):
        new = NewTableDataModule(table, dm.state_dict())
        torch.testing.assert_close(new.X, dm.X_test, rtol=1e-6, atol=1e-6)
        assert new.predict_row_ids[1].tolist() == rows["house"].tolist()
    torch.testing.assert_close(dm.transform(rows), dm.X_test, rtol=1e-6, atol=1e-6)


def test_unknown_levels_have_their_own_bucket() -> None:
    dm = data_of(houses())
    new = houses(5, seed=3).assign(city=["Ulm", "Jena", "Kiel", "Gera", "Bonn"])
    with pytest.warns(UserWarning, match=r"no level of the training rows, by column: \{'city': 2\}"):
        features = dm.new_data(new).X[:, 3:7]
    assert features.tolist() == [[0, 0, 1, 0], [0, 0, 0, 1], [0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]]
    codes = data_of(houses(), encoding="ordinal").transform(new)[:, 3]
    assert codes.tolist() == [2, 3, 1, 3, 0]


def test_a_level_outside_of_the_training_rows_is_unknown() -> None:
    test = list(range(150, 200))
    frame = houses().assign(city=["Ulm"] * 150 + ["Jena"] * 50)
    dm = data_of(frame, test_indices=test)
    assert dm.X_test[:, 3:5].unique(dim=0).tolist() == [[0, 1]]
    assert data_of(frame, test_indices=test, unknown_levels="refuse").X_test[:, 3:5].unique(dim=0).tolist() == [[1, 0]]


def test_unknown_levels_can_be_refused() -> None:
    dm = data_of(houses(), unknown_levels="refuse")
    assert dm.n_inputs == 8
    new = houses(5, seed=3).assign(city=["Ulm", "Jena", "Kiel", "Jena", "Bonn"])
    said = "2 of 5 values in 'city' are levels that the fit did not have: 'Jena' in row 1, 'Jena' in row 3; the levels"
    with pytest.raises(ValueError, match=said):
        dm.new_data(new)


def test_new_rows_are_dropped_as_the_training_rows_were() -> None:
    dm = data_of(with_gaps(houses(), ["age"]), missing="drop")
    new = houses(6, seed=3)
    new.loc[[1, 4], "age"] = np.nan
    with pytest.warns(UserWarning, match="2 of 6 rows have missing values and are left out"):
        data = dm.new_data(new)
    assert data.predict_row_ids[1].tolist() == new["house"].iloc[[0, 2, 3, 5]].tolist()
    torch.testing.assert_close(data.X, dm.transform(new.iloc[[0, 2, 3, 5]]))
    with pytest.raises(ValueError, match="2 of 6 values in 'age' are missing: rows 1, 4"):
        dm.transform(new)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ([10, 2, 2, 7], ["2", "7", "10"]),
        ([10.0, 2.0, np.nan, 7.5], ["2", "7.5", "10"]),
        (pd.Categorical(["m", "s", "l", "m"]), ["l", "m", "s"]),
        ([True, False, True, True], ["False", "True"]),
        (["01", "1", "x", "1.0"], ["01", "1", "x"]),
    ],
)
def test_levels_are_texts_in_order(values: Any, levels: list[str]) -> None:
    frame = pd.DataFrame({"a": pd.concat([pd.Series(values)] * 10, ignore_index=True), "y": np.arange(40.0)})
    dm = TabularDataModule(frame, "y", "regression", categorical_columns=["a"], missing="impute")
    assert [name for name in dm.feature_names if "=" in name][:-1] == [f"a={level}" for level in levels]


def test_texts_of_numbers_are_numbers_and_booleans_too() -> None:
    frame = pd.DataFrame(
        {"a": ["1", "2.5"] * 20, "b": pd.Series([True, None] * 20, dtype=object), "y": np.arange(40.0)}
    )
    dm = TabularDataModule(frame, "y", "regression", missing="impute", standardise_inputs=False)
    assert dm.feature_names == ["a", "b", "b missing"]
    assert dm.X_train.unique(dim=0).tolist() == [[1.0, 1.0, 0.0], [2.5, 1.0, 1.0]]


def test_texts_that_identify_rows_are_no_categories() -> None:
    frame = houses(250)
    with pytest.raises(
        ValueError, match="'house' has 250 different texts, such as 'h0-0': leave the column out by drop"
    ):
        TabularDataModule(frame, "price", "regression")
    assert data_of(frame).n_inputs == TabularDataModule(frame, "price", "regression", drop_columns=["house"]).n_inputs
    every = TabularDataModule(frame, "price", "regression", categorical_columns=["house", "city", "heating"])
    assert every.n_inputs > 150


def test_a_column_without_values_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no values in training rows in \['age'\]: leave them out by drop_columns"):
        data_of(houses().assign(age=np.nan), missing="impute")


def test_class_names_replace_labels() -> None:
    frame = houses().drop(columns="price")
    dm = TabularDataModule(frame, "rooms", "classification", id_column="house", class_names=list("ABCDE"))
    assert (dm.classes, dm.class_names) == ([1, 2, 3, 4, 5], list("ABCDE"))
    assert dm.new_data(frame).class_names == list("ABCDE")
    assert TabularDataModule(frame, "rooms", "classification", id_column="house").class_names == list("12345")
    for names in (["A", "B"], list("AABCD")):
        with pytest.raises(ValueError, match=r"one name for each of the 5 labels \[1, 2, 3, 4, 5\], got \['A'"):
            TabularDataModule(frame, "rooms", "classification", id_column="house", class_names=names)


def test_the_same_table_is_recognized_from_a_file(tmp_path: Path) -> None:
    frame = with_gaps(houses(), ["age", "city"])
    frame.to_csv(tmp_path / "houses.csv", index=False)
    by_frame, by_file = (data_of(table, missing="impute") for table in (frame, tmp_path / "houses.csv"))
    assert by_frame.data_state["tables"] == by_file.data_state["tables"]
    changed = frame.assign(city=frame["city"].replace("Kiel", "Jena"))
    assert data_of(changed, missing="impute").data_state["tables"] != by_frame.data_state["tables"]
