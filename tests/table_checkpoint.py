"""The stored checkpoint of a fit on a table, for each version of the datamodule's state."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from helpers import quiet_trainer
from torch import nn

from lightning_vi import MeanFieldVI
from lightning_vi.datamodules import NewTableDataModule, TabularDataModule
from lightning_vi.datamodules._state import VERSION
from lightning_vi.likelihoods import HeteroscedasticGaussian

STORED = Path(__file__).parent / "data" / "formats"


def make_table(rows: int, seed: int) -> pd.DataFrame:
    """Widths around 40, heights around 3, and areas; since version 2 also kinds and ages, with gaps."""
    noise = np.random.default_rng(seed)
    frame = pd.DataFrame({"width": noise.normal(40.0, 9.0, rows), "height": noise.normal(3.0, 0.5, rows)})
    frame["area"] = 500 + 5 * frame["width"] - 20 * frame["height"] + noise.normal(0, 1.5, rows)
    frame["kind"] = noise.choice(["old", "new"], rows)
    frame["age"] = np.where(noise.random(rows) < 0.2, np.nan, noise.integers(0, 9, rows))
    return frame


def write_checkpoint(path: Path) -> MeanFieldVI:
    """Fits a method to a table and writes its checkpoint."""
    torch.manual_seed(3)
    data = TabularDataModule(make_table(40, 0), "area", "regression", missing="impute")
    method = MeanFieldVI(nn.Linear(data.n_inputs, 2), HeteroscedasticGaussian(), num_mc_samples_test=5)
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, data)
    trainer.save_checkpoint(path)
    return method


def predictions(path: Path) -> dict[str, list[float]]:
    """Predictions for a new table by the checkpoint."""
    x = NewTableDataModule(make_table(5, 1), path).X
    parts: dict[str, Any] = {"backbone": nn.Linear(x.shape[1], 2), "likelihood": HeteroscedasticGaussian()}
    method = MeanFieldVI.load_from_checkpoint(path, **parts)
    return {key: value.flatten().tolist() for key, value in method.predict(x, seed=1).as_dict().items()}


if __name__ == "__main__":
    file = STORED / f"table_{VERSION}.pt"
    write_checkpoint(file)
    file.with_suffix(".json").write_text(json.dumps(predictions(file)) + "\n")  # once for a new version
