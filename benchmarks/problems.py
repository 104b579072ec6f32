"""Problems of differential equations and waves: methods by default, inside and outside of the range of training.

    python benchmarks/problems.py --output_dir runs --figures docs/images

Each method is fitted with its defaults to the training functions and scored on test functions with parameters in the
same ranges ("test") and outside of them ("outside"). "ratio" is the mean epistemic std outside over that inside, the
mean mutual information for classification; the AUROC is that of the detection of rows outside by their epistemic
uncertainty. Only `num_mc_samples_train=2` and `num_mc_samples_test=50` are given. Each seed has data of its own.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from problem_figures import draw_bar, draw_curves, draw_plates, draw_transport, draw_waves
from torch import nn
from torch.utils.data import DataLoader
from toy import silence

from lightning_vi.backbones import MLP, FourierFeatures, ResidualMLP
from lightning_vi.compare import compare
from lightning_vi.datamodules import (
    ADR1DDataModule,
    ArrayDataModule,
    ElasticBar1DDataModule,
    Heat2DDataModule,
    Transport2DDataModule,
    WavesDataModule,
)
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood
from lightning_vi.methods import UQMethod

METHODS = (
    "Deterministic",
    "DeepEnsemble",
    "MCDropout",
    "SWAG",
    "Laplace",
    "SNGP",
    "LastLayerVI",
    "VBLL",
    "MeanFieldVI",
    "RadialVI",
    "RankOneVI",
    "IVON",
)


@dataclass(frozen=True)
class Problem:
    """Data, network, likelihood, budget and figure of a problem."""

    data: Callable[..., ArrayDataModule]
    network: Callable[[], nn.Module]
    likelihood: Likelihood
    epochs: int
    draw: Callable[[UQMethod, Any], Any]
    headline: str = "MeanFieldVI"


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
        HeteroscedasticGaussian(),
        30,
        draw_curves,
    ),
    "elastic_bar1d": Problem(
        partial(ElasticBar1DDataModule, batch_size=128),
        partial(MLP, 3, [64, 64], 2, activation_fn=nn.SiLU()),
        Gaussian(num_targets=2),
        30,
        draw_bar,
    ),
    "transport2d": Problem(
        partial(Transport2DDataModule, batch_size=512),
        partial(MLP, 5, [96, 96], 4, activation_fn=nn.SiLU()),
        HeteroscedasticGaussian(num_targets=2),
        10,
        draw_transport,
    ),
    "heat2d": Problem(
        partial(Heat2DDataModule, batch_size=32), plate_network, Categorical(2), 60, draw_plates, "LastLayerVI"
    ),
    "waves": Problem(
        partial(WavesDataModule, batch_size=128), wave_network, Gaussian(), 150, draw_waves, "LastLayerVI"
    ),
}


def outside(datamodule: ArrayDataModule) -> DataLoader[Any]:
    """Labeled rows out of distribution."""
    return datamodule.ood_dataloader()


def epistemic_ratio(method: UQMethod, datamodule: ArrayDataModule) -> float:
    """Mean epistemic uncertainty outside over that inside, averaged over the targets."""
    inputs = (datamodule.X_test, datamodule.X_ood)
    inside, out = (method.predict(x, seed=0).as_dict()["epistemic_uct"].mean(0) for x in inputs)
    return float((out / inside).mean())


def main() -> None:
    """Prints a table for each problem, and draws one method of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, help="folder in which finished runs are kept")
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds, each with data of its own")
    parser.add_argument("--figures", type=Path, help="folder for a figure of each problem, of seed 0")
    arguments = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    for name in arguments.problems:
        problem = PROBLEMS[name]

        def draw(method_name: str, seed: int, method: Any, datamodule: Any, name: str = name) -> None:
            if arguments.figures is not None and seed == 0 and method_name == PROBLEMS[name].headline:
                figure = PROBLEMS[name].draw(method, datamodule)
                figure.savefig(arguments.figures / f"problem_{name}.png", dpi=100)

        table = compare(
            arguments.methods,
            lambda seed, make=problem.data: make(data_seed=seed),
            lambda _, make=problem.network: make(),
            problem.likelihood,
            max_epochs=problem.epochs,
            seeds=arguments.seeds,
            common_options={"num_mc_samples_train": 2, "num_mc_samples_test": 50},
            test_sets={"outside": outside},
            ood_sets={"outside, detected": outside},
            measures={"ratio": epistemic_ratio},
            visit=draw,
            output_dir=None if arguments.output_dir is None else arguments.output_dir / name,
        )
        scores = ["accuracy", "ece"] if isinstance(problem.likelihood, Categorical) else ["rmse", "coverage"]
        print(f"## {name}\n\n{table.to_markdown([*scores, 'nll', 'ood_auroc_epistemic', 'ratio'], costs=False)}")


if __name__ == "__main__":
    main()
