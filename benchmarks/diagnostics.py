"""Diagnostics of two fits of the toy problem: one that learns, and one that prunes most of its units.

    python benchmarks/diagnostics.py [--epochs 150]

It prints the diagnostics of both, and draws docs/images/posterior.png and docs/images/posterior_pruned.png.
"""

import argparse
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.callbacks import VariationalDiagnostics
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.plots import plot_posterior
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def options(epochs: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Arguments of both fits, by the name of the figure and with its title."""
    learning = {
        "prior": EmpiricalBayesPrior(),
        "init_std": 0.0067,
        "optimizer": partial(torch.optim.Adam, lr=2e-2),
        "kl_warmup_epochs": round(0.53 * epochs),
    }
    pruned = {
        "prior": GaussianPrior(std="fan_in"),
        "init_std": 0.05,
        "optimizer": partial(torch.optim.Adam, lr=1e-2),
    }
    return {
        "posterior": ("Empirical Bayes prior, KL warm-up over half of the training", learning),
        "posterior_pruned": ("Prior of std sqrt(2 / fan-in), no KL warm-up", pruned),
    }


def main() -> None:
    """Fits, prints and draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=150)
    epochs = parser.parse_args().epochs
    torch.set_num_threads(1)
    for name, (title, arguments) in options(epochs).items():
        seed_everything(0, verbose=False)
        method = MeanFieldVI(MLP(1, [50, 50], 2), HeteroscedasticGaussian(), num_mc_samples_train=3, **arguments)
        diagnostics = VariationalDiagnostics(warn=False)
        trainer = Trainer(
            max_epochs=epochs,
            callbacks=[diagnostics],
            logger=False,
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(method, ToyHeteroscedasticDataModule(batch_size=32, n_points=500))
        print(f"{title}\n{diagnostics.result}\n", flush=True)
        plot_posterior(diagnostics.result.posterior, title=title).savefig(IMAGES / f"{name}.png", dpi=110)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
