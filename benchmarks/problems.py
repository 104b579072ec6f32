"""Problems of differential equations: scores inside and outside of the range of the training functions.

    python benchmarks/problems.py --figures docs/images

Each method is fitted to the training functions and scored on test functions with parameters in the same ranges ("in")
and outside of them ("out"). "ratio" is the mean epistemic std outside over that inside, the mean mutual information for
classification; "AUROC" is that of the detection of rows outside by their epistemic uncertainty. Settings are those of
the configurations in `configs/`: Adam with a cosine schedule over all steps, kl_weight 1 with a warm-up over half of
the epochs, and for variational methods two samples a step, `EmpiricalBayesPrior()` and a small initial std, or a
standard Gaussian prior for the few fields of `heat2d`.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from lightning import Trainer, seed_everything
from problem_figures import draw_bar, draw_curves, draw_plates, draw_transport, draw_waves
from torch import nn
from toy import silence
from tqdm import tqdm

from lightning_vi import DeepEnsemble, LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP, FourierFeatures, ResidualMLP
from lightning_vi.datamodules import (
    ADR1DDataModule,
    ArrayDataModule,
    ElasticBar1DDataModule,
    Heat2DDataModule,
    Transport2DDataModule,
    WavesDataModule,
)
from lightning_vi.evaluation import ood_detection
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood
from lightning_vi.methods import UQMethod
from lightning_vi.optim import PerStep
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior, Prior


@dataclass(frozen=True)
class Problem:
    """Data, network, likelihood and settings of a problem."""

    data: Callable[..., ArrayDataModule]
    network: Callable[[], nn.Module]
    likelihood: Callable[[], Likelihood]
    epochs: int
    learning_rate: float
    draw: Callable[[UQMethod, Any], Any]
    headline: str
    prior: Prior = field(default_factory=EmpiricalBayesPrior)
    init_std: float = 0.0067


def plate_network() -> nn.Module:
    """Convolutions and the largest value of each channel over the plate: 32 features, two classes."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, padding=2),
        nn.SiLU(),
        nn.Conv2d(8, 16, 5, padding=2),
        nn.SiLU(),
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 32),
        nn.SiLU(),
        nn.Linear(32, 2),
    )


def wave_network() -> nn.Module:
    """Fourier features and a residual network."""
    return nn.Sequential(FourierFeatures([0.8, 1.7, 2.6, 3.5]), ResidualMLP(9, 72, 3, 1))


PROBLEMS = {
    "adr1d": Problem(
        partial(ADR1DDataModule, batch_size=128),
        partial(MLP, 6, [64, 64], 2, activation_fn=nn.SiLU()),
        HeteroscedasticGaussian,
        30,
        1e-2,
        draw_curves,
        "MeanFieldVI",
    ),
    "elastic_bar1d": Problem(
        partial(ElasticBar1DDataModule, batch_size=128),
        partial(MLP, 3, [64, 64], 2, activation_fn=nn.SiLU()),
        partial(Gaussian, num_targets=2),
        30,
        1e-2,
        draw_bar,
        "MeanFieldVI",
    ),
    "transport2d": Problem(
        partial(Transport2DDataModule, batch_size=512),
        partial(MLP, 5, [96, 96], 4, activation_fn=nn.SiLU()),
        partial(HeteroscedasticGaussian, num_targets=2),
        10,
        1e-2,
        draw_transport,
        "MeanFieldVI",
    ),
    "heat2d": Problem(
        partial(Heat2DDataModule, batch_size=32),
        plate_network,
        partial(Categorical, num_classes=2),
        60,
        3e-3,
        draw_plates,
        "LastLayerVI",
        GaussianPrior(std=1.0),
        0.1,
    ),
    "waves": Problem(
        partial(WavesDataModule, batch_size=128),
        wave_network,
        Gaussian,
        150,
        3e-3,
        draw_waves,
        "LastLayerVI",
    ),
}
METHODS = ("MeanFieldVI", "LastLayerVI", "DeepEnsemble")


def make_method(name: str, problem: Problem, epochs: int) -> UQMethod:
    """A method for a problem."""
    options: dict[str, Any] = {
        "optimizer": partial(torch.optim.Adam, lr=problem.learning_rate),
        "lr_scheduler": PerStep(torch.optim.lr_scheduler.CosineAnnealingLR),
    }
    if name == "DeepEnsemble":
        return DeepEnsemble(problem.network(), problem.likelihood(), num_members=5, **options)
    kind = {"MeanFieldVI": MeanFieldVI, "LastLayerVI": LastLayerVI}[name]
    options |= {
        "prior": problem.prior,
        "init_std": problem.init_std,
        "num_mc_samples_train": 2,
        "num_mc_samples_test": 50,
        "kl_warmup_epochs": epochs // 2,
    }
    return kind(problem.network(), problem.likelihood(), **options)


def fit(name: str, problem: Problem, seed: int, epochs: int) -> tuple[UQMethod, ArrayDataModule, Trainer]:
    """A fitted method."""
    seed_everything(seed, verbose=False)
    datamodule = problem.data(data_seed=seed)
    method = make_method(name, problem, epochs)
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=0,
    )
    trainer.fit(method, datamodule)
    return method, datamodule, trainer


def scores(method: UQMethod, datamodule: ArrayDataModule, trainer: Trainer) -> dict[str, float]:
    """Scores of both test sets, and the ratio of the epistemic uncertainties."""
    names = ("accuracy", "nll", "ece") if datamodule.num_classes else ("rmse", "nll", "coverage")
    results = trainer.test(method, list(datamodule.test_sets().values()), verbose=False)
    row = {}
    for index, (label, result) in enumerate(zip(("in", "out"), results, strict=True)):
        row |= {f"{name} {label}": result[f"test_{name}/dataloader_idx_{index}"] for name in names}
    inside, outside = (
        method.predict(x, seed=0).as_dict()["epistemic_uct"].mean(0) for x in (datamodule.X_test, datamodule.X_ood)
    )
    detection = ood_detection(method, datamodule.test_dataloader(), datamodule.ood_dataloader(), score="epistemic_uct")
    return row | {"ratio": float((outside / inside).mean()), "AUROC": detection.auroc}


def main() -> None:
    """Prints a table for each problem, and draws one method of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, each with data of its own")
    parser.add_argument("--epochs", type=int, help="instead of the number of the problem")
    parser.add_argument("--figures", type=Path, help="folder for a figure of each problem, of seed 0")
    arguments = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    runs = [(p, m, s) for p in arguments.problems for m in arguments.methods for s in range(arguments.seeds)]
    rows = []
    for problem_name, method_name, seed in tqdm(runs):
        problem = PROBLEMS[problem_name]
        start = time.process_time()
        method, datamodule, trainer = fit(method_name, problem, seed, arguments.epochs or problem.epochs)
        seconds = time.process_time() - start
        row = {"problem": problem_name, "method": method_name} | scores(method, datamodule, trainer)
        rows.append(row | {"seconds": seconds})
        tqdm.write(pd.DataFrame(rows[-1:]).round(4).to_string(index=False))
        if arguments.figures is not None and seed == 0 and method_name == problem.headline:
            figure = problem.draw(method, datamodule)
            figure.savefig(arguments.figures / f"problem_{problem_name}.png", dpi=100)
    for _, table in pd.DataFrame(rows).groupby("problem", sort=False):
        means = table.groupby(["problem", "method"], sort=False).mean().dropna(axis=1)
        print(means.round(4).to_string(), "\n")


if __name__ == "__main__":
    main()
