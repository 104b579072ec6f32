"""A method that is fitted on one table predicts and scores other tables as if they had been part of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import table_checkpoint
import torch
import yaml
from command_line import run_command_line
from helpers import quiet_trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from numpy.random import default_rng
from torch.utils.data import DataLoader, TensorDataset

from lightning_vi import Ensemble, Laplace, MeanFieldVI, SplitConformal, TemperatureScaling
from lightning_vi.backbones import MLP
from lightning_vi.callbacks import PredictionWriter
from lightning_vi.cli.trainer import _TableOpener
from lightning_vi.datamodules import (
    ArrayDataModule,
    CalibrationDataModule,
    MNISTDataModule,
    NewTableDataModule,
    TabularDataModule,
)
from lightning_vi.datamodules._state import VERSION
from lightning_vi.datamodules.open_table import open_table
from lightning_vi.errors import InputError, NotFittedError
from lightning_vi.likelihoods import Categorical, Gaussian

Tally = Callable[..., None]
INPUTS = ["width", "height"]


def make_table(rows: int, seed: int, shift: float = 0.0) -> pd.DataFrame:
    """Widths around 40 and heights around 3; areas of some hundred units with noise; three kinds by the width."""
    noise = default_rng(seed)
    width, height = noise.normal(40.0 + shift, 9.0, rows), noise.normal(3.0, 0.5, rows)
    frame = pd.DataFrame({"patient": [f"p{seed}-{row}" for row in range(rows)], "width": width, "height": height})
    frame["area"] = 500 + 5 * width - 20 * height + noise.normal(0, 1.5, rows)
    frame["kind"] = np.array(["small", "middle", "wide"])[np.digitize(width, [36.0, 44.0])]
    return frame


pytestmark = pytest.mark.filterwarnings("ignore:The fit ended in its burn-in")
TRAINING = make_table(150, seed=0)
NEW = make_table(37, seed=1, shift=15.0)
CASES: dict[str, tuple[str, list[str], Any]] = {
    "regression": ("area", ["kind"], lambda: (MLP(2, [12], 1), Gaussian())),
    "classification": ("kind", ["area"], lambda: (MLP(2, [12], 3), Categorical(3))),
}


def make_method(task: str) -> MeanFieldVI:
    return MeanFieldVI(
        *CASES[task][2](),
        num_mc_samples_test=5,
        burnin_epochs=39,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    )


def data_of(table: Any, task: str, **options: Any) -> TabularDataModule:
    return TabularDataModule(table, CASES[task][0], task, INPUTS, id_column="patient", **options)


@pytest.fixture(scope="module", params=CASES)
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A fitted method, the datamodule of its fit, its checkpoint and the name of the task."""
    task = request.param
    torch.manual_seed(0)
    method, data = make_method(task), data_of(TRAINING, task)
    trainer = quiet_trainer(max_epochs=40)
    trainer.fit(method, data)
    path = tmp_path_factory.mktemp("fit") / "fit.ckpt"
    trainer.save_checkpoint(path)
    return {"task": task, "method": method, "data": data, "path": path}


def by_hand(fitted: dict[str, Any], table: pd.DataFrame) -> torch.Tensor:
    """Inputs of any table, scaled in pandas with the training rows of the fit."""
    train = TRAINING.iloc[fitted["data"].row_indices["train"].numpy()][INPUTS]
    return torch.tensor(((table[INPUTS] - train.mean()) / train.std(ddof=0)).to_numpy(), dtype=torch.float32)


def assert_predicted(written: pd.DataFrame, fitted: dict[str, Any], table: pd.DataFrame) -> None:
    """Each row of the table is in the file, in order, with the prediction of the inputs that are scaled by hand."""
    expected = fitted["method"].predict_step(by_hand(fitted, table))
    assert written["patient"].tolist() == table["patient"].tolist()
    if fitted["task"] == "regression":
        assert written["pred"].to_numpy() == pytest.approx(expected["pred"][:, 0].numpy(), rel=1e-5)
    else:
        names = np.array(sorted(TRAINING["kind"].unique()))
        assert written["class"].tolist() == names[expected["pred"].argmax(1).numpy()].tolist()
    assert written["pred_uct"].to_numpy() == pytest.approx(expected["pred_uct"].flatten().numpy(), rel=1e-3, abs=1e-5)


