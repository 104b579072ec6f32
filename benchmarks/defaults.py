"""Every method by default beside the plain network: toy problem, UCI sets and gaps, diabetes, digits and MNIST.

    python benchmarks/defaults.py --output_dir runs --uci UCI_Datasets --gaps UCI_gaps --mnist path/to/mnist

Methods have their defaults and the same number of epochs; only `num_mc_samples_train=1` is given on MNIST, where every
method then takes one pass in a step. Seeds are the splits of the UCI sets. Scores are test negative log-likelihoods,
in the targets' units, as means over seeds with standard errors; `*` marks those that are significantly worse than those
of `Deterministic` (paired t-test at 5%). MNIST images are scored as they are, rotated by 30 degrees, and shifted by
four pixels. Finished runs are kept in the output folder, and their scores in a CSV file: a second call runs only what
is missing in it, so that `--scores benchmarks/data/default_scores.csv` adds seeds to those of earlier calls. Delete the
rows of a method whose defaults change.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from toy import silence

from lightning_vi import IVON, SWAG, LastLayerVI, MeanFieldVI, MethodEnsemble, RankOneVI
from lightning_vi.backbones import MLP, LeNet
from lightning_vi.compare import Comparison, compare
from lightning_vi.compare.markdown import markdown_table
from lightning_vi.compare.store import Run
from lightning_vi.datamodules import (
    DiabetesDataModule,
    DigitsDataModule,
    MNISTDataModule,
    ToyHeteroscedasticDataModule,
    UCIDataModule,
)
from lightning_vi.functional import rotate_images, translate_images
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian, Likelihood

VARIATIONAL = (
    "MeanFieldVI",
    "LowRankVI",
    "MatrixVariateVI",
    "RadialVI",
    "RankOneVI",
    "AlphaDivergenceVI",
    "FunctionSpaceVI",
    "LatentVariableVI",
    "IVON",
    "LastLayerVI",
    "VBLL",
)
BASELINES = ("DeepEnsemble", "MCDropout", "SWAG", "Laplace", "SNGP")
REFERENCE = "Deterministic"
METHODS = (REFERENCE, *BASELINES, *VARIATIONAL)
KEY = ["problem", "method", "seed"]
ENSEMBLES = {
    f"{kind.__name__}, 5 members": partial(MethodEnsemble, member=kind)
    for kind in (MeanFieldVI, RankOneVI, IVON, LastLayerVI, SWAG)
}
"""Ensembles of posteriors, which `--methods` takes by these names."""
UCI = {"concrete": 100, "energy": 100, "yacht": 200, "power-plant": 20}
"""Epochs of each set, in batches of 64."""


@dataclass(frozen=True)
class Problem:
    """Data, network and budget.

    Attributes:
        data: Makes the datamodule of a seed.
        network: Makes the network.
        likelihood: Makes the likelihood.
        epochs: Length of a fit.
        seeds: Largest number of seeds.
        options: Options of all methods that take them.
        test_sets: Further test sets.
    """

    data: Callable[[int], Any]
    network: Callable[[Any], nn.Module]
    likelihood: Likelihood
    epochs: int
    seeds: int
    options: dict[str, Any] = field(default_factory=dict)
    test_sets: dict[str, Any] = field(default_factory=dict)


def uci_problems(folder: Path, suffix: str, epochs: dict[str, int]) -> dict[str, Problem]:
    """UCI sets, one layer of 50 units."""
    found = {}
    for name, length in epochs.items():
        path = folder / name / "data"
        seeds = len(list(path.glob("index_train_*.txt")))
        data = partial(UCIDataModule, path, batch_size=64)
        network = lambda datamodule: MLP(datamodule.n_inputs, [50], 2)  # noqa: E731
        found[name + suffix] = Problem(data, network, HeteroscedasticGaussian(), length, seeds)
    return found


def moved_test_set(degrees: float, pixels: int, datamodule: Any) -> DataLoader[Any]:
    """Test dataloader of images that are rotated, and moved to the right."""
    datamodule.setup("test")
    black = datamodule.X_test.min()
    images = translate_images(rotate_images(datamodule.X_test - black, degrees), pixels, 0) + black
    return DataLoader(TensorDataset(images, datamodule.Y_test), batch_size=500)


def digits_problem(epochs: int) -> Problem:
    """Handwritten digits of 8 x 8 pixels."""
    return Problem(
        lambda seed: DigitsDataModule(batch_size=64, split_seed=seed),
        lambda _: MLP(64, [64], 10),
        Categorical(10),
        epochs,
        20,
    )


def mnist_data(folder: Path, seed: int) -> MNISTDataModule:  # noqa: ARG001
    """Handwritten digits of 28 x 28 pixels, the same for each seed."""
    return MNISTDataModule(folder, batch_size=128)


def problems(arguments: argparse.Namespace) -> dict[str, Problem]:
    """The problems whose data are at hand."""
    regression = HeteroscedasticGaussian()
    found = {
        "toy": Problem(
            lambda _: ToyHeteroscedasticDataModule(batch_size=32, n_points=500),
            lambda _: MLP(1, [50, 50], 2),
            regression,
            150,
            20,
        ),
        "diabetes": Problem(
            lambda seed: DiabetesDataModule(batch_size=32, split_seed=seed),
            lambda _: MLP(10, [50], 2),
            regression,
            100,
            20,
        ),
        "digits": digits_problem(100),
        "digits, 30 epochs": digits_problem(30),
    }
    if arguments.uci is not None:
        found |= uci_problems(arguments.uci, "", UCI)
    if arguments.gaps is not None:
        found |= uci_problems(arguments.gaps, ", gaps", UCI)
    if arguments.mnist is not None:
        found["MNIST"] = Problem(
            partial(mnist_data, arguments.mnist),
            lambda _: LeNet(),
            Categorical(10),
            5,
            20,
            {"num_mc_samples_train": 1},
            {"rotated": partial(moved_test_set, 30.0, 0), "shifted": partial(moved_test_set, 0.0, 4)},
        )
    return found


def read_scores(path: Path) -> pd.DataFrame:
    """The scores so far, a row for each problem, method, seed and test set."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=[*KEY, "test_set", "nll", "date"])


