"""A small checkpoint for tests that damage it, and the stored checkpoint of each format version."""

import json
from pathlib import Path
from typing import Any

import torch
from helpers import loader, quiet_trainer
from torch import nn

from lightning_vi import MeanFieldVI
from lightning_vi.core.checkpoints import FORMAT_VERSION
from lightning_vi.likelihoods import HeteroscedasticGaussian

STORED = Path(__file__).parent / "data" / "formats"
X = torch.linspace(-1.0, 1.0, 12).reshape(6, 2)
Y = X[:, :1] - 2 * X[:, 1:]


def make_method(**options: Any) -> MeanFieldVI:
    return MeanFieldVI(nn.Linear(2, 2), HeteroscedasticGaussian(), num_mc_samples_test=5, **options)


def write_checkpoint(path: Path) -> MeanFieldVI:
    """Fits a method and writes its checkpoint."""
    torch.manual_seed(3)
    method = make_method()
    trainer = quiet_trainer(max_epochs=2)
    trainer.fit(method, loader(X, Y, batch_size=3))
    trainer.save_checkpoint(path)
    return method


def load(path: Path) -> MeanFieldVI:
    parts: dict[str, Any] = {"backbone": nn.Linear(2, 2), "likelihood": HeteroscedasticGaussian()}
    return MeanFieldVI.load_from_checkpoint(path, **parts)


def predictions(method: MeanFieldVI) -> dict[str, list[float]]:
    return {key: value.flatten().tolist() for key, value in method.predict(X, seed=1).as_dict().items()}


if __name__ == "__main__":
    STORED.mkdir(exist_ok=True)
    written = write_checkpoint(STORED / f"format_{FORMAT_VERSION}.pt")
    (STORED / f"format_{FORMAT_VERSION}.json").write_text(json.dumps(predictions(written)) + "\n")
