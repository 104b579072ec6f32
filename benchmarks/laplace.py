"""The time of Laplace's last-layer fit over that of an epoch of forward passes of the same network.

    python benchmarks/laplace.py

An epoch of forward passes runs the network in evaluation mode without gradients over the same batches of 128 rows,
10,000 rows in all, which lie in memory. `fit_posterior` does that too, measures the curvature, takes its eigenvalues
and, as by default, chooses the prior. With `--loader` both read the rows from a DataLoader instead. The two are
measured in turn, and a ratio is the median over rounds of the ratio in each.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from lightning_vi import Laplace
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian, Likelihood

ROWS, BATCH = 10_000, 128
WORKLOADS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Likelihood], int, tuple[str, ...]]] = {
    "MLP 8-50-50-2": (
        lambda: MLP(8, [50, 50], 2), HeteroscedasticGaussian, 8, ("kronecker", "per_output", "full", "diagonal")
    ),
    "MLP 784-400-400-10": (
        lambda: MLP(784, [400, 400], 10), lambda: Categorical(10), 784, ("kronecker", "per_output", "diagonal")
    ),
}  # fmt: skip
"""Network, likelihood, width of the input, and structures; a full matrix of the second has 4010 columns."""


def data(likelihood: Likelihood, width: int) -> TensorDataset:
    """Random rows."""
    x = torch.randn(ROWS, width)
    if likelihood.task == "regression":
        return TensorDataset(x, torch.randn(ROWS, 1))
    return TensorDataset(x, torch.randint(likelihood.num_predictions, (ROWS,)))


def forward_passes(network: nn.Module, batches: Iterable[Any]) -> None:
    """One epoch."""
    with torch.no_grad():
        for x, _ in batches:
            network(x)


def seconds(step: Callable[[], None]) -> float:
    """Time of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(name: str, structure: Any, rounds: int, from_loader: bool) -> dict[str, Any]:
    """One row of the table."""
    network, likelihood, width, _ = WORKLOADS[name]
    method = Laplace(network(), likelihood(), structure=structure).eval()
    loader = DataLoader(data(method.likelihood, width), batch_size=BATCH)
    batches = loader if from_loader else list(loader)
    floors, ratios = [], []
    for index in range(rounds + 2):
        floor = seconds(lambda: forward_passes(method.backbone, batches))
        fit = seconds(lambda: method.fit_posterior(batches))
        if index >= 2:
            floors.append(floor)
            ratios.append(fit / floor)
    spread = (statistics.quantiles(ratios, n=4)[2] - statistics.quantiles(ratios, n=4)[0]) / 2
    return {
        "network": name,
        "structure": structure,
        "forward passes, ms": f"{1e3 * statistics.median(floors):.1f}",
        "fit / forward passes": f"{statistics.median(ratios):.2f}",
        "half the interquartile range": f"{spread:.2f}",
    }


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--loader", action="store_true", help="read the rows from a DataLoader in each epoch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    pairs = [(name, structure) for name, (*_, structures) in WORKLOADS.items() for structure in structures]
    rows = [measure(name, structure, arguments.rounds, arguments.loader) for name, structure in tqdm(pairs)]
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    main()
