"""Contents of the file of a PredictionWriter."""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers import loader, quiet_trainer
from torch.utils.data import DataLoader, IterableDataset

from lightning_vi import Deterministic, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.callbacks import PredictionWriter, _spool
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import UQMethod

PARTS = ["pred", "pred_uct", "epistemic_uct", "aleatoric_uct"]
X = torch.randn(11, 3)


def regressor(num_targets: int = 1) -> UQMethod:
    return MeanFieldVI(
        MLP(3, [8], 2 * num_targets), HeteroscedasticGaussian(num_targets), num_mc_samples_test=4, init_std=0.3
    )


def classifier(num_classes: int = 3) -> UQMethod:
    return MeanFieldVI(MLP(3, [8], num_classes), Categorical(num_classes), num_mc_samples_test=4, init_std=0.3)


def written(method: UQMethod, data: Any, folder: Path, writer_options: Any = None, **options: Any) -> pd.DataFrame:
    writer = PredictionWriter(folder, **(writer_options or {}))
    quiet_trainer(callbacks=[writer], **options).predict(method, data, return_predictions=False)
    return pd.read_csv(writer.path)


def assert_columns(table: pd.DataFrame, names: list[str], expected: torch.Tensor) -> None:
    values = torch.tensor(table[names].to_numpy(), dtype=expected.dtype)
    torch.testing.assert_close(values, expected.reshape(len(expected), -1), rtol=1e-5, atol=1e-6)


def test_one_target_has_one_column_per_quantity(tmp_path: Path) -> None:
    y, method = torch.randn(11, 1), regressor()
    table = written(method, loader(X, y, batch_size=4), tmp_path)
    assert list(table) == ["index", *PARTS, "target"]
    assert list(table["index"]) == list(range(11))
    for key, value in method.predict_step(X).items():
        assert_columns(table, [key], value)
    assert_columns(table, ["target"], y)


def test_several_targets_are_numbered(tmp_path: Path) -> None:
    y, method = torch.randn(11, 2), regressor(2)
    table = written(method, loader(X, y, batch_size=4), tmp_path)
    assert list(table) == ["index", *(f"{name}_{d}" for name in [*PARTS, "target"] for d in range(2))]
    for key, value in method.predict_step(X).items():
        assert_columns(table, [f"{key}_0", f"{key}_1"], value)
    assert_columns(table, ["target_0", "target_1"], y)


def test_classification_has_the_class_and_its_probabilities(tmp_path: Path) -> None:
    y, method = torch.randint(3, (11,)), classifier()
    table = written(method, loader(X, y, batch_size=4), tmp_path)
    probabilities = [f"pred_{c}" for c in range(3)]
    variances = [f"probs_var_{c}" for c in range(3)]
    assert list(table) == ["index", "class", *probabilities, *PARTS[1:], *variances, "target"]
    prediction = method.predict_step(X)
    assert_columns(table, probabilities, prediction["pred"])
    assert_columns(table, variances, prediction["probs_var"])
    assert_columns(table, ["epistemic_uct"], prediction["epistemic_uct"])
    assert table["class"].tolist() == prediction["pred"].argmax(1).tolist()
    assert table["target"].tolist() == y.tolist()


def test_targets_of_several_dimensions_are_flattened(tmp_path: Path) -> None:
    class SeveralPositions(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).unsqueeze(1) * torch.arange(1.0, 6.0).reshape(1, 5, 1)

    method = Deterministic(SeveralPositions(), Gaussian(noise_std=0.5))
    table = written(method, loader(X, torch.randn(11, 5, 1)), tmp_path)
    assert_columns(table, [f"pred_{element}" for element in range(5)], method.predict_step(X)["pred"])


def test_targets_can_be_omitted(tmp_path: Path) -> None:
    table = written(regressor(), loader(X, torch.zeros(11, 1)), tmp_path, {"include_targets": False})
    assert list(table) == ["index", *PARTS]


def test_batches_without_targets_have_no_target_column(tmp_path: Path) -> None:
    assert list(written(regressor(), DataLoader(X, batch_size=4), tmp_path)) == ["index", *PARTS]


def test_rows_are_in_the_order_of_the_dataset(tmp_path: Path) -> None:
    method, y = regressor(), torch.arange(11.0).unsqueeze(1)
    order = [7, 3, 0, 10, 1, 2, 9, 8, 4, 6, 5]
    table = written(method, loader(X, y, batch_size=4, sampler=order), tmp_path)
    assert table["target"].tolist() == y[:, 0].tolist()
    assert_columns(table, ["pred"], method.predict_step(X)["pred"])


