"""TabularDataModule: reading, splits, standardization and encoding."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lightning import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from lightning.pytorch.demos.boring_classes import BoringModel

from lightning_vi.datamodules import TabularDataModule

SPLITS = ("train", "val", "test", "calib")


def table(n_rows: int = 50) -> pd.DataFrame:
    noise = np.random.default_rng(3)
    return pd.DataFrame(
        {
            "a": noise.normal(3.0, 2.0, n_rows),
            "b": noise.integers(0, 100, n_rows),
            "y": noise.normal(700.0, 30.0, n_rows),
            "z": noise.normal(-1.0, 0.01, n_rows),
            "kind": noise.choice(["pear", "apple", "fig"], n_rows),
        }
    )


def regression(data: Any = None, **options: Any) -> TabularDataModule:
    columns = {"target_columns": ["y", "z"], "input_columns": ["a", "b"], **options}
    return TabularDataModule(table() if data is None else data, task="regression", **columns)


def in_table_order(dm: TabularDataModule, letter: str) -> torch.Tensor:
    rows = torch.cat([dm.row_indices[name] for name in SPLITS])
    values = torch.cat([getattr(dm, f"{letter}_{name}") for name in SPLITS])
    return values[rows.argsort()]


def test_targets_are_in_original_units() -> None:
    dm = regression()
    expected = torch.tensor(table()[["y", "z"]].to_numpy(), dtype=torch.float32)
    assert torch.equal(in_table_order(dm, "Y"), expected)
    assert (dm.n_inputs, dm.n_targets, dm.num_classes, dm.classes) == (2, 2, None, None)
    assert (dm.input_names, dm.target_names) == (["a", "b"], ["y", "z"])


def test_inputs_are_standardized_with_training_rows_only() -> None:
    dm = regression()
    raw = table()[["a", "b"]].to_numpy(dtype=float)
    train = raw[dm.row_indices["train"]]
    expected = (raw - train.mean(axis=0)) / train.std(axis=0)
    np.testing.assert_allclose(in_table_order(dm, "X").numpy(), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(dm.input_mean, train.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(dm.input_std, train.std(axis=0), rtol=1e-6)


def test_target_statistics_come_from_training_rows_only() -> None:
    dm = regression()
    train = table()[["y", "z"]].to_numpy()[dm.row_indices["train"]]
    np.testing.assert_allclose(dm.target_mean, train.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(dm.target_std, train.std(axis=0), rtol=1e-5)


def test_training_rows_do_not_depend_on_other_rows() -> None:
    dm = regression()
    changed = table()
    others = np.setdiff1d(np.arange(50), dm.row_indices["train"])
    changed.loc[others, ["a", "y"]] = 1e6
    again = regression(changed)
    for name in ("X_train", "Y_train", "input_mean", "input_std", "target_mean", "target_std"):
        assert torch.equal(getattr(dm, name), getattr(again, name))
    assert not torch.equal(dm.X_test, again.X_test)


def test_standardization_can_be_disabled() -> None:
    dm = regression(standardise_inputs=False, standardise_targets=False)
    expected = torch.tensor(table()[["a", "b"]].to_numpy(), dtype=torch.float32)
    assert torch.equal(in_table_order(dm, "X"), expected)
    assert dm.input_mean is dm.input_std is dm.target_mean is dm.target_std is None


@pytest.mark.parametrize("value", [0.1, 0.0])
def test_a_constant_column_has_standard_deviation_one(value: float) -> None:
    data = table().assign(a=value, y=value)
    dm = regression(data)
    assert dm.input_std[0] == dm.target_std[0] == 1.0
    assert torch.allclose(dm.X_train[:, 0], torch.zeros(len(dm.X_train)), atol=1e-6)


def test_columns_with_tiny_standard_deviation_are_constant() -> None:
    dm = regression(table().assign(a=np.linspace(0.0, 1e-60, 50)))
    assert dm.input_std[0] == 1.0
    assert dm.X_train.isfinite().all()


def test_fractions_refer_to_all_rows() -> None:
    dm = regression(table(200), val_fraction=0.15, test_fraction=0.25, calib_fraction=0.05)
    assert {name: len(dm.row_indices[name]) for name in SPLITS} == {
        "train": 110,
        "val": 30,
        "test": 50,
        "calib": 10,
    }
    assert sorted(torch.cat(list(dm.row_indices.values())).tolist()) == list(range(200))


def test_a_split_of_fraction_zero_is_omitted() -> None:
    dm = regression(val_fraction=0.0, calib_fraction=0)
    assert dm.X_val is dm.Y_val is dm.X_calib is dm.Y_calib is None
    assert set(dm.row_indices) == {"train", "test"}
    assert len(dm.X_train) + len(dm.X_test) == 50


def test_predefined_rows_are_kept_in_order() -> None:
    train, test = [4, 2, 0, 1, 8, 9, 7, 11, 12, 13], [3, 20, 5]
    dm = regression(
        train_indices=train, test_indices=test, val_fraction=0.0, calib_fraction=0.0, standardise_inputs=False
    )
    raw = torch.tensor(table()[["a", "b"]].to_numpy(), dtype=torch.float32)
    assert torch.equal(dm.X_train, raw[train])
    assert torch.equal(dm.X_test, raw[test])


def test_validation_rows_are_taken_from_the_predefined_training_rows() -> None:
    test = np.arange(10, 20)
    dm = regression(test_indices=test, val_fraction=0.25, calib_fraction=0.1)
    assert dm.row_indices["test"].tolist() == test.tolist()
    assert [len(dm.row_indices[name]) for name in ("train", "val", "calib")] == [26, 10, 4]
    assert sorted(torch.cat(list(dm.row_indices.values())).tolist()) == list(range(50))

    some = regression(train_indices=range(40, 50), test_indices=test, val_fraction=0.2, calib_fraction=0.0)
    assert set(torch.cat([some.row_indices["train"], some.row_indices["val"]]).tolist()) == set(range(40, 50))


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (["pear", "apple", "fig"], ["apple", "fig", "pear"]),
        ([30, -10, 20], [-10, 20, 30]),
        ([2.0, 1.0, 4.0], [1.0, 2.0, 4.0]),
        ([True, False, True], [False, True]),
        (pd.Categorical(["m", "s", "l"]), ["l", "m", "s"]),
        (pd.array([3, 1, 2], dtype="Int64"), [1, 2, 3]),
    ],
)
def test_labels_are_encoded_in_sorted_order(labels: Any, classes: list[Any]) -> None:
    column = pd.concat([pd.Series(labels)] * 10, ignore_index=True)
    dm = TabularDataModule(pd.DataFrame({"a": np.arange(30.0), "label": column}), "label", "classification")
    assert dm.classes == classes
    assert dm.num_classes == len(classes)
    assert dm.n_targets == 1
    assert dm.target_mean is dm.target_std is None
    decoded = [dm.classes[number] for number in in_table_order(dm, "Y").tolist()]
    assert decoded == column.tolist()


def test_task_is_not_inferred_from_the_data() -> None:
    data = pd.DataFrame({"a": np.arange(30.0), "count": [0, 1, 2] * 10})
    counted = TabularDataModule(data, "count", "regression")
    assert counted.Y_train.dtype == torch.float32
    assert counted.Y_train.shape == (18, 1)
    assert counted.num_classes is None
    assert TabularDataModule(data, "count", "classification").Y_train.dtype == torch.int64


def test_all_other_columns_are_inputs_by_default() -> None:
    dm = TabularDataModule(table().drop(columns="kind"), "y", "regression")
    assert dm.input_names == ["a", "b", "z"]
    assert TabularDataModule(table(), "y", "regression", "b").input_names == ["b"]


def test_boolean_and_nullable_columns_are_numeric() -> None:
    data = table().assign(a=[True, False] * 25, b=pd.array([1, 2] * 25, dtype="Int64"))
    dm = regression(data, standardise_inputs=False)
    assert in_table_order(dm, "X")[:2].tolist() == [[1.0, 1.0], [0.0, 2.0]]


def test_table_is_neither_modified_nor_shared() -> None:
    data = table()
    dm = regression(data, standardise_inputs=False)
    before = dm.X_train.clone()
    pd.testing.assert_frame_equal(data, table())
    data.loc[:, "a"] = 0.0
    assert torch.equal(dm.X_train, before)


def test_files_give_the_same_data_as_the_frame(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    expected = regression()
    table().to_csv(tmp_path / "t.CSV", index=False)
    table().to_parquet(tmp_path / "t.parquet")
    for data in (tmp_path / "t.CSV", str(tmp_path / "t.CSV"), tmp_path / "t.parquet"):
        dm = regression(data)
        assert torch.equal(dm.X_test, expected.X_test)
        assert torch.equal(dm.Y_train, expected.Y_train)


def test_split_is_the_same_in_every_process() -> None:
    """Fixed rows, because splits depend neither on randomized hashes nor on a global random state."""
    rows = [13, 39, 30, 45, 17, 48, 26, 25, 32, 19]
    dm = TabularDataModule(table(), "kind", "classification")
    assert dm.row_indices["test"].tolist() == rows
    assert dm.Y_test.tolist() == [["apple", "fig", "pear"].index(table()["kind"][row]) for row in rows]


def test_can_be_configured_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["lightning-vi"])
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    table().to_csv(tmp_path / "t.csv", index=False)
    config = {
        "data": {
            "class_path": "lightning_vi.datamodules.TabularDataModule",
            "init_args": {
                "data": str(tmp_path / "t.csv"),
                "target_columns": ["y", "z"],
                "task": "regression",
                "input_columns": ["a", "b"],
                "test_indices": [1, 2, 3],
                "batch_size": 8,
                "shuffle_seed": 5,
            },
        }
    }
    cli = LightningCLI(
        BoringModel,
        LightningDataModule,
        subclass_mode_data=True,
        run=False,
        args=config,
        save_config_callback=None,
        seed_everything_default=False,
        trainer_defaults={"logger": False, "enable_checkpointing": False, "accelerator": "cpu"},
    )
    dm = cli.datamodule
    assert isinstance(dm, TabularDataModule)
    assert (dm.batch_size, dm.shuffle_seed, dm.num_workers) == (8, 5, 0)
    assert dm.row_indices["test"].tolist() == [1, 2, 3]
    assert torch.equal(dm.X_train, regression(test_indices=[1, 2, 3]).X_train)
