"""Time of a training step of an ensemble, as a ratio to that of a single network or method.

    python benchmarks/ensemble.py
    python benchmarks/ensemble.py --members_are MeanFieldVI --cpu_time

Members are networks in a `DeepEnsemble`, or methods in a `MethodEnsemble`, all with their defaults. A step is what a
Trainer calls and does: `training_step` on batches that are ready, backward, clipping, and the optimizer. "whole fit" is
one epoch through a Trainer, with everything that it does besides, such as loading a batch for each member. "in turn"
are members one after the other in place of stacked. All are timed in turn, and a ratio is the median over rounds.
"predict" is a prediction for 512 rows over one by a single method with as many samples as all members draw.
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

from lightning_vi import IVON, SWAG, DeepEnsemble, Deterministic, MeanFieldVI, MethodEnsemble, RankOneVI
from lightning_vi.backbones import MLP, LeNet
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood

MEMBERS: dict[str, Any] = {kind.__name__: kind for kind in (Deterministic, MeanFieldVI, RankOneVI, SWAG, IVON)}
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


def make(name: str, member: str, members: int, **options: Any) -> Any:
    """A single network or method, or an ensemble."""
    network, likelihood, _, _ = WORKLOADS[name]
    if members == 1:
        return MEMBERS[member](network(), likelihood())
    if member == "Deterministic":
        return DeepEnsemble(network(), likelihood(), num_members=members, **options)
    return MethodEnsemble(network(), likelihood(), member=MEMBERS[member], num_members=members, **options)


def step_of(method: Any, name: str, device: str) -> Callable[[], None]:
    """A training step; a fit of a few batches comes before it, so that the method knows its trainer."""
    loader = data(name, 2)
    fitting = trainer(device)
    fitting.fit(method, loader)
    method.to(device).train()
    optimizer = fitting.optimizers[0]
    optimizer.load_state_dict(optimizer.state_dict())  # moves its state, which the end of a fit leaves on the CPU
    batches = [[tensor.to(device) for tensor in batch] for batch in loader]
    if isinstance(method, MethodEnsemble):
        method._is_decided = method.vectorization == "loop"

    def step() -> None:
        if isinstance(method, DeepEnsemble | MethodEnsemble):
            method._other_batches = iter([(batches[1],) * (method.num_members - 1)])
        method.training_step(batches[0], 0).backward()
        method.configure_gradient_clipping(optimizer)
        optimizer.step()
        optimizer.zero_grad()

    return step


def seconds(run: Callable[[], object], repeats: int, device: str, clock: Callable[[], float]) -> float:
    """Seconds of one run."""
    start = clock()
    for _ in range(repeats):
        run()
    if device != "cpu":
        torch.get_device_module(device).synchronize()
    return (clock() - start) / repeats


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """A row of the table."""
    member, members, device = arguments.members_are, arguments.members, arguments.device
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    repeats, batches = (50, 100) if name.startswith("MLP 8-") else (3, 10)
    loader = data(name, batches)
    methods = [
        make(name, member, 1),
        make(name, member, members),
        make(name, member, members, vectorization="loop"),
    ]
    single, stacked, _ = methods
    steps = [step_of(method, name, device) for method in methods]
    x = torch.randn(512, *WORKLOADS[name][2], device=device)
    num_samples = members * single.num_mc_samples_test
    runs: dict[str, tuple[Callable[[], object], int]] = {
        "single": (steps[0], repeats),
        "stacked": (steps[1], repeats),
        "in turn": (steps[2], repeats),
        "fit": (lambda: trainer(device).fit(make(name, member, 1), loader), 1),
        "fits": (lambda: trainer(device).fit(make(name, member, members), loader), 1),
        "predict": (lambda: stacked.predict(x), 3),
        "predict from one": (lambda: single.predict(x, num_samples), 3),
    }
    times: dict[str, list[float]] = {key: [] for key in runs}
    for _ in range(arguments.rounds):
        for key, (run, number) in runs.items():
            times[key].append(seconds(run, number, device, clock))

    def ratio(over: str, under: str) -> float:
        return median(a / b for a, b in zip(times[over], times[under], strict=True))

    return {
        "workload": name,
        "single, ms": 1e3 * median(times["single"]),
        "step / single": ratio("stacked", "single"),
        "in turn / single": ratio("in turn", "single"),
        "whole fit / single": ratio("fits", "fit"),
        "predict / single": ratio("predict", "predict from one"),
    }


def main() -> None:
    """Prints a row for each workload."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS)[:-1], choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--members_are", default="Deterministic", choices=list(MEMBERS))
    parser.add_argument("--cpu_time", action="store_true", help="processor time, on a machine that others use too")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps"])
    parser.add_argument("--members", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    rows = [measure(name, arguments) for name in tqdm(arguments.workloads)]
    print(pd.DataFrame(rows).round(2).to_string(index=False))


if __name__ == "__main__":
    main()
