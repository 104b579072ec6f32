"""Time and memory of training steps and predictions, as ratios to a deterministic network of the same shape.

    python benchmarks/speed.py

The floor of a training step is the network on the rows of all samples at once: forward, mean negative log-likelihood,
backward, and a step of Adam as a user writes it, or of Adam(fused=True). For LastLayerVI it is the network on the rows
of the batch. The floor of a prediction is one forward pass on the rows of all samples. "sequential" takes one sample
after the other: in training with the method's own layers, in prediction with the deterministic network. Predictions are
those of a steady state, where drawn weights are reused. All are timed in turn, and a ratio is the median over rounds of
the ratio in each; "spread" is half of the interquartile range of a row's least certain ratio. `--cpu-time` counts the
time of the process alone, for a machine that others use too; take one thread then, because a thread that waits for
another one counts as busy.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from lightning_vi import LastLayerVI, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian, Likelihood
from lightning_vi.methods import VariationalMethod
from lightning_vi.objectives import negative_elbo

NUM_DATA = 10_000
PREDICTION_SAMPLES = 32
SCALING_ROWS = 4000
MIN_ROUNDS = 3
SMALL = "MLP 8-50-50-2"
ESTIMATORS = ("auto", "local_reparameterization", "reparameterization", "flipout")
adam = partial(torch.optim.Adam, lr=1e-3)

Step = Callable[[], object]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Workload:
    """A network for a scale of its hidden widths, and what it is trained on."""

    network: Callable[[float], nn.Module]
    likelihood: Callable[[], Likelihood]
    input_shape: tuple[int, ...]
    rows: int
    samples: int
    method: type[VariationalMethod] = MeanFieldVI


@dataclass(frozen=True)
class Case:
    """Inputs of one step, in plain values, so that another process can receive them."""

    workload: str
    rows: int
    samples: int
    size: float = 1.0
    device: str = "cpu"
    options: dict[str, Any] = field(default_factory=dict)

    def network(self) -> nn.Module:
        """The deterministic network."""
        return WORKLOADS[self.workload].network(self.size).to(self.device)

    def likelihood(self) -> Likelihood:
        """The observation model."""
        return WORKLOADS[self.workload].likelihood().to(self.device)

    def method(self) -> VariationalMethod:
        """The network with stochastic weights."""
        return (
            WORKLOADS[self.workload]
            .method(
                self.network(),
                self.likelihood(),
                num_mc_samples_train=self.samples,
                num_data=NUM_DATA,
                optimizer=adam,
                **self.options,
            )
            .to(self.device)
        )

    def batch(self) -> tuple[Tensor, Tensor]:
        """Random inputs and targets."""
        likelihood = self.likelihood()
        x = torch.randn(self.rows, *WORKLOADS[self.workload].input_shape, device=self.device)
        if likelihood.task == "regression":
            return x, torch.randn(self.rows, likelihood.num_predictions, device=self.device)
        return x, torch.randint(likelihood.num_predictions, (self.rows,), device=self.device)

    def repeated_batch(self) -> tuple[Tensor, Tensor]:
        """The batch, once for each sample."""
        x, y = self.batch()
        copies = 1 if WORKLOADS[self.workload].method is LastLayerVI else self.samples
        return torch.cat([x] * copies), torch.cat([y] * copies)


def scaled(width: int, size: float) -> int:
    """A hidden width times a factor, at least 1."""
    return max(1, round(width * size))


def mlp(inputs: int, hidden: Sequence[int], outputs: int, size: float, dropout_p: float = 0.0) -> nn.Module:
    """A multilayer perceptron with scaled hidden widths."""
    return MLP(inputs, [scaled(width, size) for width in hidden], outputs, dropout_p=dropout_p)


def lenet(size: float) -> nn.Module:
    """Two 5x5 convolutions and two linear layers for images of 28x28 pixels, with scaled hidden widths."""
    first, second, third = (scaled(width, size) for width in (32, 64, 128))
    return nn.Sequential(
        nn.Conv2d(1, first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(49 * second, third),
        nn.ReLU(),
        nn.Linear(third, 10),
    )


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a connection around them."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Applies the block."""
        outputs: Tensor = (self.body(x) + self.shortcut(x)).relu()
        return outputs


