"""Ablation of the defaults of mean-field variational inference, on rows held out of the training data.

    python benchmarks/ablation.py --uci path/to/UCI_Datasets --mnist path/to/mnist --results ablation.csv

Each row of the table changes one default of `MeanFieldVI`; "all former" changes all of them. The last rows are other
methods, some also with a former default. Scores are negative log-likelihoods at `kl_weight=1` of a fifth of the
training rows, which the fit does not see; test rows are not used. The toy problem has the network 1-50-50-2 and 150
epochs, the UCI sets and diabetes one layer of 50 units and 100 epochs (yacht 200), the digits one layer of 100 units
and 30 epochs, MNIST a LeNet and 5 epochs, and "MNIST, 2000 rows" one layer of 100 units and 30 epochs. `--changes`
also takes "METHOD, no burn-in" and "METHOD, burn-in over a third". Finished fits are kept in the file of results.
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
from lightning import Trainer, seed_everything
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toy import silence
from tqdm import tqdm

from lightning_vi import (
    IVON,
    AlphaDivergenceVI,
    Deterministic,
    FullRankVI,
    LastLayerVI,
    LatentVariableVI,
    LowRankVI,
    LowRankWeightsVI,
    MatrixVariateVI,
    MeanFieldVI,
    RadialVI,
    RankOneVI,
)
from lightning_vi.backbones import MLP, LeNet
from lightning_vi.compare.adjustments import adjusted
from lightning_vi.core import DEFAULT_LEARNING_RATE, UQMethod
from lightning_vi.datamodules import (
    DiabetesDataModule,
    DigitsDataModule,
    MNISTDataModule,
    ToyHeteroscedasticDataModule,
    UCIDataModule,
)
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian, Likelihood
from lightning_vi.priors import EmpiricalBayesPrior, GaussianPrior

UCI = {"concrete": 100, "energy": 100, "yacht": 200}
"""Epochs of each set."""
FORMER: dict[str, Any] = {
    "prior": GaussianPrior(),
    "init_std": 0.05,
    "kl_warmup_epochs": 0,
    "burnin_epochs": 0,
    "lr_scheduler": None,
    "optimizer": partial(torch.optim.Adam, lr=3e-3),
    "gradient_clip_val": 0,
}
ROWS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "prior N(0, 1)": {"prior": GaussianPrior()},
    "prior N(0, 2 / fan-in)": {"prior": GaussianPrior(std="fan_in")},
    "EmpiricalBayesPrior(beta=10)": {"prior": EmpiricalBayesPrior(beta=10.0)},
    "EmpiricalBayesPrior(beta=100)": {"prior": EmpiricalBayesPrior(beta=100.0)},
    "init_std=0.002": {"init_std": 0.002},
    "init_std=0.02": {"init_std": 0.02},
    "init_std=0.05": {"init_std": 0.05},
    "a quarter of the learning rate": {"rate": 0.25},
    "half the learning rate": {"rate": 0.5},
    "twice the learning rate": {"rate": 2.0},
    "constant learning rate": {"lr_scheduler": None},
    "no KL warm-up": {"kl_warmup_epochs": 0},
    "KL warm-up over a third": {"warmup": 0.33},
    "KL warm-up over two thirds": {"warmup": 0.67},
    "no burn-in": {},
    "burn-in over a tenth": {},
    "burn-in over a third": {},
    "burn-in over a half": {},
    "no gradient clipping": {"gradient_clip_val": 0},
    "antithetic=True": {"antithetic": True},
    "num_mc_samples_train=1": {"num_mc_samples_train": 1},
    "all former": FORMER,
    "Deterministic": {},
    "RankOneVI": {},
    "RankOneVI, weights at a rate of 0.003": {},
    "LastLayerVI": {},
    "LastLayerVI, features at a rate of 0.003": {},
    "LastLayerVI, burn-in over a third": {},
    "AlphaDivergenceVI": {},
    "AlphaDivergenceVI, constant alpha": {},
    "IVON": {},
    "IVON, former": {},
    "IVON, steps of at most 0.02": {},
    "LowRankWeightsVI": {},
    "LowRankWeightsVI, a rate of 0.03": {},
    "LowRankWeightsVI, factors of all layers": {},
    "LowRankWeightsVI, former": {},
}
BURNIN = {
    "no burn-in": 0.0,
    "burn-in over a tenth": 0.1,
    "burn-in over a fifth": 0.2,
    "burn-in over a quarter": 0.25,
    "burn-in over a third": 0.33,
    "burn-in over a half": 0.5,
}
"""Share of the epochs."""


@dataclass(frozen=True)
class Problem:
    """Training rows, a network and a budget.

    Attributes:
        rows: Inputs and targets of a seed.
        network: Makes the network from the number of inputs.
        likelihood: Makes the likelihood.
        epochs: Length of a fit.
        batch: Rows in a step.
    """

    rows: Callable[[int], tuple[Tensor, Tensor]]
    network: Callable[[int], nn.Module]
    likelihood: Callable[[], Likelihood]
    epochs: int
    batch: int


class Faster(MeanFieldVI):
    """Multiplies the default learning rate of the posterior."""

    rate = 1.0

    def learning_rate_factors(self) -> dict[nn.Parameter, float]:  # noqa: D102
        posterior = set(self.engine.parameters())
        return {p: f * (self.rate if p in posterior else 1.0) for p, f in super().learning_rate_factors().items()}


class SlowRankOneVI(RankOneVI):
    """Trains the weights at the rate of the default optimizer."""

    feature_factor = 1.0


class SlowLastLayerVI(LastLayerVI):
    """Trains the features at the rate of the default optimizer."""

    feature_factor = 1.0


class ConstantAlphaVI(AlphaDivergenceVI):
    """Has one alpha from the start."""

    def effective_alpha(self) -> float:  # noqa: D102
        return self.alpha


class SlowLowRankWeightsVI(LowRankWeightsVI):
    """Trains factors for classes at the rate of those for regressions."""

    @property
    def main_factor(self) -> float:  # noqa: D102
        return min(super().main_factor, 0.03 / DEFAULT_LEARNING_RATE)


class SlowMatrixVariateVI(MatrixVariateVI):
    """Trains posteriors for classes at the rate of those for regressions."""

    @property
    def main_factor(self) -> float:  # noqa: D102
        return super().main_factor * (0.5 if self.likelihood.has_bounded_gradient else 1.0)


class FasterFullRankVI(FullRankVI):
    """Trains its posterior at the rate of `MeanFieldVI`."""

    @property
    def main_factor(self) -> float:  # noqa: D102
        return 2 * super().main_factor


class AllLowRankWeightsVI(LowRankWeightsVI):
    """Has factors in all layers that become smaller."""

    max_share = 1.0


class FormerLowRankWeightsVI(SlowLowRankWeightsVI, AllLowRankWeightsVI):
    """Both of these."""


def former_ivon(num_data: int, num_steps: int) -> dict[str, Any]:
    """The former defaults of IVON: an initial std of 0.01, and steps of at most 0.06."""
    precision = 0.01**-2
    return {
        "lr": 0.3,
        "hess_init": precision / num_data,
        "betas": (0.9, 1 - 2 / num_steps),
        "clip_radius": 0.06 * num_data / (0.3 * (precision + 1)),
    }


def long_steps(num_data: int) -> dict[str, Any]:
    """Lets a step of IVON move a weight by 0.02 for any number of inputs, at the learning rate for classes."""
    return {"clip_radius": 0.02 * num_data / (0.0067**-2 + 1)}


OTHERS: dict[str, type[UQMethod]] = {
    "Deterministic": Deterministic,
    "RankOneVI": RankOneVI,
    "RankOneVI, weights at a rate of 0.003": SlowRankOneVI,
    "LastLayerVI": LastLayerVI,
    "LastLayerVI, features at a rate of 0.003": SlowLastLayerVI,
    "AlphaDivergenceVI": AlphaDivergenceVI,
    "AlphaDivergenceVI, constant alpha": ConstantAlphaVI,
    "IVON": IVON,
    "IVON, former": IVON,
    "IVON, steps of at most 0.02": IVON,
    "LowRankWeightsVI": LowRankWeightsVI,
    "LowRankWeightsVI, a rate of 0.03": SlowLowRankWeightsVI,
    "LowRankWeightsVI, factors of all layers": AllLowRankWeightsVI,
    "LowRankWeightsVI, former": FormerLowRankWeightsVI,
    "MatrixVariateVI": MatrixVariateVI,
    "MatrixVariateVI, half the rate for classes": SlowMatrixVariateVI,
    "LowRankVI": LowRankVI,
    "FullRankVI": FullRankVI,
    "FullRankVI, twice the rate": FasterFullRankVI,
    "RadialVI": RadialVI,
    "LatentVariableVI": LatentVariableVI,
}


def training_rows(datamodule: Any) -> tuple[Tensor, Tensor]:
    """Training rows of a datamodule."""
    datamodule.setup("fit")
    return datamodule.X_train, datamodule.Y_train


def uci_rows(folder: Path, split: int) -> tuple[Tensor, Tensor]:
    """Training rows of a split of a UCI set."""
    return training_rows(UCIDataModule(folder, split))


def mnist_rows(folder: Path, num_rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Some training images."""
    x, y = training_rows(MNISTDataModule(folder))
    chosen = np.random.default_rng(seed).permutation(len(x))[:num_rows]
    return x[chosen], y[chosen]


