"""Fits to the end beside fits that stop early, on rows held out of the training data.

    python benchmarks/stopping.py --uci path/to/UCI_Datasets --results stopping.csv

A fifth of the training rows is held out and scored, and 15% of the others are validation rows. "stopped" ends when the
validation NLL has not fallen for a tenth of the epochs, and takes the checkpoint with the lowest one; "to the end"
takes the last weights. Networks have one layer of 50 units, batches 32 rows, and fits the length that `lightning-vi
init` chooses. Scores are negative log-likelihoods. Finished fits are kept in the file of results.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ablation import Problem, problems
from lightning import Trainer, seed_everything
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset
from toy import silence
from tqdm import tqdm

from lightning_vi import IVON, SGHMC, SWAG, LastLayerVI, MeanFieldVI, RankOneVI
from lightning_vi.core import UQMethod

STEPS: dict[Callable[..., UQMethod], int] = dict.fromkeys([MeanFieldVI, IVON, SGHMC, LastLayerVI, RankOneVI], 10_000)
STEPS[SWAG] = 2_000
METHODS = {str(getattr(kind, "__name__", "")): kind for kind in STEPS}
SETS = ("concrete", "energy", "yacht", "diabetes")
KEY = ["method", "data", "seed", "fit"]


def score(problem: Problem, name: str, seed: int, fit: str) -> float:
    """Negative log-likelihood of the held-out rows after one fit."""
    x, y = problem.rows(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    held_out, rest = order.tensor_split([len(x) // 5])
    validation, kept = rest.tensor_split([len(rest) * 15 // 100])
    training, *scored = (TensorDataset(x[rows], y[rows]) for rows in (kept, validation, held_out))
    loader = DataLoader(training, 32, shuffle=True)
    val_loader, held_loader = (DataLoader(each, 1024) for each in scored)
    kind = METHODS[name]
    epochs = min(max((10_000 if fit == "stopped" else STEPS[kind]) // len(loader), 20), 500)
    seed_everything(seed, verbose=False)
    method = kind(problem.network(x.shape[1]), problem.likelihood())
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(folder, monitor="val_nll")
        stopping = [EarlyStopping("val_nll", patience=max(10, epochs // 10)), best] if fit == "stopped" else []
        make_trainer = partial(Trainer, logger=False, enable_progress_bar=False, enable_model_summary=False)
        trainer = make_trainer(max_epochs=epochs, callbacks=stopping, enable_checkpointing=fit == "stopped")
        trainer.fit(method, loader, val_loader)
        path = best.best_model_path if fit == "stopped" else None
        (scores,) = trainer.test(method, held_loader, ckpt_path=path, verbose=False, weights_only=True)
    return float(scores["test_nll"])


def main() -> None:
    """Runs what is missing in the file of results, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uci", type=Path, required=True, help="folder with one folder for each UCI set")
    parser.add_argument("--results", type=Path, default=Path("stopping.csv"), help="file of results, which grows")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    silence()
    found = problems(arguments.uci)
    done = pd.read_csv(arguments.results) if arguments.results.exists() else pd.DataFrame(columns=KEY)
    finished = set(done[KEY].itertuples(index=False, name=None))
    wanted = [
        (method, data, seed, fit)
        for method in arguments.methods
        for seed in range(arguments.seeds)
        for data in SETS
        for fit in ("stopped", "to the end")
    ]
    for method, data, seed, fit in tqdm([row for row in wanted if row not in finished]):
        line = pd.DataFrame([[method, data, seed, fit, score(found[data], method, seed, fit)]], columns=[*KEY, "nll"])
        line.to_csv(arguments.results, mode="a", header=not arguments.results.exists(), index=False)
    rows = pd.read_csv(arguments.results).groupby(["method", "fit", "data"], sort=False)["nll"]
    cells = rows.mean().map("{:.3f}".format) + rows.sem().map(" ({:.3f})".format)
    print(cells.reset_index().pivot_table("nll", ["method", "fit"], "data", "first", sort=False).to_string())


if __name__ == "__main__":
    main()
