"""Checkpoints that the console script writes and reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from command_line import METHODS, SAMPLES, each_method, run_command_line, write_config
from helpers import quiet_trainer
from torch.optim import SGD

from lightning_vi import LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.cli.trainer import TrainerCLI
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.methods import UQMethod

Run = Callable[..., TrainerCLI]
PARTS = {"backbone", "likelihood", "prior", "optimizer", "lr_scheduler"}
PREDICTED = ("pred", "pred_uct", "epistemic_uct", "aleatoric_uct")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def run_trainer_command(*args: str) -> TrainerCLI:
        cli = run_command_line(monkeypatch, *args)
        assert cli is not None
        return cli

    return run_trainer_command


def checkpoint_of(cli: TrainerCLI) -> str:
    return str(cli.trainer.checkpoint_callback.best_model_path)


def save_from_python(method: type[UQMethod], path: Path, width: int = 8) -> UQMethod:
    options = {key: value for key, value in METHODS[method].items() if key != "prior"}
    fitted = method(MLP(1, [width], 2), HeteroscedasticGaussian(), **options)
    trainer = quiet_trainer()
    trainer.fit(fitted, ToyHeteroscedasticDataModule(n_points=60))
    trainer.save_checkpoint(path)
    return fitted


def assert_same_predictions(first: UQMethod, second: UQMethod) -> None:
    x = torch.linspace(-2, 2, 7).unsqueeze(1)
    ours, theirs = first.predict_step(x), second.predict_step(x)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-5, atol=1e-6)


@each_method
def test_a_checkpoint_from_the_command_line_loads_from_its_path_alone(
    method: type[UQMethod], run: Run, tmp_path: Path
) -> None:
    cli = run("fit", "--config", write_config(tmp_path, method))
    loaded = method.load_from_checkpoint(checkpoint_of(cli), weights_only=True)
    assert type(loaded) is method
    assert_same_predictions(loaded, cli.model)


def test_a_checkpoint_from_the_command_line_restores_all_arguments(run: Run, tmp_path: Path) -> None:
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.25}}
    cli = run("fit", "--config", write_config(tmp_path, optimizer=optimizer, kl_weight=0.5))
    loaded = MeanFieldVI.load_from_checkpoint(checkpoint_of(cli), weights_only=True)
    assert isinstance(loaded.make_optimizer(), SGD)
    assert (loaded.kl_weight, loaded.num_mc_samples_train, loaded.num_mc_samples_test) == (0.5, 2, 5)
    assert torch.equal(loaded.engine.kl(), cli.model.engine.kl())


def test_weights_from_the_command_line_load_into_a_method_built_in_python(run: Run, tmp_path: Path) -> None:
    cli = run("fit", "--config", write_config(tmp_path, LastLayerVI))
    rebuilt = LastLayerVI(MLP(1, [8], 2), HeteroscedasticGaussian(), **SAMPLES)
    rebuilt.load_state_dict(torch.load(checkpoint_of(cli), weights_only=True)["state_dict"])
    assert_same_predictions(rebuilt, cli.model)


@each_method
def test_a_checkpoint_from_python_loads_with_network_and_likelihood(method: type[UQMethod], tmp_path: Path) -> None:
    path = tmp_path / "python.ckpt"
    fitted = save_from_python(method, path)
    assert not PARTS & torch.load(path, weights_only=True).get("hyper_parameters", {}).keys()
    loaded = method.load_from_checkpoint(
        path, backbone=MLP(1, [8], 2), likelihood=HeteroscedasticGaussian(), weights_only=True
    )
    assert all(loaded.hparams[key] == value for key, value in METHODS[method].items() if key != "prior")
    assert_same_predictions(loaded, fitted)


@each_method
def test_a_checkpoint_from_python_works_on_the_command_line(method: type[UQMethod], run: Run, tmp_path: Path) -> None:
    fitted = save_from_python(method, tmp_path / "python.ckpt")
    cli = run("test", "--config", write_config(tmp_path, method), "--ckpt_path", str(tmp_path / "python.ckpt"))
    assert_same_predictions(cli.model, fitted)


def test_the_configuration_overrides_the_hyperparameters_of_a_checkpoint(run: Run, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    checkpoint = checkpoint_of(run("fit", "--config", config))
    cli = run("test", "--config", config, "--ckpt_path", checkpoint, "--model.num_mc_samples_test=7")
    assert cli.model.num_mc_samples_test == 7


def test_scores_and_predictions_are_those_of_the_fitted_method(run: Run, tmp_path: Path) -> None:
    config = write_config(tmp_path)
    cli = run("fit", "--config", config)
    for command in ("validate", "test", "predict"):
        run(command, "--config", config, "--ckpt_path", checkpoint_of(cli))
    data = ToyHeteroscedasticDataModule(n_points=60)

    (expected,) = quiet_trainer().test(cli.model, data, verbose=False)
    logged = pd.read_csv(tmp_path / "run" / "version_0" / "test.csv")
    assert expected.keys() <= set(logged.columns)
    assert all(logged[name].item() == pytest.approx(value, rel=1e-5) for name, value in expected.items())

    written = pd.read_csv(tmp_path / "predictions.csv")
    prediction = cli.model.predict_step(data.X_test)
    for column in PREDICTED:
        assert written[column].to_numpy() == pytest.approx(prediction[column][:, 0].numpy(), rel=1e-4, abs=1e-6)


def test_commands_take_the_last_fit_and_write_beside_it(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = yaml.safe_load(Path(write_config(tmp_path)).read_text())
    del content["prediction_writer"]
    content["trainer"]["callbacks"] = [
        {"class_path": "ModelCheckpoint", "init_args": {"monitor": "train_loss", "save_last": True, "mode": "max"}}
    ]
    config = tmp_path / "beside.yaml"
    config.write_text(yaml.safe_dump(content))
    cli = run("fit", "--config", str(config))
    capsys.readouterr()
    for command in ("test", "predict"):
        evaluated = run(command, "--config", str(config))
        assert f"{checkpoint_of(cli)}, the best checkpoint of the last fit" in capsys.readouterr().err
        best = torch.load(checkpoint_of(cli), weights_only=True)["state_dict"]
        assert torch.equal(evaluated.model.state_dict()["backbone.0.weight_mu"], best["backbone.0.weight_mu"])
    folder = tmp_path / "run" / "version_0"
    assert {"test.csv", "predictions.csv", "config.yaml"} <= {path.name for path in folder.iterdir()}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["version_0"]
    other = run_command_line_error(run, "test", "--config", str(config), "--model.num_mc_samples_test=7")
    assert "there is no fit of this method" in other


def run_command_line_error(run: Run, *args: str) -> str:
    with pytest.raises(SystemExit) as stop:
        run(*args)
    return str(stop.value.__context__)


def test_a_fit_resumes_from_a_checkpoint(run: Run, tmp_path: Path) -> None:
    adam = {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.01}}
    constant = {"optimizer": adam, "lr_scheduler": None, "kl_warmup_epochs": 0}  # whatever the length of the fit
    config = write_config(tmp_path, **constant)
    checkpoint = checkpoint_of(run("fit", "--config", config))
    resumed = run("fit", "--config", config, "--ckpt_path", checkpoint, "--trainer.max_epochs=3")
    assert resumed.trainer.current_epoch == 3
    unbroken = run("fit", "--config", config, "--trainer.max_epochs=3")
    assert_same_predictions(resumed.model, unbroken.model)


def test_logged_hyperparameters_are_plain(run: Run, tmp_path: Path) -> None:
    run("fit", "--config", write_config(tmp_path))
    logged = yaml.safe_load((tmp_path / "run" / "version_0" / "hparams.yaml").read_text())
    assert logged.keys() >= PARTS
    assert logged["backbone"]["init_args"]["n_hidden"] == [8]
    assert logged["optimizer"] == "lightning_vi.core.default_optimizer"


class Hostile:
    def __reduce__(self) -> Any:
        return print, ("foreign code has run",)


def damaged(path: Path) -> None:
    """Changes a weight, but not its digest."""
    save_from_python(MeanFieldVI, path)
    checkpoint = torch.load(path, weights_only=True)
    next(iter(checkpoint["state_dict"].values())).add_(1)
    torch.save(checkpoint, path)


def truncated(path: Path) -> None:
    save_from_python(MeanFieldVI, path)
    path.write_bytes(path.read_bytes()[:-1000])


BAD_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "hostile": (lambda path: torch.save({"state_dict": {}, "x": Hostile()}, path), "which may run code"),
    "truncated": (truncated, "is not a checkpoint that torch.load"),
    "empty": (lambda path: path.write_bytes(b""), "is not a checkpoint that torch.load"),
    "text": (lambda path: path.write_text("weights"), "is not a checkpoint that torch.load"),
    "tensor": (lambda path: torch.save(torch.ones(2), path), "it has no 'state_dict'"),
    "damaged": (damaged, "is damaged: 'state_dict' differ from what was saved"),
    "of another network": (lambda path: save_from_python(MeanFieldVI, path, width=9), "Error(s) in loading state_dict"),
}


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
@pytest.mark.parametrize(("write", "said"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_line(
    write: Callable[[Path], Any],
    said: str,
    command: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "bad.ckpt"
    write(path)
    with pytest.raises(SystemExit) as stop:
        run_command_line(monkeypatch, command, "--config", write_config(tmp_path), "--ckpt_path", str(path))
    output = capfd.readouterr()
    assert stop.value.code == 2
    message = output.err.splitlines()[-1]
    assert message.startswith(f"lightning-vi {command}: error: ")
    assert said in message
    assert "Traceback" not in output.err
    assert "foreign code has run" not in output.out


def test_the_command_line_chooses_prediction_in_one_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path)
    run_command_line(monkeypatch, "fit", "--config", config)
    tested = run_command_line(monkeypatch, "test", "--config", config, "--approximation", "moments")
    assert tested is not None
    assert tested.model.approximation == "moments"
    sampled = run_command_line(monkeypatch, "test", "--config", config)
    assert sampled is not None
    assert sampled.model.approximation == "sampling"
    assert tested.trainer.callback_metrics["test_nll"] != sampled.trainer.callback_metrics["test_nll"]