def add_scores(path: Path, name: str, comparison: Comparison) -> None:
    """Appends the scores of runs to a file."""
    rows = [
        {"problem": name, "method": run.method, "seed": run.seed, "test_set": row["test_set"]}
        | {"nll": float(f"{row['nll']:.6g}"), "date": run.environment["date"]}
        for run in comparison.runs
        for row in run.rows
    ]
    if rows:
        pd.DataFrame(rows).to_csv(path, mode="a", header=not path.exists(), index=False)


def run_missing(name: str, problem: Problem, arguments: argparse.Namespace) -> str:
    """Runs the seeds that the file of scores lacks, and returns a line on their environment."""
    done = set(read_scores(arguments.scores)[KEY].itertuples(index=False, name=None))
    seeds = range(min(arguments.seeds, problem.seeds))
    missing: dict[tuple[int, ...], list[str]] = {}
    for method in arguments.methods:
        lacking = tuple(seed for seed in seeds if (name, method, seed) not in done)
        missing.setdefault(lacking, []).append(method)
    missing.pop((), None)
    lines = []
    for lacking, methods in missing.items():
        comparison = compare(
            {method: ENSEMBLES.get(method, method) for method in methods},
            problem.data,
            problem.network,
            problem.likelihood,
            max_epochs=problem.epochs,
            seeds=lacking,
            common_options=problem.options,
            test_sets=problem.test_sets,
            output_dir=arguments.output_dir / name.replace(", ", "_"),
        )
        add_scores(arguments.scores, name, comparison)
        lines.append(f"{name}: {comparison.environment}")
        lines += [f"{name}, {run.method}, seed {run.seed} failed: {run.error}" for run in comparison.failures]
    return "\n\n".join(lines)


def scored(name: str, arguments: argparse.Namespace) -> Comparison:
    """The scores of a problem beside those of the plain network."""
    scores = read_scores(arguments.scores)
    scores = scores[(scores["problem"] == name) & (scores["seed"] < arguments.seeds)]
    known = [method for method in dict.fromkeys([*arguments.methods, REFERENCE]) if method in set(scores["method"])]
    runs = [
        Run("", method, int(seed), group[["test_set", "nll"]].to_dict("records"), {"nll": False})
        for method in known
        for seed, group in scores[scores["method"] == method].groupby("seed")
    ]
    return Comparison(runs, REFERENCE if REFERENCE in known else None)


def main() -> None:
    """Runs what is missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the runs and tables")
    parser.add_argument("--uci", type=Path, help="folder with one folder for each UCI set")
    parser.add_argument("--gaps", type=Path, help="the same with gap splits")
    parser.add_argument("--mnist", type=Path, help="folder of the four idx files")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds or splits")
    parser.add_argument("--problems", nargs="+", help="names of the problems; all that can be run by default")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), help='names, also "MeanFieldVI, 5 members"')
    parser.add_argument("--scores", type=Path, help="file of scores, which grows; scores.csv in the folder by default")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    arguments.scores = arguments.scores or arguments.output_dir / "scores.csv"
    silence()
    cells: dict[str, dict[str, str]] = {}
    environments: list[str] = []
    for name, problem in problems(arguments).items():
        if arguments.problems is not None and name not in arguments.problems:
            continue
        environments.append(run_missing(name, problem, arguments))
        for row in scored(name, arguments).summary(["nll"]).to_dict("records"):
            column = name if row["test_set"] == "test" else f"{name}, {row['test_set']}"
            mark = "*" if row["worse"] else ""
            cell = f"{row['mean']:.3f} ({row['standard_error']:.3f}){mark}"
            cells.setdefault(str(row["method"]), {})[column] = cell
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    rows = [[f"`{method}`", *(row.get(column, "") for column in columns)] for method, row in cells.items()]
    print(markdown_table(["method", *columns], rows), *filter(None, environments), sep="\n\n")


if __name__ == "__main__":
    main()