@pytest.mark.parametrize("rows_in_memory", [1, 5])
def test_rows_beyond_a_limit_are_in_a_temporary_folder(
    rows_in_memory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In order and in any order, of one and of several dataloaders; the file is the same, and the folder is removed."""
    method, y = regressor(), torch.arange(11.0).unsqueeze(1)
    order = [7, 3, 0, 10, 1, 2, 9, 8, 4, 6, 5]
    cases = {
        "in order": lambda: loader(X, y, batch_size=2),
        "any order": lambda: loader(X, y, batch_size=2, sampler=order),
        "several": lambda: [DataLoader(X, batch_size=4), loader(X[:5], y[:5], batch_size=2, sampler=[3, 0, 2, 1, 4])],
        "unlabeled": lambda: DataLoader(X, batch_size=3),
    }
    expected = {name: written(method, case(), tmp_path) for name, case in cases.items()}
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(_spool, "ROWS_IN_MEMORY", rows_in_memory)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for name, case in cases.items():
        pd.testing.assert_frame_equal(written(method, case(), tmp_path), expected[name])
        assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices")
def test_iterable_datasets_have_no_index(tmp_path: Path) -> None:
    class Stream(IterableDataset[torch.Tensor]):
        def __iter__(self) -> Any:
            return iter(X.flip(0))

    method = regressor()
    table = written(method, DataLoader(Stream(), batch_size=4), tmp_path)
    assert list(table) == PARTS
    assert_columns(table, ["pred"], method.predict_step(X.flip(0))["pred"])


def test_several_dataloaders_are_numbered(tmp_path: Path) -> None:
    table = written(regressor(), [DataLoader(X, batch_size=4), DataLoader(X[:3], batch_size=4)], tmp_path)
    assert table["dataloader"].tolist() == [0] * 11 + [1] * 3
    assert table["index"].tolist() == [*range(11), *range(3)]


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    writer = PredictionWriter(tmp_path / "new" / "folder", "name.csv")
    assert writer.path == tmp_path / "new" / "folder" / "name.csv"
    trainer = quiet_trainer(callbacks=[writer])
    trainer.predict(regressor(), DataLoader(X, batch_size=4))
    trainer.predict(regressor(), DataLoader(X[:2], batch_size=4))
    assert len(pd.read_csv(writer.path)) == 2


def test_rows_of_an_interrupted_run_are_discarded(tmp_path: Path) -> None:
    writer, method = PredictionWriter(tmp_path), regressor()
    with pytest.raises(ValueError, match="takes 3 and not 5 features"):
        quiet_trainer(callbacks=[writer]).predict(
            method, [DataLoader(X, batch_size=4), DataLoader(torch.zeros(4, 5), batch_size=4)]
        )
    assert not writer.path.exists()
    quiet_trainer(callbacks=[writer]).predict(method, DataLoader(X, batch_size=4))
    assert len(pd.read_csv(writer.path)) == 11


def test_bfloat16_is_written_as_numbers(tmp_path: Path) -> None:
    table = written(regressor(), loader(X, torch.zeros(11, 1)), tmp_path, precision="bf16-true")
    assert table[PARTS].notna().all(axis=None)


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_two_ranks_write_one_file_with_every_row_once(tmp_path: Path) -> None:
    method, y = regressor(), torch.arange(11.0).unsqueeze(1)
    table = written(method, loader(X, y, batch_size=4), tmp_path, strategy="ddp_spawn", devices=2)
    assert table["index"].tolist() == list(range(11))
    assert table["target"].tolist() == y[:, 0].tolist()
    assert_columns(table, ["pred"], method.predict_step(X)["pred"])


@pytest.mark.parametrize("filename", ["", "folder/name.csv"])
def test_filename_must_not_contain_a_folder(filename: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="filename must be a file name without a folder"):
        PredictionWriter(tmp_path, filename)


@pytest.mark.parametrize("case", ["regression", "classes"])
def test_a_data_frame_of_a_prediction_has_the_columns_of_the_file(case: str, tmp_path: Path) -> None:
    method, y = (regressor(2), torch.randn(11, 2)) if case == "regression" else (classifier(), torch.arange(11) % 3)
    table = written(method, loader(X, y, batch_size=11), tmp_path)
    frame = method.predict(X, return_samples=True).to_frame(y)
    pd.testing.assert_frame_equal(frame, table.drop(columns="index"), check_dtype=False, rtol=1e-5)


def test_a_data_frame_has_the_names_of_the_classes() -> None:
    prediction, y = classifier().predict(X), torch.arange(11) % 3
    names = ["ape", "bee", "cat"]
    frame = prediction.to_frame(y, classes=names)
    assert list(frame["class"]) == [names[label] for label in prediction.mean.argmax(1)]
    assert list(frame["target"]) == [names[label] for label in y]
    with pytest.raises(ValueError, match="classes must have 3 labels, got 2"):
        prediction.to_frame(classes=["ape", "bee"])
    with pytest.raises(ValueError, match=r"target must have 11 rows, got shape \[3\]"):
        prediction.to_frame(y[:3])
