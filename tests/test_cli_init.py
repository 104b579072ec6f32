"""The commands `init` and `configs`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from command_line import run_command_line

from lightning_vi.cli import configs
from lightning_vi.datamodules.suggest import suggest_arguments

Run = Callable[..., Any]
NO_CHOICE: dict[str, Any] = dict.fromkeys(["task", "sep", "missing", "id_column", "categorical_columns"])
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]


def houses(rows: int = 80, seed: int = 0) -> pd.DataFrame:
    noise = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "house": [f"h{row}" for row in range(rows)],
            "area": noise.normal(120.0, 30.0, rows),
            "city": noise.choice(["Ulm", "Bonn", "Kiel"], rows),
            "kind": noise.choice(["old", "new"], rows),
        }
    )
    frame["price"] = 2 * frame["area"] + noise.normal(0, 5, rows)
    frame.loc[::9, "area"] = np.nan
    return frame


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    return lambda *args: run_command_line(monkeypatch, *args)


@pytest.fixture
def message_of(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def message(*args: str) -> str:
        with pytest.raises(SystemExit) as stop:
            run(*args)
        assert stop.value.code == 2
        return capsys.readouterr().err

    return message


@pytest.mark.parametrize(
    ("target", "options", "network"),
    [
        ("price", [], {"n_inputs": 9, "n_outputs": 2}),
        ("kind", ["--encoding", "ordinal"], {"n_inputs": 4, "cardinalities": [4], "n_outputs": 2}),
    ],
)
@pytest.mark.filterwarnings("ignore:.*no level of the training rows")
def test_a_table_is_fitted_tested_and_predicted(
    target: str, options: list[str], network: dict[str, Any], run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the printed commands, with categories, missing values, row numbers of pandas, and a level that is new."""
    houses().to_csv("table.csv")
    run("init", "--data", "table.csv", "--target", target, "--output", "first.yaml", "--max_epochs", "2", *options)
    said = capsys.readouterr().out
    assert "(else: --task" in said
    assert "no input: 'Unnamed: 0' has no name" in said
    assert "identifier: 'house' is different in each row" in said
    assert "missing values: impute, because of gaps in 'area'" in said
    config = yaml.safe_load(Path("first.yaml").read_text())
    assert config["model"]["init_args"]["backbone"]["init_args"] == {**network, "n_hidden": [50]}

    commands = [line.split()[1:] for line in said.splitlines() if line.startswith("  lightning-vi")]
    assert [command[0] for command in commands] == ["fit", "test", "predict"]
    houses(12, seed=1).assign(city="Jena").drop(columns=target).to_csv("new.csv")
    for command in commands:
        run(*(word.replace("NEW_FILE", "new.csv") for word in command), *QUIET)
    predictions = pd.read_csv("outputs/first/version_0/predictions.csv")
    assert predictions["house"].tolist() == houses(12)["house"].tolist()
    assert predictions["pred_uct"].notna().all()


def test_an_existing_file_is_kept(run: Run, message_of: Callable[..., str]) -> None:
    houses().to_csv("table.csv", index=False)
    Path("config.yaml").write_text("mine")
    arguments = ["init", "--data", "table.csv", "--target", "price"]
    assert "config.yaml exists already: pass --overwrite to replace it" in message_of(*arguments)
    assert Path("config.yaml").read_text() == "mine"
    run(*arguments, "--overwrite")
    assert yaml.safe_load(Path("config.yaml").read_text())["data"]["init_args"]["data"] == "table.csv"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "cost"], "--target: no columns ['cost']; the table has"),
        (["--target", "price", "--data", "none.csv"], "data='none.csv': file not found"),
        (["--target", "price", "--method", "Magic"], "--method must be one of ['"),
        (["--target", "price", "--missing", "refuse"], "9 of 80 values in 'area' are missing: rows 0, 9, 18"),
        (["--target", "price", "--task", "classification"], "80 of 80 values in 'price' are no integers"),
    ],
)
def test_what_does_not_fit_is_refused_and_writes_nothing(
    arguments: list[str], said: str, message_of: Callable[..., str]
) -> None:
    houses().to_csv("table.csv", index=False)
    assert said in message_of("init", "--data", "table.csv", *arguments)
    assert not Path("config.yaml").exists()


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"] * 10, "classification"),
        ([True, False] * 10, "classification"),
        ([0, 1] * 10, "classification"),
        ([1.0, 2.0, 3.0, np.nan] * 5, "classification"),
        (range(20), "regression"),
        ([0.5, 1.0] * 10, "regression"),
        ([*range(19), "n/a?"], "regression"),
    ],
)
def test_the_task_follows_the_values(values: Any, task: str) -> None:
    frame = pd.DataFrame({"x": np.arange(20.0), "y": list(values)})
    found = suggest_arguments(frame, ["y"], drop_columns=[], **NO_CHOICE)
    assert found.arguments["task"] == task
    assert found.facts[0].startswith(f"task: {task}, because 'y' ")


