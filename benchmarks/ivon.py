"""The time of an IVON step over that of a fused AdamW step, on the network 784-400-400-10 with batches of 128.

    python benchmarks/ivon.py
    python benchmarks/ivon.py --network ResNet18 --device cuda

A step is forward, backward and update; all are measured in turn, and the median of the ratios is printed. The reference
optimizer, ivon-opt, is among them where it is installed. `--cpu-time` counts the time of the process alone, for a
machine that others use too; take one thread then, because a thread that waits for another one counts as busy.
"""

import argparse
import importlib.machinery
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from speed import resnet18
from torch import nn
from torch.nn import functional as F
from tqdm import trange

from lightning_vi import IVON
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical
from lightning_vi.optim import IVONOptimizer

BATCH, NUM_DATA = 128, 60_000
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP": (lambda: MLP(784, [400, 400], 10), (784,)),
    "ResNet18": (lambda: resnet18(1.0), (3, 32, 32)),
}


def adamw_step(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of the floor, with torch's fastest implementation."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def ivon_step(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of the optimizer alone."""
    optimizer = IVONOptimizer(network.parameters(), lr=0.1, ess=NUM_DATA)

    def step() -> None:
        optimizer.zero_grad()
        with optimizer.sampled_params(train=True):
            F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def reference() -> ModuleType | None:
    """The module of ivon-opt, which has the name of this file; None if it is not installed."""
    here = Path(__file__).resolve().parent
    spec = importlib.machinery.PathFinder.find_spec("ivon", [path for path in sys.path if Path(path).resolve() != here])
    if spec is None or spec.loader is None:
        return None
    module = sys.modules["ivon"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def reference_step(package: ModuleType, network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of ivon-opt."""
    optimizer = package.IVON(network.parameters(), lr=0.1, ess=NUM_DATA)

    def step() -> None:
        optimizer.zero_grad()
        with optimizer.sampled_params(train=True):
            F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def method_step(network: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of the method, in a plain loop."""
    method = IVON(network, Categorical(10), num_data=NUM_DATA).to(x.device)
    optimizer = method.make_optimizer()

    def step() -> None:
        optimizer.zero_grad()
        method.elbo(x, y).loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None], clock: Callable[[], float], device: torch.device) -> float:
    """Time of one step."""
    start = clock()
    step()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return clock() - start


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), default="MLP")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help="time of the process alone")
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    make, shape = NETWORKS[arguments.network]
    device = torch.device(arguments.device)
    x, y = torch.randn(BATCH, *shape, device=device), torch.randint(0, 10, (BATCH,), device=device)
    steps: dict[str, Callable[[], None]] = {
        "IVONOptimizer": ivon_step(make().to(device), x, y),
        "IVON": method_step(make().to(device), x, y),
    }
    if (package := reference()) is not None:
        steps["ivon-opt"] = reference_step(package, make().to(device), x, y)
    floor = adamw_step(make().to(device), x, y)
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    floors = []
    for index in trange(arguments.rounds + 20):
        floor_seconds = seconds(floor, clock, device)
        times = {name: seconds(step, clock, device) for name, step in steps.items()}
        if index >= 20:
            floors.append(floor_seconds)
            for name, value in times.items():
                ratios[name].append(value / floor_seconds)
    print(f"fused AdamW {1e3 * statistics.median(floors):.2f} ms")
    for name, values in ratios.items():
        print(f"{name} / fused AdamW {statistics.median(values):.2f}")


if __name__ == "__main__":
    main()
