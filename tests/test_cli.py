"""The console script: help, messages about wrong input, and configurations."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import each_method, run_command_line, write_config
from helpers import quiet_trainer
from torch.optim import SGD
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR

from lightning_vi import Deterministic, Laplace, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.cli import main, trainer
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.methods import UQMethod

Run = Callable[..., trainer.TrainerCLI | None]
COMMANDS = ("fit", "validate", "test", "predict", "init", "configs", "compare", "plot", "demo")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    return lambda *args: run_command_line(monkeypatch, *args)


@pytest.fixture
def message_of(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def message(*args: str) -> str:
        with pytest.raises(SystemExit) as stop:
            run(*args)
        assert stop.value.code == 2
        return capsys.readouterr().err

    return message


@pytest.fixture
def output_of(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def output(*args: str) -> str:
        with pytest.raises(SystemExit) as stop:
            run(*args)
        assert stop.value.code == 0
        return capsys.readouterr().out

    return output


def test_help_lists_every_command(output_of: Callable[..., str]) -> None:
    text = output_of("--help")
    assert all(f"\n    {command} " in text for command in COMMANDS)


def test_version(output_of: Callable[..., str]) -> None:
    name, number = output_of("--version").split()
    assert name == "lightning-vi"
    assert number[0].isdigit()


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_help(command: str, output_of: Callable[..., str]) -> None:
    assert f"usage: lightning-vi {command}" in output_of(command, "--help")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "required: COMMAND"),
        (["fitt"], "invalid choice: 'fitt'"),
        (["demo", "--fast"], "unrecognized arguments: --fast"),
        (["fit", "--config", "missing.yaml"], "File does not exist: 'missing.yaml'"),
        (["fit"], "required: fit.data, fit.model"),
    ],
)
def test_a_wrong_command_line_is_explained(args: list[str], said: str, message_of: Callable[..., str]) -> None:
    assert said in message_of(*args).replace(f"{Path.cwd()}/", "")


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--model.kl_weight=heavy", "Got value: heavy"),
        ("--model.kl_wait=1", "Option 'kl_wait' is not accepted"),
        ("--model=MeanFeeldVI", "Given value: MeanFeeldVI"),
        ("--model.num_mc_samples_train=0", "num_mc_samples_train must be an integer of at least 1, got 0"),
        ("--model.likelihood.num_targets=0", "num_targets must be positive, got 0"),
        ("--model.likelihood.num_targets=2", "needs network outputs of width 4, got 2"),
        ("--model.backbone.n_inputs=9", "takes 9 and not 1 features: build the network with n_inputs=1"),
        ("--data.batch_size=0", "batch_size must be an integer >= 1, got 0"),
        ("--ckpt_path=missing.ckpt", "--ckpt_path must be the file of a Lightning checkpoint, got 'missing.ckpt'"),
    ],
)
def test_a_wrong_value_is_explained(argument: str, said: str, message_of: Callable[..., str], tmp_path: Path) -> None:
    assert said in message_of("fit", "--config", write_config(tmp_path), argument)


@pytest.mark.parametrize(
    "argument",
    [
        "--model.num_mc_samples_train=0",
        "--model.likelihood.num_targets=2",
        "--data.batch_size=0",
        "--ckpt_path=missing.ckpt",
    ],
)
def test_a_message_about_wrong_input_is_one_line(argument: str, message_of: Callable[..., str], tmp_path: Path) -> None:
    message = message_of("fit", "--config", write_config(tmp_path), argument)
    assert message.startswith("lightning-vi fit: error: ")
    assert message.count("\n") == 1
    assert message.endswith("\n")


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_a_command_that_needs_a_checkpoint_requires_one(
    command: str, message_of: Callable[..., str], tmp_path: Path
) -> None:
    message = message_of(command, "--config", write_config(tmp_path))
    assert message.startswith(f"lightning-vi {command}: error: --ckpt_path must name the checkpoint of a fit: ")


def test_an_unfitted_method_is_explained(message_of: Callable[..., str], tmp_path: Path) -> None:
    layers = {"stochastic_module_names": [-1]}
    unfitted = Laplace(MLP(1, [8], 2), HeteroscedasticGaussian(), **layers)
    trainer = quiet_trainer()
    trainer.strategy.connect(unfitted)
    trainer.save_checkpoint(tmp_path / "unfitted.ckpt")
    config = write_config(tmp_path, Laplace, **layers)
    message = message_of("test", "--config", config, "--ckpt_path", str(tmp_path / "unfitted.ckpt"))
    assert message.startswith("lightning-vi test: error: Laplace cannot predict before it is fitted")


def test_a_file_at_the_output_folder_of_the_demo_is_explained(message_of: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "outputs").write_text("")
    message = message_of("demo", "--output-dir", str(tmp_path / "outputs"))
    assert message.startswith("lightning-vi demo: error: ")
    assert "File exists" in message


def raise_from(error: Exception, cause: Exception) -> None:
    raise error from cause


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (InputValueError("about the input"), KeyError("not about the input")),
        (RuntimeError("not about the input"), InputTypeError("about the input")),
    ],
)
def test_an_input_error_is_found_in_a_chain_of_causes(
    error: Exception, cause: Exception, message_of: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_vi.demo.run_demo", lambda *args, **options: raise_from(error, cause))
    assert message_of("demo") == "lightning-vi demo: error: about the input\n"


def test_a_bug_in_a_method_keeps_its_traceback(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(MeanFieldVI, "training_step", lambda *args: torch.randperm(3).view(2, 2))
    with pytest.raises(RuntimeError, match="is invalid for input of size 3"):
        run("fit", "--config", write_config(tmp_path))
    assert "error:" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "error", [RuntimeError("out of memory"), ValueError("not about the input"), TypeError("not about the input")]
)
def test_an_error_of_another_class_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: Any) -> None:
        raise error

    monkeypatch.setattr(trainer, "run_trainer", fail)
    with pytest.raises(type(error), match=str(error)) as raised:
        main(["fit"])
    assert raised.value is error


def test_exit_status_of_the_process(tmp_path: Path) -> None:
    def run_process(code: str) -> subprocess.CompletedProcess[str]:
        start = "import lightning_vi.demo\nfrom lightning_vi.cli import main\n"
        return subprocess.run([sys.executable, "-c", start + code], capture_output=True, text=True, check=False)

    (tmp_path / "outputs").write_text("")
    wrong_input = run_process(f"main(['demo', '--output-dir', {str(tmp_path / 'outputs')!r}])")
    assert wrong_input.returncode == 2
    assert len(wrong_input.stderr.splitlines()) == 1

    bug = run_process("lightning_vi.demo.run_demo = lambda *args, **options: int('x')\nmain(['demo'])")
    assert bug.returncode == 1
    assert bug.stderr.startswith("Traceback")
    assert "ValueError: invalid literal" in bug.stderr


@each_method
def test_a_printed_config_is_a_config(method: type[UQMethod], output_of: Callable[..., str], tmp_path: Path) -> None:
    first = output_of("fit", "--config", write_config(tmp_path, method), "--print_config")
    assert yaml.safe_load(first)["model"]["class_path"] == f"lightning_vi.{method.__name__}"
    (tmp_path / "printed.yaml").write_text(first)
    assert output_of("fit", "--config", str(tmp_path / "printed.yaml"), "--print_config") == first


def test_optimizer_and_scheduler_come_from_the_config(run: Run, tmp_path: Path) -> None:
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.25, "momentum": 0.5}}
    scheduler = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1, "gamma": 0.1}}
    cli = run("fit", "--config", write_config(tmp_path, optimizer=optimizer, lr_scheduler=scheduler))
    (built,) = cli.trainer.optimizers
    assert isinstance(built, SGD)
    assert built.defaults["momentum"] == 0.5
    assert isinstance(cli.trainer.lr_scheduler_configs[0].scheduler, StepLR)
    assert built.param_groups[0]["lr"] == pytest.approx(0.25 * 0.1**2)


def test_a_scheduler_can_monitor_a_metric(run: Run, tmp_path: Path) -> None:
    init_args = {"monitor": "val_nll", "patience": 0}
    scheduler = {"class_path": "lightning.pytorch.cli.ReduceLROnPlateau", "init_args": init_args}
    (built,) = run("fit", "--config", write_config(tmp_path, lr_scheduler=scheduler)).trainer.lr_scheduler_configs
    assert isinstance(built.scheduler, ReduceLROnPlateau)
    assert built.monitor == "val_nll"


def test_the_default_optimizer_is_that_of_python(run: Run, tmp_path: Path) -> None:
    (from_config,) = run("fit", "--config", write_config(tmp_path, Deterministic)).trainer.optimizers
    from_python = Deterministic(MLP(1, [8], 2), HeteroscedasticGaussian()).configure_optimizers()
    assert type(from_config) is type(from_python)
    assert from_config.defaults == from_python.defaults


def test_options_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("lightning_vi.demo.run_demo", lambda *args, **options: calls.append((args, options)))
    main(["demo"])
    main(["demo", "--output-dir", "elsewhere", "--quick", "--all"])
    assert calls == [
        ((Path("outputs"),), {"quick": False, "every_method": False}),
        ((Path("elsewhere"),), {"quick": True, "every_method": True}),
    ]


def test_the_demo_does_not_import_lightning_cli() -> None:
    code = (
        "import sys, lightning_vi.demo\nfrom lightning_vi.cli import main\nlightning_vi.demo.run_demo = print\n"
        "try:\n    main(['demo', '--help'])\nexcept SystemExit:\n    print('lightning.pytorch.cli' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
