"""Time of a training step of a deep ensemble, as a ratio to that of a single network.

    python benchmarks/ensemble.py

A step is what a Trainer calls and does: `training_step` on batches that are ready, backward, and Adam. "whole fit" is
one epoch through a Trainer, with everything that it does besides, such as loading a batch for each member. "in turn"
are members one after the other in place of stacked. All are timed in turn, and a ratio is the median over rounds.
"""

import argparse
import logging
import time
import warnings
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import pandas as pd
import torch
from lightning import Trainer
from speed import resnet18
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from tqdm import tqdm

from lightning_vi import DeepEnsemble, Deterministic
from lightning_vi.backbones import MLP, LeNet
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood
from lightning_vi.methods import UQMethod

ADAM = partial(torch.optim.Adam, lr=1e-3)
WORKLOADS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Likelihood], tuple[int, ...], int]] = {
    "MLP 8-50-50-2, B 32": (partial(MLP, 8, [50, 50], 2), HeteroscedasticGaussian, (8,), 32),
    "MLP 8-50-50-1, learned noise, B 32": (partial(MLP, 8, [50, 50], 1), Gaussian, (8,), 32),
    "MLP 784-400-400-10, B 128": (partial(MLP, 784, [400, 400], 10), partial(Categorical, 10), (784,), 128),
    "LeNet, B 128": (LeNet, partial(Categorical, 10), (1, 28, 28), 128),
    "ResNet18, B 128": (partial(resnet18, 1.0), partial(Categorical, 10), (3, 32, 32), 128),
}


def data(name: str, batches: int) -> DataLoader[Any]:
    """Random data for a workload."""
    _, likelihood, shape, rows = WORKLOADS[name]
    x = torch.randn(batches * rows, *shape)
    y = torch.randn(len(x), 1) if likelihood().task == "regression" else torch.randint(10, (len(x),))
    return DataLoader(TensorDataset(x, y), batch_size=rows, shuffle=True)


def trainer(device: str) -> Trainer:
    """One that does nothing else than train."""
    return Trainer(
        max_epochs=1,
        accelerator=device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def make(name: str, members: int, **options: Any) -> UQMethod:
    """A single network, or an ensemble."""
    network, likelihood, _, _ = WORKLOADS[name]
    if members == 1:
        return Deterministic(network(), likelihood(), optimizer=ADAM)
    return DeepEnsemble(network(), likelihood(), num_members=members, optimizer=ADAM, **options)


def step_of(method: UQMethod, name: str, device: str) -> Callable[[], None]:
    """A training step; a fit of a few batches comes before it, so that the method knows its trainer."""
    loader = data(name, 2)
    trainer(device).fit(method, loader)
    method.to(device).train()
    optimizer = method.make_optimizer()
    batches = [[tensor.to(device) for tensor in batch] for batch in loader]

    def step() -> None:
        if isinstance(method, DeepEnsemble):
            method._other_batches = iter([(batches[1],) * (method.num_members - 1)])
        method.training_step(batches[0], 0).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(run: Callable[[], object], repeats: int, device: str) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    for _ in range(repeats):
        run()
    if device != "cpu":
        torch.get_device_module(device).synchronize()
    return (time.perf_counter() - start) / repeats


def measure(name: str, members: int, rounds: int, device: str) -> dict[str, Any]:
    """A row of the table."""
    repeats, batches = (50, 100) if name.startswith("MLP 8-") else (3, 10)
    loader = data(name, batches)
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "single": (step_of(make(name, 1), name, device), repeats),
        "stacked": (step_of(make(name, members), name, device), repeats),
        "in turn": (step_of(make(name, members, vectorization="loop"), name, device), repeats),
        "fit": (lambda: trainer(device).fit(make(name, 1), loader), 1),
        "fits": (lambda: trainer(device).fit(make(name, members), loader), 1),
    }
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(rounds):
        for key, (run, number) in runs.items():
            times[key].append(seconds(run, number, device))

    def ratio(over: str, under: str) -> float:
        return median(a / b for a, b in zip(times[over], times[under], strict=True))

    return {
        "workload": name,
        "single, ms": 1e3 * median(times["single"]),
        "step / single": ratio("stacked", "single"),
        "in turn / single": ratio("in turn", "single"),
        "whole fit / single": ratio("fits", "fit"),
    }


def main() -> None:
    """Prints a row for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS)[:-1], choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps"])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = [measure(name, arguments.members, arguments.rounds, arguments.device) for name in tqdm(arguments.workloads)]
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