def predicted(method: Any, data: Any, folder: Path, **options: Any) -> pd.DataFrame:
    writer = PredictionWriter(folder)
    quiet_trainer(callbacks=[writer]).predict(method, data, return_predictions=False, **options)
    return pd.read_csv(writer.path)


def loaded(fitted: dict[str, Any]) -> MeanFieldVI:
    backbone, likelihood = CASES[fitted["task"]][2]()
    return MeanFieldVI.load_from_checkpoint(fitted["path"], backbone=backbone, likelihood=likelihood)


def test_new_tables_are_predicted_as_the_training_data_were(
    fitted: dict[str, Any], tmp_path: Path, tally: Tally
) -> None:
    """By the method in memory, one that is loaded, one that a Trainer restores, and wrapped in other predictors."""
    task, method, data = fitted["task"], fitted["method"], fitted["data"]
    unlabeled = NEW.drop(columns=["area", "kind"])[["height", "patient", "width"]]
    renumbered = NEW.set_index(NEW.index + 1000)
    restored = {"ckpt_path": fitted["path"], "weights_only": True}
    calls: dict[str, Callable[[], pd.DataFrame]] = {
        "new_data": lambda: predicted(method, data.new_data(unlabeled), tmp_path),
        "checkpoint": lambda: predicted(loaded(fitted), NewTableDataModule(unlabeled, fitted["path"]), tmp_path),
        "labeled, in memory": lambda: predicted(method, data_of(NEW, task), tmp_path),
        "labeled, loaded": lambda: predicted(loaded(fitted), data_of(renumbered, task), tmp_path),
        "labeled, restored": lambda: predicted(make_method(task), data_of(NEW, task), tmp_path, **restored),
        "another seed": lambda: predicted(method, data_of(NEW, task, split_seed=3), tmp_path),
        "within a CalibrationDataModule": lambda: predicted(
            method, CalibrationDataModule(data_of(NEW, task)), tmp_path
        ),
        "ensemble": lambda: predicted(_ensemble(fitted), data_of(NEW, task), tmp_path),
    }
    for call in calls.values():
        table = call()
        if call is not calls["ensemble"]:
            assert_predicted(table, fitted, NEW)
        assert len(table) == len(NEW)
    tally("new tables", task, tried=len(calls), right=len(calls))


def _ensemble(fitted: dict[str, Any]) -> Ensemble:
    return Ensemble([loaded(fitted), loaded(fitted)])


