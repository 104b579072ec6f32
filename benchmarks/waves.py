"""Homoscedastic regression with a residual network: test RMSE, learned noise and coverage.

    python benchmarks/waves.py --seeds 5 --output_dir runs

`WavesDataModule` is the problem of Deep-UQ's tutorial on Bayes by Backprop; the noise std is 0.08. The network has x
and its sines and cosines at four frequencies as features, 72 units, three residual blocks of two layers, and SiLU.
Methods have their defaults, kl_weight 1 among them, and the noise is learned; there is no early stopping. The tutorial
reports an RMSE of 0.0840 with kl_weight 1e-4. Each seed has data of its own.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from toy import silence

from lightning_vi.backbones import FourierFeatures, ResidualMLP
from lightning_vi.compare import compare
from lightning_vi.datamodules import WavesDataModule
from lightning_vi.likelihoods import Gaussian

METHODS = ("Deterministic", "LastLayerVI", "RankOneVI", "MeanFieldVI")


def noise_std(method: Any, datamodule: Any) -> float:  # noqa: ARG001
    """Learned std of the noise, in the units of the targets."""
    return float(method.likelihood.noise_std * method.likelihood.target_std)


def main() -> None:
    """Prints a row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, each with data of its own")
    parser.add_argument("--epochs", type=int, default=1060)
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--output_dir", type=Path, help="folder in which finished runs are kept")
    arguments = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    features = FourierFeatures([0.8, 1.7, 2.6, 3.5])
    table = compare(
        arguments.methods,
        lambda seed: WavesDataModule(data_seed=seed),
        lambda _: torch.nn.Sequential(features, ResidualMLP(features.num_features(1), 72, 3, 1)),
        Gaussian(),
        max_epochs=arguments.epochs,
        seeds=arguments.seeds,
        measures={"noise_std": noise_std},
        output_dir=arguments.output_dir,
    )
    print(table.to_markdown(["rmse", "nll", "coverage", "noise_std"], costs=False))


if __name__ == "__main__":
    main()