def problems(uci: Path | None, mnist: Path | None = None) -> dict[str, Problem]:
    """The problems of the table."""
    toy = Problem(
        lambda _: training_rows(ToyHeteroscedasticDataModule(n_points=500)),
        lambda _: MLP(1, [50, 50], 2),
        HeteroscedasticGaussian,
        150,
        32,
    )
    digits = Problem(
        lambda _: training_rows(DigitsDataModule()),
        lambda _: nn.Sequential(nn.Flatten(), MLP(64, [100], 10)),
        partial(Categorical, 10),
        30,
        64,
    )
    diabetes = Problem(
        lambda _: training_rows(DiabetesDataModule()),
        lambda num_inputs: MLP(num_inputs, [50], 2),
        HeteroscedasticGaussian,
        100,
        64,
    )
    found = {"toy": toy, "digits": digits, "diabetes": diabetes}
    if uci is not None:
        for name, epochs in UCI.items():
            found[name] = Problem(
                partial(uci_rows, uci / name / "data"),
                lambda num_inputs: MLP(num_inputs, [50], 2),
                HeteroscedasticGaussian,
                epochs,
                64,
            )
    if mnist is not None:
        classes = partial(Categorical, 10)
        found["MNIST"] = Problem(partial(mnist_rows, mnist, 60_000), lambda _: LeNet(), classes, 5, 128)
        found["MNIST, 2000 rows"] = Problem(
            partial(mnist_rows, mnist, 2500),
            lambda _: nn.Sequential(nn.Flatten(), MLP(784, [100], 10)),
            classes,
            30,
            128,
        )
    return found


