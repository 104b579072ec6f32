"""Classes in `FunctionSpaceVI`: the noise of the labels, on rows held out of the training rows.

    python benchmarks/concentrations.py --mnist path/to/mnist

Negative log-likelihood of a fifth of the rows, mean over seeds (standard error), of `Deterministic`, and of
`FunctionSpaceVI` with two and with four concentrations to choose from. Digits have 30 epochs, once with a tenth of the
labels drawn at random; moons have 100, once with a fifth of the labels flipped; the first 15,000 images of MNIST 5.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from lightning import Trainer, seed_everything
from sklearn.datasets import load_digits, make_moons
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from toy import silence
from tqdm import tqdm

from lightning_vi import Deterministic, FunctionSpaceVI
from lightning_vi.backbones import MLP, LeNet
from lightning_vi.compare.markdown import markdown_table
from lightning_vi.core import UQMethod
from lightning_vi.datamodules import MNISTDataModule
from lightning_vi.likelihoods import Categorical

CHOICES = ((0.1, 0.01), (0.1, 0.01, 0.001, 0.0001))
READERS = ("lightning_vi.kernels.classes", "lightning_vi.methods.variational.function_space_vi")


@dataclass(frozen=True)
class Problem:
    """Labeled rows, network and budget."""

    rows: Callable[[int], tuple[Tensor, Tensor]]
    network: Callable[[], nn.Module]
    num_classes: int
    epochs: int
    batch_size: int


def digits(seed: int, share: float) -> tuple[Tensor, Tensor]:
    """Handwritten digits of 8 x 8 pixels, with a share of random labels."""
    images, labels = load_digits(return_X_y=True)
    random = np.random.default_rng(seed)
    labels = np.where(random.random(len(labels)) < share, random.integers(10, size=len(labels)), labels)
    return torch.from_numpy(images / 16).float(), torch.from_numpy(labels)


def moons(seed: int, share: float) -> tuple[Tensor, Tensor]:
    """Two moons, with a share of flipped labels."""
    x, labels = make_moons(400, noise=0.3, random_state=seed)
    labels = labels ^ (np.random.default_rng(seed).random(len(labels)) < share)
    return torch.from_numpy(x).float(), torch.from_numpy(labels)


def problems(mnist: Path | None) -> dict[str, Problem]:
    """The problems whose data are at hand."""
    digit, moon = (lambda: MLP(64, [64], 10), 10, 30, 64), (lambda: MLP(2, [50], 2), 2, 100, 32)
    found = {
        "digits": Problem(lambda seed: digits(seed, 0.0), *digit),
        "digits, a tenth random": Problem(lambda seed: digits(seed, 0.1), *digit),
        "moons": Problem(lambda seed: moons(seed, 0.0), *moon),
        "moons, a fifth flipped": Problem(lambda seed: moons(seed, 0.2), *moon),
    }
    if mnist is not None:
        data = MNISTDataModule(mnist)
        data.setup("fit")
        found["MNIST"] = Problem(lambda _: (data.X_train[:15000], data.Y_train[:15000]), LeNet, 10, 5, 128)
    return found


def nll(problem: Problem, seed: int, make: Callable[[nn.Module, Categorical], UQMethod]) -> float:
    """Negative log-likelihood of the rows that are held out."""
    x, y = problem.rows(seed)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    held_out, seen = order[: len(x) // 5], order[len(x) // 5 :]
    seed_everything(seed, verbose=False)
    method = make(problem.network(), Categorical(problem.num_classes))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_epochs=problem.epochs, accelerator="cpu", enable_model_summary=False, **quiet)
    trainer.fit(method, DataLoader(TensorDataset(x[seen], y[seen]), problem.batch_size, shuffle=True))
    losses = [-method.predict(x[rows]).probs.gather(1, y[rows, None]).log() for rows in held_out.split(500)]
    return torch.cat(losses).mean().item()


def with_choice(problem: Problem, seed: int, choice: Sequence[float]) -> float:
    """The same of `FunctionSpaceVI` with concentrations to choose from."""
    with mock.patch.multiple(READERS[0], CONCENTRATIONS=choice), mock.patch.multiple(READERS[1], CONCENTRATIONS=choice):
        return nll(problem, seed, FunctionSpaceVI)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", type=Path, help="folder of the four idx files")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    silence()
    table = []
    for name, problem in tqdm(problems(options.mnist).items()):
        scores = [
            [nll(problem, seed, Deterministic), *(with_choice(problem, seed, choice) for choice in CHOICES)]
            for seed in range(options.seeds)
        ]
        means, errors = np.mean(scores, 0), np.std(scores, 0, ddof=1) / len(scores) ** 0.5
        table.append([name, *(f"{mean:.3f} ({error:.3f})" for mean, error in zip(means, errors, strict=True))])
    print(markdown_table(["", "`Deterministic`", *(", ".join(map(str, choice)) for choice in CHOICES)], table))


if __name__ == "__main__":
    main()
