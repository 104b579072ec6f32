"""Versions, device and wall time of the runs of a comparison."""

import json
import platform
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
import torch

import lightning_vi
from lightning_vi.backbones import MLP
from lightning_vi.compare import Comparison, compare
from lightning_vi.compare.environment import current_environment
from lightning_vi.compare.store import Run, RunStore
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian

OWN = {"torch": "2.13.0", "device": "CPU", "threads": "1", "date": "2026-11-26"}


def runs(*environments: dict[str, str]) -> list[Run]:
    rows = [{"test_set": "test", "nll": 1.0}]
    return [Run("", "IVON", seed, rows, seconds=1800.4, environment=own) for seed, own in enumerate(environments)]


def test_every_run_keeps_what_it_ran_with_and_the_tables_say_so(tmp_path: Path) -> None:
    comparison = compare(
        ["Deterministic"],
        ToyHeteroscedasticDataModule(n_points=60),
        backbone=lambda datamodule: MLP(datamodule.n_inputs, [8], 2),
        likelihood=HeteroscedasticGaussian(),
        max_epochs=1,
        trainer={"accelerator": "cpu", "devices": 1},
        seeds=1,
        output_dir=tmp_path,
        progress=False,
    )
    run = json.loads(next((tmp_path / "runs").iterdir()).read_text())["run"]
    found = run["environment"]
    assert found["torch"] == version("torch")
    assert found["lightning_vi"] == version("lightning-vi")
    assert (found["Python"], found["device"]) == (platform.python_version(), "CPU")
    assert found["threads"] == str(torch.get_num_threads())
    assert abs((date.today() - date.fromisoformat(found["date"])).days) <= 1
    assert run["seconds"] >= run["rows"][0]["train_seconds"]
    said = comparison.environment
    assert said.startswith(f"lightning_vi {version('lightning-vi')}, torch {version('torch')}, lightning ")
    assert f"Python {platform.python_version()}, CPU, " in said
    assert said in (tmp_path / "comparison.md").read_text().splitlines()


def test_a_package_that_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> str:
        raise PackageNotFoundError(name)

    assert lightning_vi.__version__ == version("lightning-vi")
    monkeypatch.setattr("lightning_vi.version.version", fail)
    assert lightning_vi.__version__ == "not installed"
    assert current_environment(torch.device("cpu"))["lightning_vi"] == "not installed"


@pytest.mark.parametrize(
    ("environments", "line"),
    [
        ([OWN], "torch 2.13.0, CPU, 1 thread. Wall time of 1 run: 0:30:00, 2026-11-26."),
        ([OWN, OWN], "torch 2.13.0, CPU, 1 thread. Wall time of 2 runs: 1:00:01, 2026-11-26."),
        (
            [OWN, {**OWN, "torch": "2.6.0", "threads": "2", "date": "2026-11-25"}],
            "torch 2.13.0 and 2.6.0, CPU, 1 and 2 threads. Wall time of 2 runs: 1:00:01, 2026-11-25 to 2026-11-26.",
        ),
        ([OWN, {}], "torch 2.13.0, CPU, 1 thread. Wall time of 1 run: 0:30:00, 2026-11-26."),
        ([{}], ""),
    ],
)
def test_environments_are_joined(environments: list[dict[str, str]], line: str) -> None:
    comparison = Comparison(runs(*environments))
    assert comparison.environment == line
    assert comparison.to_markdown().endswith(f"{line}\n")


def test_files_without_an_environment_are_read(tmp_path: Path) -> None:
    store = RunStore(tmp_path)
    (run,) = runs(OWN)
    store.save(run, {"method": "IVON"})
    assert store.load("", "IVON", 0, {"method": "IVON"}) == run
    (path,) = tmp_path.iterdir()
    content = json.loads(path.read_text())
    del content["run"]["environment"]  # of earlier versions
    path.write_text(json.dumps(content))
    older = store.load("", "IVON", 0, {"method": "IVON"})
    assert older is not None
    assert older.environment == {}
