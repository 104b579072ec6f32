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
    """Widths around 40, heights around 3, and areas."""
    noise = np.random.default_rng(seed)
    frame = pd.DataFrame({"width": noise.normal(40.0, 9.0, rows), "height": noise.normal(3.0, 0.5, rows)})
    frame["area"] = 500 + 5 * frame["width"] - 20 * frame["height"] + noise.normal(0, 1.5, rows)
    return frame


def make_method() -> MeanFieldVI:
    return MeanFieldVI(nn.Linear(2, 2), HeteroscedasticGaussian(), num_mc_samples_test=5)


def write_checkpoint(path: Path) -> MeanFieldVI:
    """Fits a method to a table and writes its checkpoint."""
    torch.manual_seed(3)
    method = make_method()
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, TabularDataModule(make_table(40, 0), "area", "regression"))
    trainer.save_checkpoint(path)
    return method


def predictions(path: Path) -> dict[str, list[float]]:
    """Predictions for a new table by the checkpoint."""
    parts: dict[str, Any] = {"backbone": nn.Linear(2, 2), "likelihood": HeteroscedasticGaussian()}
    method = MeanFieldVI.load_from_checkpoint(path, **parts)
    x = NewTableDataModule(make_table(5, 1), path).X
    return {key: value.flatten().tolist() for key, value in method.predict(x, seed=1).as_dict().items()}


if __name__ == "__main__":
    file = STORED / f"table_{VERSION}.pt"
    write_checkpoint(file)
    file.with_suffix(".json").write_text(json.dumps(predictions(file)) + "\n")