def test_transform_gives_the_inputs_of_a_table(fitted: dict[str, Any]) -> None:
    torch.testing.assert_close(fitted["data"].transform(NEW), by_hand(fitted, NEW), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("command", ["validate", "test"])
def test_new_tables_are_scored_in_all_rows(fitted: dict[str, Any], command: str) -> None:
    task, method = fitted["task"], fitted["method"]
    (scores,) = getattr(quiet_trainer(), command)(method, data_of(NEW, task), verbose=False)
    mean = method.predict_step(by_hand(fitted, NEW))["pred"]
    if task == "regression":
        rmse = float(np.sqrt(((mean[:, 0].numpy() - NEW["area"].to_numpy()) ** 2).mean()))
        assert next(value for name, value in scores.items() if "rmse" in name) == pytest.approx(rmse, rel=1e-4)
        assert rmse < 20  # 75 with the mean of the new table
    else:
        names = np.array(sorted(TRAINING["kind"].unique()))
        accuracy = (names[mean.argmax(1).numpy()] == NEW["kind"].to_numpy()).mean()
        assert next(value for name, value in scores.items() if "accuracy" in name) == pytest.approx(accuracy)


def test_the_table_of_the_fit_keeps_its_split(fitted: dict[str, Any], tmp_path: Path) -> None:
    TRAINING.to_csv(tmp_path / "training.csv", index=False)
    data = data_of(tmp_path / "training.csv", fitted["task"])
    rows = TRAINING.iloc[fitted["data"].row_indices["test"].numpy()]
    assert_predicted(predicted(fitted["method"], data, tmp_path), fitted, rows)
    with pytest.warns(UserWarning, match="some of the rows that are scored are training rows"):
        quiet_trainer().test(fitted["method"], data_of(TRAINING, fitted["task"], split_seed=5), verbose=False)


def test_a_datamodule_serves_several_methods_in_turn(fitted: dict[str, Any]) -> None:
    data = data_of(NEW, fitted["task"])
    own = data.X_test.clone()
    quiet_trainer().test(fitted["method"], data, verbose=False)
    assert torch.equal(data.X_test, own)
    assert len(data.test_dataloader().dataset) == len(own)  # outside of a Trainer
    other = make_method(fitted["task"])
    quiet_trainer().fit(other, data)
    assert other.data_state is not None
    assert other.data_state["tables"] == data.data_state["tables"]


def test_a_loaded_state_holds_without_a_trainer(fitted: dict[str, Any]) -> None:
    data = data_of(NEW, fitted["task"])
    data.load_state_dict(torch.load(fitted["path"], weights_only=True)["TabularDataModule"])
    batches = list(data.test_dataloader())
    torch.testing.assert_close(torch.cat([x for x, _ in batches]), by_hand(fitted, NEW), rtol=1e-5, atol=1e-5)


def test_calibration_on_another_table(fitted: dict[str, Any], tmp_path: Path) -> None:
    """The calibration rows of the new table are scaled as in training, and later its test rows are scored."""
    task = fitted["task"]
    wrapper = {"regression": SplitConformal, "classification": TemperatureScaling}[task]
    other = make_table(60, seed=2, shift=5.0)
    calibrated = wrapper(make_method(task), method_checkpoint=str(fitted["path"]))
    trainer = quiet_trainer()
    calibration = data_of(other, task, calib_fraction=0.4)
    trainer.fit(calibrated, CalibrationDataModule(calibration))
    by_loader = wrapper(fitted["method"])
    rows = calibration.row_indices["calib"].numpy()
    by_loader.calibrate([(by_hand(fitted, other.iloc[rows]), calibration.Y_calib)])
    x = by_hand(fitted, NEW)
    for key, value in by_loader.predict_step(x).items():
        torch.testing.assert_close(calibrated.predict_step(x)[key], value, rtol=1e-3, atol=1e-3)
    trainer.save_checkpoint(tmp_path / "calibrated.ckpt")
    again = wrapper(make_method(task))
    restored = {"ckpt_path": tmp_path / "calibrated.ckpt", "weights_only": True}
    written = predicted(again, data_of(other, task, calib_fraction=0.4), tmp_path, **restored)
    assert written["patient"].tolist() == other["patient"].iloc[calibration.row_indices["test"].numpy()].tolist()
    assert len(predicted(again, data_of(NEW, task), tmp_path, **restored)) == len(NEW)


BAD_TABLES: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "missing column": (lambda t: t.drop(columns="width"), r"no columns \['width'\]; the table has \['patient', 'hei"),
    "renamed column": (lambda t: t.rename(columns={"width": "Width"}), r"no columns \['width'\].*'Width'"),
    "text": (lambda t: t.assign(width="wide"), r"37 of 37 values in 'width' are no numbers: 'wide' in row 0, "),
    "missing values": (
        lambda t: t.assign(width=t["width"].where(t.index > 3)),
        "4 of 37 values in 'width' are missing: rows 0, 1, 2 and 1 more. Fill them as in the training data",
    ),
    "infinite values": (lambda t: t.assign(height=np.inf), "37 of 37 values in 'height' are infinite"),
    "no rows": (lambda t: t.iloc[:0], "data must have at least one row"),
    "no identifiers": (lambda t: t.drop(columns="patient"), r"id_column: no columns \['patient'\]"),
    "repeated column": (lambda t: t.set_axis(["patient", "width", "width", "area", "kind"], axis=1), "unique column"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_tables_that_do_not_fit_are_refused(fitted: dict[str, Any], case: str, tally: Tally) -> None:
    spoil, message = BAD_TABLES[case]
    with pytest.raises(InputError, match=message):
        fitted["data"].new_data(spoil(NEW))
    tally("bad tables", fitted["task"], tried=1, right=1)


def test_other_forms_of_the_same_table_give_the_same_inputs(fitted: dict[str, Any], tmp_path: Path) -> None:
    rounded = NEW.assign(width=NEW["width"].round())
    expected = fitted["data"].new_data(rounded).X
    forms = {
        "integers": rounded.astype({"width": "int32"}),
        "nullable": rounded.astype({"width": "Int64", "height": "Float64"}),
        "other order": rounded[rounded.columns[::-1]],
        "other columns": rounded.assign(extra="text", another=np.nan),
        "numbered otherwise": rounded.set_index("kind", drop=False),
    }
    rounded.to_csv(tmp_path / "table.csv", index=False)
    for name, table in {**forms, "file": tmp_path / "table.csv"}.items():
        assert torch.equal(fitted["data"].new_data(table).X, expected), name


def test_labels_of_the_fit_are_the_classes() -> None:
    data = data_of(TRAINING, "classification")
    assert torch.equal(data.new_data(NEW[NEW["kind"] == "wide"]).Y, torch.full(((NEW["kind"] == "wide").sum(),), 2))
    with pytest.raises(ValueError, match=r"in 'kind' are no classes of the fit: 'huge' in row 0, .*; the classes are"):
        data.new_data(NEW.assign(kind="huge"))
    partly = data.new_data(NEW.assign(kind=NEW["kind"].where(NEW.index > 0)))
    assert partly.Y is None
    assert len(partly.X) == len(NEW)
    with pytest.raises(ValueError, match="can be predicted, but not scored"):
        partly.test_dataloader()


def test_names_of_classes_are_written(tmp_path: Path) -> None:
    names = ["medium", "little", "large"]
    data = data_of(TRAINING, "classification", class_names=names)
    method = make_method("classification")
    quiet_trainer(max_epochs=1).fit(method, data)
    table = predicted(method, data.new_data(NEW), tmp_path)
    assert table["target"].tolist() == NEW["kind"].map(dict(zip(data.classes or [], names, strict=True))).tolist()
    assert set(table["class"]) <= set(names)


def test_a_posterior_is_not_fitted_to_a_new_table(tmp_path: Path) -> None:
    """The checkpoint of an epoch before the last needs the training data, which a new table does not have."""
    method, data = Laplace(MLP(2, [4], 1), Gaussian()), data_of(TRAINING, "regression")
    best = ModelCheckpoint(tmp_path, save_top_k=-1)
    quiet_trainer(max_epochs=2, callbacks=[best], enable_checkpointing=True).fit(method, data)
    first = str(next(tmp_path.glob("epoch=0*.ckpt")))
    other = Laplace(MLP(2, [4], 1), Gaussian())
    for new in (data_of(NEW, "regression"), data.new_data(NEW)):
        with pytest.raises(NotFittedError, match="before it is fitted"):
            quiet_trainer().test(other, new, ckpt_path=first, weights_only=True, verbose=False)
    quiet_trainer().test(other, data_of(TRAINING, "regression"), ckpt_path=first, weights_only=True, verbose=False)


def test_a_resumed_fit_with_a_changed_table_is_refused(fitted: dict[str, Any]) -> None:
    task, path = fitted["task"], fitted["path"]
    changed = {
        "values": data_of(pd.concat([TRAINING, NEW], ignore_index=True), task),
        "split": data_of(TRAINING, task, split_seed=8),
        "columns": TabularDataModule(TRAINING, CASES[task][0], task, INPUTS[::-1]),
    }
    for data in changed.values():
        with pytest.raises(ValueError, match=r"its data have changed: (another|input_names)"):
            quiet_trainer(max_epochs=41).fit(make_method(task), data, ckpt_path=path, weights_only=True)
    quiet_trainer(max_epochs=41).fit(make_method(task), data_of(TRAINING, task), ckpt_path=path, weights_only=True)


def test_a_resumed_fit_with_other_arrays_warns(tmp_path: Path) -> None:
    x, y = torch.randn(40, 2), torch.randn(40, 1)
    trainer, method = quiet_trainer(), make_method("regression")
    trainer.fit(method, ArrayDataModule((x, y), (x[:4], y[:4])))
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    resume = {"ckpt_path": tmp_path / "fit.ckpt", "weights_only": True}
    with pytest.warns(UserWarning, match="resumed with other training rows of ArrayDataModule"):
        quiet_trainer(max_epochs=2).fit(method, ArrayDataModule((x + 1, y), (x[:4], y[:4])), **resume)


def test_images_of_another_folder_are_scaled_as_in_training(tmp_path: Path) -> None:
    pixels = default_rng(0).integers(0, 200, (40, 4, 4), dtype=np.uint8)
    for name, brightness in (("dark", 1), ("bright", 3)):
        write_mnist(tmp_path / name, (pixels // 3) * brightness, np.arange(40, dtype=np.uint8) % 3)
    dark, bright = (MNISTDataModule(tmp_path / name) for name in ("dark", "bright"))
    bright.load_state_dict(dark.state_dict())
    (x, _), *_ = bright.test_dataloader()
    dark_pixels = torch.tensor(pixels // 3).float()
    expected = (3 * dark_pixels - dark_pixels.mean()) / dark_pixels.std()
    torch.testing.assert_close(x[:, 0], expected, rtol=1e-4, atol=1e-4)


def write_mnist(folder: Path, images: Any, labels: Any) -> None:
    folder.mkdir()
    for part in ("train", "t10k"):
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">u4").tobytes()
            (folder / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())


def test_a_checkpoint_that_does_not_know_its_data_is_reported() -> None:
    arguments = {"target_columns": "area", "task": "regression", "applied_instantiation_links": {}}
    with pytest.warns(UserWarning, match="does not say how its training data were treated"):
        data = _TableOpener(None)(TabularDataModule, data=NEW.drop(columns=["kind", "patient"]), **arguments)
    assert isinstance(data, TabularDataModule)
    with pytest.raises(ValueError, match="has version 99, and this version of lightning_vi reads versions up to 2"):
        NewTableDataModule(NEW, data.state_dict() | {"version": 99})


@pytest.mark.parametrize("version", range(1, VERSION + 1))
def test_stored_states_of_each_version_treat_new_tables_as_recorded(version: int) -> None:
    """Run ``python tests/table_checkpoint.py`` once for a new version."""
    path = table_checkpoint.STORED / f"table_{version}.pt"
    state = torch.load(path, weights_only=True)["data_state"]
    assert state["version"] == version
    recorded = json.loads(path.with_suffix(".json").read_text())
    found = table_checkpoint.predictions(path)
    assert found.keys() == recorded.keys()
    for name, values in recorded.items():
        assert found[name] == pytest.approx(values, rel=1e-4), name
    columns = ["width", "height"] if version == 1 else None
    arguments: dict[str, Any] = {"input_columns": columns, "missing": "refuse" if version == 1 else "impute"}
    seen = open_table(state, table_checkpoint.make_table(40, 0), target_columns="area", task="regression", **arguments)
    assert isinstance(seen, TabularDataModule)


def test_a_checkpoint_without_a_table_is_refused(tmp_path: Path) -> None:
    method, trainer = make_method("regression"), quiet_trainer()
    x, y = torch.randn(8, 2), torch.randn(8, 1)
    trainer.fit(method, DataLoader(TensorDataset(x, y), 4))
    trainer.save_checkpoint(tmp_path / "fit.ckpt")
    (tmp_path / "other.ckpt").write_bytes(b"no checkpoint")
    for name, message in (
        ("fit.ckpt", "it is not from a fit on a TabularDataModule"),
        ("other.ckpt", "is not a checkpoint that torch.load"),
        ("missing.ckpt", "file not found"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            NewTableDataModule(NEW, tmp_path / name)
    with pytest.raises(ValueError, match=r"no columns \['area'\].* use NewTableDataModule\(data, checkpoint\)"):
        TabularDataModule(NEW.drop(columns="area"), "area", "regression")


CONFIG: dict[str, Any] = {
    "seed_everything": 0,
    "model": {
        "class_path": "lightning_vi.MeanFieldVI",
        "init_args": {
            "backbone": {"class_path": "MLP", "init_args": {"n_inputs": 2, "n_hidden": [12], "n_outputs": 1}},
            "likelihood": "Gaussian",
            "num_mc_samples_test": 5,
            "burnin_epochs": 39,
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}},
        },
    },
    "data": {
        "class_path": "TabularDataModule",
        "init_args": {"target_columns": "area", "task": "regression", "input_columns": INPUTS, "id_column": "patient"},
    },
    "trainer": {
        "max_epochs": 40,
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
    },
}


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tally: Tally
) -> None:
    """A fit to one CSV file, and predictions for another one, compared with pandas and the method."""
    folder, config = tmp_path, tmp_path / "experiment.yaml"
    TRAINING.to_csv(folder / "training.csv", index=False)
    NEW.to_csv(folder / "labeled.csv", index=False)
    NEW.drop(columns=["area", "kind"]).to_csv(folder / "new.csv", index=False)
    settings = CONFIG | {"prediction_writer": {"output_dir": str(folder)}}
    settings["trainer"] = settings["trainer"] | {"default_root_dir": str(folder)}
    settings["data"]["init_args"]["data"] = str(folder / "training.csv")
    config.write_text(yaml.safe_dump(settings))
    monkeypatch.chdir(folder)
    cli = run_command_line(monkeypatch, "fit", "--config", str(config))
    assert cli is not None
    checkpoint = cli.trainer.checkpoint_callback.best_model_path

    def run(command: str, name: str, *options: str) -> Any:
        table = f"--data.init_args.data={folder / name}"
        return run_command_line(
            monkeypatch, command, "--config", str(config), "--ckpt_path", checkpoint, table, *options
        )

    fit = {"task": "regression", "method": cli.model, "data": cli.datamodule}
    for name in ("new.csv", "labeled.csv"):
        run("predict", name)
        assert_predicted(pd.read_csv(folder / "predictions.csv"), fit, NEW)
    scored = run("test", "labeled.csv").trainer.callback_metrics["test_rmse"]
    mean = cli.model.predict_step(by_hand(fit, NEW))["pred"][:, 0].numpy()
    assert float(scored) == pytest.approx(np.sqrt(((mean - NEW["area"]) ** 2).mean()), rel=1e-4)
    run("predict", "training.csv")
    rows = TRAINING.iloc[cli.datamodule.row_indices["test"].numpy()]
    assert_predicted(pd.read_csv(folder / "predictions.csv"), fit, rows)

    capsys.readouterr()
    for case in ("missing column", "text", "missing values"):
        BAD_TABLES[case][0](NEW).to_csv(folder / "bad.csv", index=False)
        with pytest.raises(SystemExit) as stop:
            run("predict", "bad.csv")
        assert stop.value.code == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("lightning-vi predict: error: ")
        tally("bad files on the command line", "predict", tried=1, right=1)
    with pytest.raises(SystemExit) as stop:
        run("test", "new.csv")
    assert stop.value.code == 2
    assert "can be predicted, but not scored" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        run("predict", "new.csv", "--data.init_args.target_columns=width")
    assert "target_columns must be that of the fit, ['area'], got ['width']" in capsys.readouterr().err
