"""The time of an IVON step over that of an AdamW step, on the network 784-400-400-10 with batches of 128.

    python benchmarks/ivon.py

A step is forward, backward and update; the two are measured in turn, and the median of the ratios is printed.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F
from tqdm import trange

from lightning_vi import IVON
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical
from lightning_vi.optim import IVONOptimizer

BATCH, NUM_DATA = 128, 60_000


def adamw_step(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of the floor, with torch's fastest implementation."""
    network = MLP(784, [400, 400], 10)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def ivon_step(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of the optimizer alone."""
    network = MLP(784, [400, 400], 10)
    optimizer = IVONOptimizer(network.parameters(), lr=0.1, ess=NUM_DATA)

    def step() -> None:
        optimizer.zero_grad()
        with optimizer.sampled_params(train=True):
            F.cross_entropy(network(x), y).backward()
        optimizer.step()

    return step


def method_step(x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """A step of the method, in a plain loop."""
    method = IVON(MLP(784, [400, 400], 10), Categorical(10), num_data=NUM_DATA)
    optimizer = method.make_optimizer()

    def step() -> None:
        optimizer.zero_grad()
        method.elbo(x, y).loss.backward()
        optimizer.step()

    return step


def seconds(step: Callable[[], None]) -> float:
    """Time of one step."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def main() -> None:
    """Prints the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    x, y = torch.randn(BATCH, 784), torch.randint(0, 10, (BATCH,))
    steps: dict[str, Callable[[], None]] = {
        "IVONOptimizer": ivon_step(x, y),
        "IVON": method_step(x, y),
    }
    floor = adamw_step(x, y)
    ratios: dict[str, list[float]] = {name: [] for name in steps}
    floors = []
    for index in trange(arguments.rounds + 20):
        floor_seconds = seconds(floor)
        times = {name: seconds(step) for name, step in steps.items()}
        if index >= 20:
            floors.append(floor_seconds)
            for name, value in times.items():
                ratios[name].append(value / floor_seconds)
    print(f"AdamW {1e3 * statistics.median(floors):.2f} ms")
    for name, values in ratios.items():
        print(f"{name} / AdamW {statistics.median(values):.2f}")


if __name__ == "__main__":
    main()
