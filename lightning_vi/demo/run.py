"""Runs the demonstration and prints its tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from lightning_vi.backbones import MLP
from lightning_vi.compare import Comparison, compare
from lightning_vi.core import Predictor
from lightning_vi.demo.problems import PROBLEMS, Problem
from lightning_vi.evaluation import method_figures

QUICK_EPOCHS = 2


def run_demo(
    output_dir: str | Path = "outputs",
    *,
    quick: bool = False,
    every_method: bool = False,
    problems: Sequence[Problem] = PROBLEMS,
    console: Console | None = None,
) -> None:
    """Compares methods on each problem, prints a table per problem, and writes tables and figures.

    Each problem has a folder in `output_dir`, with the files of `lightning_vi.compare.compare` and a folder of figures
    for each method. All methods run with their defaults. Runs that were finished by an earlier call are not repeated.

    Args:
        output_dir: Folder for the files.
        quick: If True, train for two epochs only, as a smoke test.
        every_method: Whether to compare all methods, instead of the headline methods only.
        problems: The problems to run.
        console: Console for the tables. Default: standard output.
    """
    console = Console() if console is None else console
    output_dir = Path(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    for problem in problems:
        comparison = _run(problem, output_dir / problem.name, quick, every_method, console)
        console.print(_table(problem, comparison), "")
    console.print(f"Tables and figures: {output_dir}/{{{','.join(problem.name for problem in problems)}}}/")


def _run(problem: Problem, folder: Path, quick: bool, every_method: bool, console: Console) -> Comparison:
    def network(datamodule: Any) -> nn.Module:
        return MLP(datamodule.n_inputs, problem.n_hidden, problem.likelihood.num_outputs)

    def draw(name: str, seed: int, method: Predictor, datamodule: Any) -> None:  # noqa: ARG001
        own = folder / quote(name, safe=" +")
        own.mkdir(parents=True, exist_ok=True)
        for title, figure in method_figures(method, datamodule, title=name).items():
            figure.savefig(own / f"{title}.png", dpi=150)

    with one_thread():
        return compare(
            problem.methods(every=every_method),
            problem.data(),
            network,
            problem.likelihood,
            max_epochs=QUICK_EPOCHS if quick else problem.max_epochs,
            seeds=1,
            options=problem.options,
            visit=draw,
            output_dir=folder / "quick" if quick else folder,
            console=console,
        )


def _table(problem: Problem, comparison: Comparison) -> Table:
    table = Table(title=problem.title, title_justify="left")
    table.add_column("Method")
    for heading in (*problem.scores.values(), "Seconds"):
        table.add_column(heading, justify="right")
    for _, row in comparison.frame.iterrows():
        if row["error"]:
            table.add_row(row["method"], str(row["error"]))
        else:
            scores = (f"{row[key]:.3f}" for key in problem.scores)
            table.add_row(row["method"], *scores, f"{row['train_seconds']:.1f}")
    return table


@contextmanager
def one_thread() -> Iterator[None]:
    """Limits PyTorch to one thread, which is faster than several for networks this small."""
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(threads)