def run(problem: Problem, name: str, seed: int) -> float:
    """Negative log-likelihood of the held-out rows after one fit."""
    x, y = problem.rows(seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    held_out, kept = order[: len(x) // 5], order[len(x) // 5 :]
    seed_everything(seed, verbose=False)
    method_name, _, stage = name.rpartition(", ")
    burnin = {}
    if stage in BURNIN:
        name, burnin = method_name or "defaults", {"burnin_epochs": int(BURNIN[stage] * problem.epochs)}
    options = ({key: {} for key in OTHERS} | ROWS)[name] | burnin
    clip = options.pop("gradient_clip_val", None)
    if "warmup" in options:
        options["kl_warmup_epochs"] = int(options.pop("warmup") * problem.epochs)
    network, likelihood = problem.network(x.shape[1]), problem.likelihood()
    rate = options.pop("rate", 1.0)
    if name == "IVON, former":
        options = former_ivon(len(kept), problem.epochs * -(-len(kept) // problem.batch))
    if name == "IVON, steps of at most 0.02":
        options = long_steps(len(kept))
    cls = OTHERS.get(name, Faster)
    network, likelihood, options = adjusted(cls, network, likelihood, options)
    method = cls(network, likelihood, **options)
    if isinstance(method, Faster):
        method.rate = rate
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=problem.epochs, gradient_clip_val=clip, enable_model_summary=False, **quiet)
    data = TensorDataset(x, y)
    trainer.fit(method, DataLoader(torch.utils.data.Subset(data, kept.tolist()), problem.batch, shuffle=True))
    held = DataLoader(torch.utils.data.Subset(data, held_out.tolist()), 1024)
    (scores,) = trainer.test(method, held, verbose=False)
    return float(scores["test_nll"])


def main() -> None:
    """Runs what is missing in the file of results, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--uci", type=Path, help="folder with one folder for each UCI set")
    parser.add_argument("--mnist", type=Path, help="folder of the four idx files")
    parser.add_argument("--results", type=Path, default=Path("ablation.csv"), help="file of results, which grows")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--problems", nargs="+", default=["toy", "digits", "concrete"], help="columns of the table")
    parser.add_argument("--changes", nargs="+", default=list(ROWS), help="rows of the table")
    arguments = parser.parse_args()
    silence()
    key = ["problem", "change", "seed"]
    done = pd.read_csv(arguments.results) if arguments.results.exists() else pd.DataFrame(columns=key)
    finished = set(done[key].itertuples(index=False, name=None))
    found = {
        name: problem
        for name, problem in problems(arguments.uci, arguments.mnist).items()
        if name in arguments.problems
    }
    wanted = [
        (problem, name, seed) for seed in range(arguments.seeds) for problem in found for name in arguments.changes
    ]
    for row in tqdm([row for row in wanted if row not in finished]):
        nll = run(found[row[0]], row[1], row[2])
        line = pd.DataFrame([dict(zip(key, row, strict=True)) | {"nll": nll}])
        line.to_csv(arguments.results, mode="a", header=not arguments.results.exists(), index=False)
    rows = pd.read_csv(arguments.results).groupby(["change", "problem"], sort=False)["nll"]
    cells = rows.mean().map("{:.3f}".format) + rows.sem().map(" ({:.3f})".format)
    print(cells.reset_index().pivot_table("nll", "change", "problem", "first", sort=False).to_string())


if __name__ == "__main__":
    main()
