"""Each configuration file of the repository runs from the command line, and each method has one."""

import inspect
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from command_line import run_command_line
from lightning import LightningModule

import lightning_vi
from lightning_vi import DeepEnsemble
from lightning_vi.compare import Comparison
from lightning_vi.methods import UQMethod

CONFIGS = Path(__file__).parents[1] / "configs"
COMPARISONS = sorted((CONFIGS / "comparison").glob("*.yaml"))
FILES = sorted(set(CONFIGS.rglob("*.yaml")) - set(COMPARISONS))
# A base class, and a method that is built from fitted methods.
WITHOUT_CONFIG = {"lightning_vi.VariationalMethod", "lightning_vi.Ensemble"}
each_config = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONFIGS)))


def load(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


@each_config
def test_fits_two_steps(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(UQMethod, "is_trained", True)  # calibrations refuse a method without a checkpoint of its fit
    if path.stem == "enbpi":  # which needs all training rows, and has those of two steps
        monkeypatch.setattr(DeepEnsemble, "num_data", 64)
    beyond_burnin = ["--model.burnin_epochs=0"] if "burnin_epochs" in load(path)["model"]["init_args"] else []
    silent = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    run_command_line(monkeypatch, "fit", "--config", str(path), "--trainer.fast_dev_run=2", *silent, *beyond_burnin)


@each_config
def test_has_a_seed_and_separate_output_folders(path: Path) -> None:
    config = load(path)
    name = path.relative_to(CONFIGS).with_suffix("").as_posix()
    assert isinstance(config["seed_everything"], int)
    assert config["trainer"]["logger"]["init_args"] == {"save_dir": "outputs", "name": name}
    assert "prediction_writer" not in config  # predictions are written beside the fit


def test_each_method_has_a_config() -> None:
    configured = {load(path)["model"]["class_path"] for path in FILES}
    concrete = {
        f"lightning_vi.{name}"
        for name, kind in ((name, getattr(lightning_vi, name)) for name in lightning_vi.__all__)
        if issubclass(kind, LightningModule) and not inspect.isabstract(kind)
    }
    assert concrete - configured <= WITHOUT_CONFIG


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_each_comparison_runs(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    content = load(path)
    assert f"lightning-vi compare --config configs/comparison/{path.name}" in path.read_text()
    content["trainer"] |= {"max_epochs": 1, "limit_train_batches": 2, "limit_test_batches": 1}
    content["shifts"] = {"shifts": ["contrast"], "severities": [1], "num_neighbors": 2}
    write_idx_folder(tmp_path / "data" / "mnist")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Comparison, "figures", lambda _: {})
    Path("comparison.yaml").write_text(yaml.safe_dump(content))
    run_command_line(
        monkeypatch, "compare", "--config", "comparison.yaml", "--methods", "Deterministic", "--seeds", "1"
    )
    table = pd.read_csv("comparison/comparison.csv")
    assert table["test_set"].tolist() == ["test", "digits 8 and 9", "photographs", "contrast_1"]
    assert table["error"].isna().all()


def write_idx_folder(folder: Path) -> None:
    """Writes small files in the format of MNIST."""
    folder.mkdir(parents=True)
    for part, count in (("train", 60), ("t10k", 20)):
        images = np.random.default_rng(0).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", labels)):
            header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
            (folder / f"{part}-{name}-ubyte").write_bytes(header + values.tobytes())
