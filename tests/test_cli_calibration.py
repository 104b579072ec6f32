"""Calibration from the command line: a fit, then a calibration from its checkpoint, then scores and predictions."""

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from command_line import run_command_line

from lightning_vi import TemperatureScaling
from lightning_vi.cli.trainer import TrainerCLI

CONFIGS = Path(__file__).parents[1] / "configs"
QUANTILES = {
    "class_path": "lightning_vi.QuantileRegression",
    "init_args": {
        "backbone": {"class_path": "MLP", "init_args": {"n_inputs": 1, "n_hidden": [8], "n_outputs": 3}},
        "likelihood": "Quantiles",
    },
}
CLASSIFIER = {
    "class_path": "lightning_vi.MeanFieldVI",
    "init_args": {
        "backbone": {"class_path": "MLP", "init_args": {"n_inputs": 2, "n_hidden": [8], "n_outputs": 2}},
        "likelihood": {"class_path": "Categorical", "init_args": {"num_classes": 2}},
        "num_mc_samples_test": 5,
    },
}
WAVES = {"class_path": "ToyHeteroscedasticDataModule", "init_args": {"n_points": 300}}
MOONS = {"class_path": "TwoMoonsDataModule", "init_args": {"n_points": 300}}


class CommandLine:
    """Runs commands in a temporary folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch

    def config(self, model: dict[str, Any], data: dict[str, Any]) -> str:
        name = model["class_path"].rpartition(".")[2]
        config = {
            "seed_everything": 3,
            "model": model,
            "data": data,
            "trainer": {
                "max_epochs": 2,
                "accelerator": "cpu",
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "log_every_n_steps": 1,
                "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(self.folder), "name": name}},
            },
            "prediction_writer": {"output_dir": str(self.folder)},
        }
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    def __call__(self, *args: str) -> TrainerCLI:
        cli = run_command_line(self.monkeypatch, *args)
        assert cli is not None
        return cli


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(tmp_path, monkeypatch)


def checkpoint_of(cli: TrainerCLI) -> str:
    return str(cli.trainer.checkpoint_callback.best_model_path)


def wrapped(name: str, model: dict[str, Any], data: dict[str, Any], **options: Any) -> tuple[dict[str, Any], Any]:
    wrapper = {"class_path": f"lightning_vi.{name}", "init_args": {"method": model, **options}}
    return wrapper, {"class_path": "CalibrationDataModule", "init_args": {"data": data}}


@pytest.mark.parametrize(
    ("name", "model", "data", "added"),
    [
        ("ConformalQuantileRegression", QUANTILES, WAVES, ["lower", "upper"]),
        ("AdaptivePredictionSets", CLASSIFIER, MOONS, ["pred_set_0", "pred_set_1"]),
    ],
)
def test_fit_calibrate_test_and_predict(
    name: str, model: dict[str, Any], data: dict[str, Any], added: list[str], run: CommandLine
) -> None:
    fitted = run("fit", "--config", run.config(model, data))
    config = run.config(*wrapped(name, model, data, coverage=0.8))
    calibrated = run("fit", "--config", config, f"--model.init_args.method_checkpoint={checkpoint_of(fitted)}")
    by_hand = type(calibrated.model)(fitted.model, coverage=0.8)
    by_hand.calibrate(fitted.datamodule.calibration_dataloader())
    torch.testing.assert_close(calibrated.model.quantile, by_hand.quantile)
    Path(checkpoint_of(fitted)).unlink()

    tested = run("test", "--config", config, "--ckpt_path", checkpoint_of(calibrated))
    assert 0.6 < float(tested.trainer.callback_metrics["test_conformal_coverage"]) <= 1
    run("predict", "--config", config, "--ckpt_path", checkpoint_of(calibrated))
    written, prediction = pd.read_csv(run.folder / "predictions.csv"), by_hand.predict_step(fitted.datamodule.X_test)
    values = torch.cat([prediction[key] for key in ("lower", "upper", "pred_set") if key in prediction], 1)
    torch.testing.assert_close(torch.tensor(written[added].to_numpy()).to(values.dtype), values, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_from_the_command_line_loads_from_its_path_alone(run: CommandLine) -> None:
    fitted = run("fit", "--config", run.config(CLASSIFIER, MOONS))
    config = run.config(*wrapped("TemperatureScaling", CLASSIFIER, MOONS))
    calibrated = run("fit", "--config", config, f"--model.init_args.method_checkpoint={checkpoint_of(fitted)}")
    Path(checkpoint_of(fitted)).unlink()
    loaded = TemperatureScaling.load_from_checkpoint(checkpoint_of(calibrated), weights_only=True)
    x = fitted.datamodule.X_test
    assert torch.equal(loaded.predict(x).mean, calibrated.model.predict(x).mean)
    assert not torch.equal(loaded.predict(x).mean, fitted.model.predict(x).mean)


def test_an_untrained_method_is_refused(run: CommandLine, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        run("fit", "--config", run.config(*wrapped("TemperatureScaling", CLASSIFIER, MOONS)))
    assert stop.value.code == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "TemperatureScaling cannot calibrate a MeanFieldVI that has not been trained" in message
    assert "method_checkpoint" in message


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        (
            "--model.init_args.method_checkpoint=nothing.ckpt",
            "method_checkpoint must be the file of a Lightning checkp",
        ),
        ("--data=TwoMoonsDataModule", "`class_path: CalibrationDataModule`"),
        ("--model.init_args.coverage=90", "coverage must lie strictly between 0 and 1, got 90.0"),
    ],
)
def test_wrong_input_is_explained(
    argument: str, said: str, run: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    config = run.config(*wrapped("AdaptivePredictionSets", CLASSIFIER, MOONS))
    with pytest.raises(SystemExit) as stop:
        run("fit", "--config", config, argument)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


CALIBRATIONS = [path for path in sorted(CONFIGS.rglob("*.yaml")) if "method_checkpoint" in path.read_text()]


@pytest.mark.parametrize("path", CALIBRATIONS, ids=lambda path: path.stem)
def test_a_calibration_has_the_method_and_data_of_the_fit_that_it_names(path: Path) -> None:
    """Then the checkpoint fits the method, and calibration data and training data are disjoint."""
    first, second = re.findall(r"lightning-vi fit --config configs/(\S+)", path.read_text())
    assert CONFIGS / second == path
    fit, calibration = yaml.safe_load((CONFIGS / first).read_text()), yaml.safe_load(path.read_text())
    method = calibration["model"]["init_args"]["method"]
    while "method" in method["init_args"]:  # a calibration of a calibration
        method = method["init_args"]["method"]
    assert method["class_path"] == fit["model"]["class_path"]
    assert all(fit["model"]["init_args"][name] == value for name, value in method["init_args"].items())
    assert calibration["data"]["init_args"]["data"] == fit["data"]