def test_columns_that_are_no_inputs_are_found() -> None:
    frame = pd.DataFrame(
        {
            "user_id": range(200),
            "remark": [f"remark {row}" for row in range(200)],
            "street": [f"street {row % 150}" for row in range(200)],
            "seen": pd.date_range("2024-01-01", periods=200),
            "width": np.arange(200.0),
            "y": np.arange(200.0),
        }
    )
    found = suggest_arguments(frame, ["y"], drop_columns=[], **NO_CHOICE).arguments
    assert found["id_column"] == "user_id"
    assert found["drop_columns"] == ["remark", "street", "seen"]
    kept = suggest_arguments(frame, ["y"], drop_columns=["seen"], **NO_CHOICE | {"categorical_columns": ["street"]})
    assert kept.arguments["drop_columns"] == ["seen", "remark"]
    assert kept.arguments["categorical_columns"] == ["street"]


def test_configurations_of_the_package_are_listed_printed_and_copied(
    run: Run, message_of: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    run("configs")
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == configs.shipped_names()
    assert any(line.split("  ")[-1] == "Bayes by Backprop on the heteroscedastic toy problem." for line in listed)
    for name in ("regression/mean_field_vi", "configs/regression/mean_field_vi.yaml"):
        run("configs", name)
        assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"] == "lightning_vi.MeanFieldVI"
    run("configs", "--output_dir", "here")
    assert len(list(Path("here").rglob("*.yaml"))) == len(configs.shipped_names()) > 30
    assert "exists already: pass --overwrite" in message_of("configs", "regression/ivon", "--output_dir", "here")
    assert "NAME must be one of ['classification/" in message_of("configs", "nothing")


def test_a_configuration_of_the_package_is_found_from_any_folder(
    run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for option in (["--config", "configs/regression/vbll.yaml"], ["--config=regression/vbll.yaml"]):
        with pytest.raises(SystemExit):
            run("fit", *option, "--print_config")
        said = capsys.readouterr()
        assert yaml.safe_load(said.out)["model"]["class_path"] == "lightning_vi.VBLL"
        assert "vbll.yaml is not here; it is the file of the package" in said.err
    (tmp_path / "vbll.yaml").write_text("mine")
    assert configs.with_shipped_configs(["fit", "--config", "vbll.yaml"]) == ["fit", "--config", "vbll.yaml"]


@pytest.mark.parametrize("method", ["MeanFieldVI", "LatentVariableVI", "SWAG", "SGHMC"])
def test_fits_that_are_made_for_their_end_are_not_stopped(method: str, run: Run) -> None:
    """A divergence with its whole weight, averages and draws come last."""
    houses().to_csv("table.csv", index=False)
    run("init", "--data", "table.csv", "--target", "price", "--method", method)
    trainer = yaml.safe_load(Path("config.yaml").read_text())["trainer"]
    assert "callbacks" not in trainer
    assert trainer["max_epochs"] > 20


@pytest.mark.parametrize("method", ["Deterministic", "LastLayerVI", "RankOneVI", "IVON", "MCDropout", "DeepEnsemble"])
def test_fits_that_overfit_are_stopped(method: str, run: Run) -> None:
    houses().to_csv("table.csv", index=False)
    run("init", "--data", "table.csv", "--target", "price", "--method", method)
    stopping, checkpoint = yaml.safe_load(Path("config.yaml").read_text())["trainer"]["callbacks"]
    assert stopping["class_path"].endswith("EarlyStopping")
    assert checkpoint["init_args"] == {"filename": "best", "monitor": "val_nll"}


def test_classifiers_are_stopped(run: Run) -> None:
    houses().to_csv("table.csv", index=False)
    run("init", "--data", "table.csv", "--target", "kind", "--method", "MeanFieldVI")
    assert len(yaml.safe_load(Path("config.yaml").read_text())["trainer"]["callbacks"]) == 2


def test_swag_has_an_average_after_its_fit(run: Run) -> None:
    houses().to_csv("table.csv", index=False)
    run("init", "--data", "table.csv", "--target", "price", "--method", "SWAG", "--max_epochs", "4")
    run("fit", "--config", "config.yaml", *QUIET)
    run("predict", "--config", "config.yaml", *QUIET)
    assert (pd.read_csv("outputs/config/version_0/predictions.csv")["epistemic_uct"] > 1e-6).all()
