"""Test scores on MNIST: IVON beside AdamW and mean-field variational inference.

    python benchmarks/mnist.py --data path/to/mnist --seeds 5

A small LeNet, 5 epochs of batches of 128, learning rates with a cosine schedule over the epochs. The folder holds the
four idx files. AdamW has a rate of 0.001 and a weight decay of 0.01; every other option is a default.
"""

import argparse
from functools import partial
from pathlib import Path

import torch

from lightning_vi import IVON, Deterministic, MeanFieldVI
from lightning_vi.backbones import LeNet
from lightning_vi.compare import compare
from lightning_vi.datamodules import MNISTDataModule
from lightning_vi.likelihoods import Categorical

METHODS = {"AdamW": Deterministic, "IVON": IVON, "MeanFieldVI": MeanFieldVI}
OPTIONS = {
    "AdamW": {"optimizer": partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.01)},
    "MeanFieldVI": {"num_mc_samples_train": 1, "optimizer": partial(torch.optim.AdamW, lr=1e-3)},
}


def main() -> None:
    """Prints a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the four idx files")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--output_dir", type=Path, help="folder in which finished runs are kept")
    arguments = parser.parse_args()
    comparison = compare(
        {name: METHODS[name] for name in arguments.methods},
        MNISTDataModule(arguments.data),
        backbone=lambda _: LeNet(),
        likelihood=Categorical(10),
        max_epochs=arguments.epochs,
        seeds=arguments.seeds,
        options={name: OPTIONS[name] for name in arguments.methods if name in OPTIONS},
        common_options={"lr_scheduler": partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=arguments.epochs)},
        output_dir=arguments.output_dir,
    )
    print(comparison.to_markdown())


if __name__ == "__main__":
    main()