def resnet18(size: float) -> nn.Module:
    """ResNet18 for images of 32x32 pixels (He et al., 2016), 11.2 million weights."""
    widths = [scaled(width, size) for width in (64, 64, 128, 256, 512)]
    parts: list[nn.Module] = [nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for stage, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        parts += [ResidualBlock(inputs, outputs, 2 if stage else 1), ResidualBlock(outputs, outputs, 1)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


WORKLOADS = {
    SMALL: Workload(partial(mlp, 8, [50, 50], 2), HeteroscedasticGaussian, (8,), rows=32, samples=10),
    "MLP 784-400-400-10": Workload(
        partial(mlp, 784, [400, 400], 10), partial(Categorical, 10), (784,), rows=128, samples=4
    ),
    "LeNet 5x5x32, 5x5x64, 128, 10": Workload(lenet, partial(Categorical, 10), (1, 28, 28), rows=64, samples=2),
    "ResNet18": Workload(resnet18, partial(Categorical, 10), (3, 32, 32), rows=32, samples=1),
    "LastLayerVI, MLP 784-400-400-10 with dropout": Workload(
        partial(mlp, 784, [400, 400], 10, dropout_p=0.2),
        partial(Categorical, 10),
        (784,),
        rows=128,
        samples=8,
        method=LastLayerVI,
    ),
}


def step_on(loss: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> Step:
    """A step of training on a loss."""

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def train(case: Case) -> Step:
    """A step on the method's evidence lower bound."""
    method, (x, y) = case.method(), case.batch()
    return step_on(lambda: method.elbo(x, y).loss, method.make_optimizer())


def train_sequentially(case: Case) -> Step:
    """The same with one forward pass for each sample."""
    method, (x, y) = case.method(), case.batch()

    def loss() -> Tensor:
        outputs = torch.cat([method.engine.training_samples(x, 1) for _ in range(case.samples)])
        return negative_elbo(method.likelihood.log_prob(outputs, y), method.engine.kl(), NUM_DATA).loss

    return step_on(loss, method.make_optimizer())


def train_floor(case: Case, **adam_options: Any) -> Step:
    """A step of the deterministic network on the rows of all samples."""
    network, likelihood, (x, y) = case.network(), case.likelihood(), case.repeated_batch()
    optimizer = adam(network.parameters(), **adam_options)
    return step_on(lambda: -likelihood.log_prob(network(x).unsqueeze(0), y).mean(), optimizer)


def predict(case: Case) -> Step:
    """A prediction, with the same networks in each call."""
    method, (x, _) = case.method(), case.batch()
    return lambda: method.predict(x, num_samples=case.samples)


def predict_floor(case: Case) -> Step:
    """The deterministic network on the rows of all samples."""
    network, (x, _) = case.network().eval(), case.repeated_batch()
    return torch.no_grad()(lambda: network(x))


def predict_sequentially(case: Case) -> Step:
    """As many forward passes of the deterministic network as there are samples."""
    network, (x, _) = case.network().eval(), case.batch()
    return torch.no_grad()(lambda: [network(x) for _ in range(case.samples)])


def seconds_of(step: Step, device: str, clock: Clock) -> float:
    """The time of one step, once the device has finished it."""
    start = clock()
    step()
    if device != "cpu":
        torch.get_device_module(device).synchronize()
    return clock() - start


def time_in_rounds(
    steps: dict[str, Step], device: str, rounds: int, budget: float, clock: Clock = time.perf_counter
) -> pd.DataFrame:
    """Median seconds of each step in each round.

    Args:
        steps: What to time in turn; each gets an equal share of a round's time, but at least one run.
        device: Where the steps run.
        rounds: The number of rounds, fewer where the budget ends before.
        budget: Seconds for all rounds together.
        clock: Tells the time in seconds.

    Returns:
        One row for each round.
    """
    for step in steps.values():
        seconds_of(step, device, clock)
    share = budget / rounds / len(steps)
    runs = {
        name: max(1, int(share / median(seconds_of(step, device, clock) for _ in range(2))))
        for name, step in steps.items()
    }
    rows: list[dict[str, float]] = []
    start = clock()
    while len(rows) < rounds and (len(rows) < MIN_ROUNDS or clock() - start < budget):
        order = list(steps)[:: -1 if len(rows) % 2 else 1]
        rows.append({name: median(seconds_of(steps[name], device, clock) for _ in range(runs[name])) for name in order})
    return pd.DataFrame(rows)


def ratios_row(case: Case, rounds: int, budget: float, clock: Clock) -> dict[str, Any]:
    """All ratios of one workload and estimator."""
    training = {
        "ours": train(case),
        "floor": train_floor(case),
        "floor, fused Adam": train_floor(case, fused=True),
        "sequential": train_sequentially(case),
    }
    many = replace(case, samples=PREDICTION_SAMPLES)
    prediction = {"ours": predict(many), "floor": predict_floor(many), "sequential": predict_sequentially(many)}
    row: dict[str, Any] = {"workload": case.workload, "estimator": case.options["estimator"]}
    spread = 0.0
    for name, steps in {"train": training, "predict": prediction}.items():
        seconds = time_in_rounds(steps, case.device, rounds, budget / 2, clock)
        row[f"{name}, ms"] = f"{1e3 * seconds['ours'].median():.3g}"
        for reference in list(steps)[1:]:
            ratio = seconds["ours"] / seconds[reference]
            row[f"{name} / {reference}"] = f"{ratio.median():.2f}"
            spread = max(spread, (ratio.quantile(0.75) - ratio.quantile(0.25)) / 2 / ratio.median())
    return row | {"spread": f"{spread:.0%}"}


def peak_bytes(device: str) -> int:
    """The most memory that this process has held; on the CPU its resident set."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss in a child starts at the peak of its parent on Linux
        return 1024 * next(int(line.split()[1]) for line in status.open() if line.startswith("VmHWM"))
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak(device: str) -> None:
    """Lets the peak start again at what is held now, where the system can."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_mib(make_step: Callable[[Case], Step], case: Case, num_steps: int, threads: int) -> float:
    """MiB that some steps need, networks and data included; to be called in a fresh process.

    Args:
        make_step: Makes the step.
        case: What it works on.
        num_steps: How often it is run.
        threads: As for `torch.set_num_threads`.

    Returns:
        The peak above what the process holds after the same on a tiny network.
    """
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    make_step(replace(case, rows=1, samples=2, size=1e-3))()
    forget_peak(case.device)
    before = peak_bytes(case.device)
    step = make_step(case)
    for _ in range(num_steps):
        step()
    return (peak_bytes(case.device) - before) / 2**20


def memory_table(cases: Iterable[Case], threads: int) -> pd.DataFrame:
    """Peak memory of training against the floor, and of a prediction with many samples against one with few.

    The processes give back what they free, so that the peak is what they hold and not what glibc keeps for later.
    """
    pairs = [
        (f"train {case.workload}, {case.options['estimator']}", (train, case, 3), "floor", (train_floor, case, 3))
        for case in cases
    ]
    few = replace(pairs[0][1][1], workload=SMALL, rows=100_000, samples=10)
    many = replace(few, samples=1000)
    pairs.append((f"predict {few.rows:,} rows, {SMALL}, S = 1000", (predict, many, 1), "S = 10", (predict, few, 1)))
    rows = []
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=spawn, max_tasks_per_child=1) as pool:
        for name, ours, reference, against in (bar := tqdm(pairs)):
            bar.set_description(name)
            mib, floor = (pool.submit(peak_mib, *probe, threads).result() for probe in (ours, against))
            ratio = f"{mib / floor:.2f}" if floor else "-"
            rows.append(
                {
                    "peak memory of": name,
                    "MiB": f"{mib:.1f}",
                    "reference": reference,
                    "its MiB": f"{floor:.1f}",
                    "ratio": ratio,
                }
            )
    return pd.DataFrame(rows)


def scaling_table(cases: dict[int, Case], unit: str, rounds: int, budget: float) -> pd.DataFrame:
    """Seconds of predictions, and how far they are from proportional to the keys of the cases."""
    case = next(iter(cases.values()))
    steps = {str(count): predict(each) for count, each in cases.items()}
    seconds = time_in_rounds(steps, case.device, rounds, budget).median()
    each = pd.Series([seconds[str(count)] / count for count in cases])
    return pd.DataFrame(
        {
            unit: list(cases),
            "seconds": [f"{seconds[str(count)]:.3g}" for count in cases],
            f"microseconds / {unit}": [f"{1e6 * value:.3g}" for value in each],
            "from linear": [f"{value / each.median() - 1:+.0%}" for value in each],
        }
    )


def show(table: pd.DataFrame, markdown: bool) -> None:
    """Prints a table of text."""
    if markdown:
        rows = [table.columns, ["---"] * len(table.columns), *table.to_numpy()]
        print("\n".join("| " + " | ".join(map(str, row)) + " |" for row in rows), end="\n\n")
    else:
        print(table.to_string(index=False), end="\n\n")


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--estimators", nargs="+", default=["auto"], choices=ESTIMATORS)
    parser.add_argument("--antithetic", action="store_true", help="antithetic noise")
    parser.add_argument("--vectorization", choices=["auto", "repeat", "vmap", "loop"])
    parser.add_argument("--size", type=float, default=1.0, help="factor of the hidden widths")
    parser.add_argument("--rows", type=int, help="rows of a batch; by default those of the workload")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda", "mps"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15, help="at most so many rounds")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row of the table, about")
    parser.add_argument("--cpu-time", action="store_true", help="time of the process alone")
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time; takes minutes")
    parser.add_argument("--scaling", action="store_true", help="predictions by samples and by rows instead")
    parser.add_argument("--markdown", action="store_true", help="tables for a document")
    arguments = parser.parse_args()
    if arguments.memory and arguments.device == "mps":
        parser.error("--memory needs cpu or cuda")
    return arguments


def main() -> None:
    """Prints the tables that the options ask for."""
    arguments = parse_arguments()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    options: dict[str, Any] = {"antithetic": True} if arguments.antithetic else {}
    if arguments.vectorization is not None:
        options["vectorization"] = arguments.vectorization
    cases = [
        Case(
            name,
            arguments.rows or spec.rows,
            spec.samples,
            arguments.size,
            arguments.device,
            options | {"estimator": estimator},
        )
        for (name, spec), estimator in itertools.product(WORKLOADS.items(), arguments.estimators)
        if name in arguments.workloads
    ]
    if arguments.memory:
        show(memory_table(cases, arguments.threads), arguments.markdown)
    if arguments.scaling:
        small = replace(cases[0], workload=SMALL, rows=SCALING_ROWS, samples=PREDICTION_SAMPLES)
        by_samples = {2**power: replace(small, samples=2**power) for power in range(3, 10)}
        by_rows = {1000 * 2**power: replace(small, rows=1000 * 2**power) for power in range(1, 8)}
        for each, unit in ((by_samples, "sample"), (by_rows, "row")):
            show(scaling_table(each, unit, arguments.rounds, arguments.seconds), arguments.markdown)
    if not (arguments.memory or arguments.scaling):
        clock = time.process_time if arguments.cpu_time else time.perf_counter
        rows = [ratios_row(case, arguments.rounds, arguments.seconds, clock) for case in tqdm(cases, file=sys.stderr)]
        show(pd.DataFrame(rows), arguments.markdown)
    device = torch.cuda.get_device_name() if arguments.device == "cuda" else arguments.device
    print(f"torch {torch.__version__}, {arguments.threads} threads, {device}, hidden widths x {arguments.size:g}")


if __name__ == "__main__":
    main()
