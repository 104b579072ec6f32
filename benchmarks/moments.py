"""One-pass prediction beside sampling: time, scores and epistemic standard deviations.

    python benchmarks/moments.py --uci shared/data/uci/yacht --mnist shared/data/mnist

Time is relative to a prediction with one sample, with which each prediction takes turns: CPU time of one thread on the
CPU, and real time on another device; the median of the rounds. AURC is the area under the risk-coverage curve of
squared errors or misclassifications, with the total uncertainty as score. "std" is the epistemic standard deviation,
relative to that of 512 other samples (4,096 for regression); for classes it is that of the probabilities.
"""

import argparse
import gzip
import logging
import math
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch
from lightning import Trainer, seed_everything
from speed import resnet18
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_vi import MeanFieldVI
from lightning_vi.backbones import MLP, LeNet
from lightning_vi.core import default_optimizer
from lightning_vi.datamodules import ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import Categorical, HeteroscedasticGaussian, Prediction
from lightning_vi.methods import UQMethod

Data = tuple[Tensor, Tensor, Tensor, Tensor]


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Runs the network."""
        return (self.body(x) + self.skip(x)).relu()


def resnet() -> nn.Module:
    """A small residual network."""
    stem = [nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()]
    blocks = [Block(8, 8, 1), Block(8, 16, 2), Block(16, 32, 2)]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))


class Transformer(nn.Module):
    """A transformer encoder on the rows of an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(28, 32)
        self.place = nn.Parameter(0.1 * torch.randn(28, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.0, "gelu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Runs the network."""
        output: Tensor = self.head(self.encoder(self.embed(x.squeeze(1)) + self.place).mean(1))
        return output


def toy() -> Data:
    """Training and test data of the toy problem."""
    data = ToyHeteroscedasticDataModule(batch_size=32, n_points=500)
    return data.X_train, data.Y_train, data.X_test, data.Y_test


def uci(folder: Path) -> Data:
    """Rows of a table, standardized."""
    (path,) = list(folder.glob("*.txt"))[:1] or list(folder.rglob("data.txt"))[:1]
    table = torch.from_numpy(np.loadtxt(path)).float()
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(0))]
    table = (table - table.mean(0)) / table.std(0).clamp_min(1e-6)
    split = int(0.9 * len(table))
    return table[:split, :-1], table[:split, -1:], table[split:, :-1], table[split:, -1:]


def mnist(folder: Path, num_train: int, num_test: int) -> Data:
    """The first images."""

    def read(name: str, offset: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((folder / name).read_bytes()), np.uint8, offset=offset).copy()

    parts: list[Tensor] = []
    for kind, count in (("train", num_train), ("t10k", num_test)):
        images = torch.from_numpy(read(f"{kind}-images-idx3-ubyte.gz", 16)).view(-1, 1, 28, 28)[:count]
        parts += [images.float() / 255, torch.from_numpy(read(f"{kind}-labels-idx1-ubyte.gz", 8))[:count].long()]
    return parts[0], parts[1], parts[2], parts[3]


def in_color(data: Data) -> Data:
    """Some of the images, with three equal channels."""
    x, y, test_x, test_y = data
    return x[:1000].repeat(1, 3, 1, 1), y[:1000], test_x[:48].repeat(1, 3, 1, 1), test_y[:48]


def trained(network: nn.Module, data: Data, epochs: int, batch_size: int, device: str) -> UQMethod:
    """A fitted method."""
    is_classifier = not data[1].is_floating_point()
    likelihood = Categorical(10) if is_classifier else HeteroscedasticGaussian()
    optimizer = partial(torch.optim.Adam, lr=2e-3) if is_classifier else default_optimizer
    method = MeanFieldVI(network, likelihood, num_mc_samples_train=2 if is_classifier else 10, optimizer=optimizer)
    loader = DataLoader(TensorDataset(*data[:2]), batch_size, shuffle=True)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_epochs=epochs, accelerator=device, devices=1, enable_model_summary=False, **options).fit(method, loader)
    return method.to(device).eval()


