"""Test scores on MNIST: IVON beside AdamW and mean-field variational inference.

    python benchmarks/mnist.py --data path/to/mnist --seeds 5

A small LeNet, 5 epochs of batches of 128, learning rates with a cosine schedule over the epochs. The folder holds the
four idx files. AdamW has a rate of 0.001 and a weight decay of 0.01; every other option is a default.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from lightning import Trainer, seed_everything
from toy import silence
from tqdm import tqdm

from lightning_vi import IVON, Deterministic, MeanFieldVI
from lightning_vi.backbones import LeNet
from lightning_vi.datamodules import MNISTDataModule
from lightning_vi.likelihoods import Categorical
from lightning_vi.methods import UQMethod

METHODS: dict[str, Callable[..., UQMethod]] = {
    "AdamW": partial(Deterministic, optimizer=partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01)),
    "IVON": IVON,
    "MeanFieldVI": partial(MeanFieldVI, num_mc_samples_train=1, optimizer=partial(torch.optim.AdamW, lr=1e-3)),
}


def fit_and_score(name: str, seed: int, epochs: int, datamodule: MNISTDataModule) -> dict[str, float | str]:
    """Scores of one method with one seed."""
    seed_everything(seed, verbose=False)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs)
    method = METHODS[name](LeNet(), Categorical(10), lr_scheduler=schedule)
    trainer = Trainer(
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    start = time.perf_counter()
    trainer.fit(method, datamodule)
    seconds = time.perf_counter() - start
    (scores,) = trainer.test(method, datamodule, verbose=False)
    return {"method": name, "seconds": seconds} | {key.removeprefix("test_"): value for key, value in scores.items()}


def main() -> None:
    """Prints a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four idx files")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    silence()
    datamodule = MNISTDataModule(arguments.data)
    runs = [(name, seed) for name in arguments.methods for seed in range(arguments.seeds)]
    rows = [fit_and_score(name, seed, arguments.epochs, datamodule) for name, seed in tqdm(runs)]
    groups = pd.DataFrame(rows).groupby("method", sort=False)
    print(groups.mean().round(4).to_string())
    print("\nstandard errors:\n" + groups.sem().round(4).to_string())


if __name__ == "__main__":
    main()
