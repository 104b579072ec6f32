"""Helpers that run the console script inside a test, and small configurations for it."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import LIGHTNING_WARNINGS

from lightning_vi import Deterministic, LastLayerVI, MeanFieldVI, MeanVarianceEstimation
from lightning_vi.cli import main, trainer
from lightning_vi.methods import UQMethod

SAMPLES = {"num_mc_samples_train": 2, "num_mc_samples_test": 5}
METHODS: dict[type[UQMethod], dict[str, Any]] = {
    Deterministic: {},
    MeanVarianceEstimation: {"beta": 0.5},
    MeanFieldVI: {**SAMPLES, "prior": {"class_path": "GaussianPrior", "init_args": {"std": 0.5}}},
    LastLayerVI: {**SAMPLES, "stochastic_module_names": [-1]},
}
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)


def write_config(folder: Path, method: type[UQMethod] = MeanFieldVI, **options: Any) -> str:
    """Writes a configuration of a short fit to a few points, and returns its path."""
    options = {**METHODS.get(method, {}), **options}
    backbone = {"class_path": "MLP", "init_args": {"n_inputs": 1, "n_hidden": [8], "n_outputs": 2}}
    config = {
        "seed_everything": 3,
        "model": {
            "class_path": f"lightning_vi.{method.__name__}",
            "init_args": {"backbone": backbone, "likelihood": "HeteroscedasticGaussian", **options},
        },
        "data": {"class_path": "ToyHeteroscedasticDataModule", "init_args": {"n_points": 60, "num_workers": 0}},
        "trainer": {
            "max_epochs": 2,
            "accelerator": "cpu",
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "log_every_n_steps": 1,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "run"}},
        },
        "prediction_writer": {"output_dir": str(folder)},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return str(path)


def run_command_line(monkeypatch: pytest.MonkeyPatch, *args: str) -> trainer.TrainerCLI | None:
    """Runs `lightning-vi` with these arguments, and returns what it built."""
    built: list[trainer.TrainerCLI] = []
    original = trainer.run_trainer

    def run_and_keep(args: Any) -> trainer.TrainerCLI:
        built.append(original(args))
        return built[-1]

    # Lightning calls functions that jsonargparse has renamed, also when it loads a checkpoint later.
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["lightning-vi"])
        patch.setattr(trainer, "run_trainer", run_and_keep)
        patch.setenv("PL_GLOBAL_SEED", "0")
        patch.setenv("PL_SEED_WORKERS", "0")
        for message in (*LIGHTNING_WARNINGS, "The dirpath has changed"):
            warnings.filterwarnings("ignore", message)
        main(args)
    return built[0] if built else None