def passes(run: Callable[[], object], unit: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Time relative to another call, as the median of the ratios of runs that take turns; of more runs if short."""
    ratios: list[float] = []
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    total = 0.0
    while len(ratios) < repeats or (repeats > 1 and total < 0.3):
        marks = [clock()]
        for call in (unit, run):
            call()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            marks.append(clock())
        total += marks[2] - marks[1]
        ratios.append((marks[2] - marks[1]) / (marks[1] - marks[0]))
    return median(ratios)


def scores(prediction: Prediction, log_prob: Tensor, y: Tensor) -> tuple[float, float, float]:
    """NLL, ECE (of classes) and AURC."""
    nll = -(log_prob.logsumexp(0) - math.log(len(log_prob))).mean().item()
    if prediction.probs is None:
        losses, score = (y - prediction.mean).square()[:, 0], prediction.total_var[:, 0]
        ece = math.nan
    else:
        confidence, label = prediction.probs.max(1)
        hits = (label == y).float()
        bins = (confidence * 15).long().clamp_max(14)
        gaps = torch.zeros(15, device=y.device).index_add(0, bins, confidence - hits)
        ece = (gaps.abs().sum() / len(y)).item()
        losses, score = 1 - hits, 1 - confidence
    risk = losses[score.argsort()].cumsum(0) / torch.arange(1, len(losses) + 1, device=losses.device)
    return nll, ece, risk.mean().item()


@torch.no_grad()
def rows(name: str, method: UQMethod, x: Tensor, y: Tensor, repeats: int) -> Iterator[str]:
    """Rows of the table for one method."""
    is_regression = y.is_floating_point()
    reference = method.predict(x, num_samples=4096 if is_regression else 512, seed=1).epistemic_var.sqrt().mean()
    unit = partial(method.predict, x, num_samples=1)
    sizes = (4, 32, 256, 4096) if is_regression else (4, 32, 256)
    for label, size, approximation in [
        ("one pass", 1, "moments"),
        *((f"S = {size}", size, "sampling") for size in sizes),
    ]:
        prediction = method.predict(x, num_samples=size, approximation=approximation)
        inputs = method.predictive_distribution(x, size, method.noise.seed, approximation).metric_inputs(y)
        nll, ece, aurc = scores(prediction, inputs["log_prob"], y)
        run = partial(method.predict, x, num_samples=size, approximation=approximation)
        time_taken = passes(run, unit, 1 if size > 32 else repeats, x.device)
        std = prediction.epistemic_var.sqrt().mean() / reference
        shown = "" if math.isnan(ece) else f"{ece:.4f}"
        yield f"| {name} | {label} | {time_taken:.1f} | {nll:.4f} | {shown} | {aurc:.4f} | {std:.2f} |"


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uci", type=Path)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--only", default="", help="part of the names of the rows")
    parser.add_argument("--repeats", type=int, default=7, help="rounds of a measurement")
    parser.add_argument("--device", default="cpu", help="device of the fits and predictions")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    print("| data and network | prediction | time | NLL | ECE | AURC | std |\n|---|---|---|---|---|---|---|")
    problems: list[tuple[str, Callable[[], nn.Module], Callable[[], Data], int, int]] = [
        ("toy, MLP", lambda: MLP(1, [50, 50], 2), toy, options.epochs, 32),
    ]
    if options.uci:
        table = uci(options.uci)
        name = f"{options.uci.name}, MLP"
        problems.append((name, lambda: MLP(table[0].shape[1], [50], 2), lambda: table, options.epochs, 32))
    if options.mnist:
        images = mnist(options.mnist, options.images, options.images // 8)
        networks = {"LeNet": LeNet, "residual network": resnet, "transformer": Transformer}
        for name, network in networks.items():
            problems.append((f"MNIST, {name}", network, lambda: images, max(1, options.epochs // 20), 32))
        problems.append(("MNIST, ResNet18", lambda: resnet18(0.25), lambda: in_color(images), 1, 32))
    for name, network, make, epochs, batch_size in problems:
        if options.only not in name:
            continue
        seed_everything(0, verbose=False)
        data = make()
        method = trained(network(), data, epochs, batch_size, options.device)
        for row in rows(name, method, data[2].to(options.device), data[3].to(options.device), options.repeats):
            print(row, flush=True)


if __name__ == "__main__":
    main()
