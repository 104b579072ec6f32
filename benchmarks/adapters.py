"""Bayesian low-rank adapters of a small transformer: fine-tuning on few rows of a shifted task.

    python benchmarks/adapters.py --seeds 3

A transformer of two layers reads the handwritten digits of scikit-learn as sequences of eight rows of pixels. It is
trained on upright digits, and then adapted to digits that are rotated by 90 degrees, from a few rows of each class.
Scores are those of 500 other rotated digits, means and standard errors over seeds, which choose the rows and the
weights. "adapters" freezes the encoder and trains adapters of all of its layers, and the head; "weights" trains all
weights. Every fit has the same number of epochs, and Adam with a cosine schedule unless the method has an optimizer.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import torch
from lightning import Trainer, seed_everything
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toy import silence
from tqdm import tqdm

from lightning_vi import IVON, DeepEnsemble, Deterministic, Laplace, LastLayerVI, MeanFieldVI
from lightning_vi.conversion import add_adapters
from lightning_vi.likelihoods import Categorical
from lightning_vi.methods import UQMethod
from lightning_vi.optim import cosine_decay

NUM_PRETRAINING, NUM_TEST, CLASSES = 1000, 500, 10


class DigitTransformer(nn.Module):
    """Classifies sequences of eight rows of eight pixels, [B, 8, 8]."""

    def __init__(self, width: int = 48, num_layers: int = 2) -> None:
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(0.1 * torch.randn(8, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, shape [B, 10]."""
        logits: Tensor = self.head(self.encoder(self.embed(x) + self.position).mean(1))
        return logits


plain = partial(Deterministic, lr_scheduler=cosine_decay)
mean_field = partial(MeanFieldVI, num_mc_samples_train=4)
METHODS: dict[str, tuple[str, Callable[..., UQMethod]]] = {
    "weights, Deterministic": ("weights", plain),
    "adapters, Deterministic": ("adapters", plain),
    "adapters, Laplace of the head": ("adapters", partial(Laplace, lr_scheduler=cosine_decay)),
    "adapters, LastLayerVI": ("adapters", LastLayerVI),
    "adapters, MeanFieldVI": ("adapters", mean_field),
    "adapters, MeanFieldVI of `down` and head": (
        "adapters",
        partial(mean_field, stochastic_module_names=["*.down", "head"]),
    ),
    "adapters, IVON": ("adapters", IVON),
    "adapters, DeepEnsemble": ("adapters", partial(DeepEnsemble, num_members=5, lr_scheduler=cosine_decay)),
}


def train(method: UQMethod, x: Tensor, y: Tensor, epochs: int, batch_size: int) -> UQMethod:
    """Fits a method and returns it."""
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(method, DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True))
    return method


def scores(method: UQMethod, x: Tensor, y: Tensor) -> dict[str, float]:
    """Test metrics, without the prefix."""
    trainer = Trainer(logger=False, enable_progress_bar=False, enable_model_summary=False)
    (found,) = trainer.test(method, DataLoader(TensorDataset(x, y), batch_size=NUM_TEST), verbose=False)
    return {label: found[f"test_{name}"] for label, name in (("NLL", "nll"), ("ECE", "ece"), ("accuracy", "accuracy"))}


def run(seed: int, num_rows: int, epochs: int, names: list[str], alpha: float, rank: int) -> list[dict[str, Any]]:
    """All rows of one seed."""
    seed_everything(seed, verbose=False)
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32) / 8 - 1
    y = torch.tensor(digits.target)
    order = torch.randperm(len(x))
    x, y = x[order], y[order]
    upright = x[:NUM_PRETRAINING], y[:NUM_PRETRAINING]
    pretrained = train(plain(DigitTransformer(), Categorical(CLASSES)), *upright, epochs=20, batch_size=50)
    network = pretrained.trained_networks()[0]
    x = x.rot90(1, (1, 2))
    rest, test = slice(NUM_PRETRAINING, -NUM_TEST), slice(-NUM_TEST, None)
    few = torch.cat([(y[rest] == label).nonzero()[: num_rows // CLASSES, 0] for label in range(CLASSES)])
    x_few, y_few, x_test, y_test = x[rest][few], y[rest][few], x[test], y[test]
    rows = [{"method": "not adapted", "trained": 0, "s": 0.0, **scores(pretrained, x_test, y_test)}]
    for name in tqdm(names, desc=f"seed {seed}"):
        seed_everything(seed, verbose=False)
        what, make = METHODS[name]
        start = add_adapters(network, ["encoder"], rank, alpha, trainable=["head"]) if what == "adapters" else network
        method = make(start.requires_grad_(True) if what == "weights" else start, Categorical(CLASSES))
        trained = sum(parameter.numel() for parameter in method.parameters() if parameter.requires_grad)
        started = time.process_time()
        train(method, x_few, y_few, epochs, batch_size=20)
        seconds = time.process_time() - started
        rows.append({"method": name, "trained": trained, "s": seconds, **scores(method, x_test, y_test)})
    return rows


def main() -> None:
    """Prints a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=100, help="rows for fine-tuning")
    parser.add_argument("--epochs", type=int, default=60, help="epochs of fine-tuning")
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--alpha", type=float, default=8.0)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    chosen = parser.parse_args()
    silence()
    arguments = (chosen.rows, chosen.epochs, chosen.methods, chosen.alpha, chosen.rank)
    table = pd.DataFrame([row for seed in chosen.seeds for row in run(seed, *arguments)])
    grouped = table.groupby("method", sort=False)
    means, errors = grouped.mean(), grouped.sem()
    print("| | trained | s | NLL | ECE | accuracy |\n|---|---|---|---|---|---|")
    for name, row in means.iterrows():
        cells = [f"{row[key]:.3f} ± {errors.loc[name, key]:.3f}" for key in ("NLL", "ECE", "accuracy")]
        print(f"| {name} | {int(row.trained)} | {row.s:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
