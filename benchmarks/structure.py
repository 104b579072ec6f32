"""Shape of the code: calls and files on ten paths, class depth, forward passes, state, overrides and lines.

    PYTHONPATH=path/to/checkout python benchmarks/structure.py

Only the public API is used, so that the tables of two checkouts can be compared. A *call* is one call of a function of
the package; comprehensions are no functions. *Depth* is the largest number of the package's functions on the stack.
"""

import argparse
import ast
import logging
import subprocess
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import lightning_vi
from lightning_vi import methods
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian

PACKAGE = Path(lightning_vi.__file__).parent
COMPREHENSIONS = {"<listcomp>", "<setcomp>", "<dictcomp>", "<genexpr>", "<module>"}
NUM_ROWS, BATCH_SIZE, NUM_INPUTS, NUM_CLASSES = 32, 8, 2, 3
QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


@dataclass
class CallCounter:
    """Counts calls of the package's functions while it is the profiler of a `with` block."""

    calls: int = 0
    depth: int = 0
    files: set[str] = field(default_factory=set)

    def __enter__(self) -> "CallCounter":
        self._level = 0
        self._generators: list[FrameType] = []  # a generator's frame is entered many times and called once
        sys.setprofile(self._record)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        self._generators = []

    def _record(self, frame: FrameType, event: str, _: object) -> None:
        if event not in ("call", "return"):
            return
        code = frame.f_code
        if code.co_name in COMPREHENSIONS or not code.co_filename.startswith(str(PACKAGE)):
            return
        self._level += 1 if event == "call" else -1
        if event == "return":
            return
        self.depth = max(self.depth, self._level)
        self.files.add(code.co_filename)
        if any(frame is known for known in self._generators):
            return
        self.calls += 1
        if code.co_flags & 0x20:  # a generator
            self._generators.append(frame)


def regression_loader() -> DataLoader[Any]:
    """Returns data with one real target."""
    x = torch.randn(NUM_ROWS, NUM_INPUTS, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(x, x.sum(1, keepdim=True)), batch_size=BATCH_SIZE)


def classification_loader() -> DataLoader[Any]:
    """Returns data with labels."""
    x, _ = regression_loader().dataset.tensors
    return DataLoader(TensorDataset(x, torch.arange(NUM_ROWS) % NUM_CLASSES), batch_size=BATCH_SIZE)


def network(num_outputs: int, dropout_p: float = 0.0) -> nn.Module:
    """Returns a small network."""
    return MLP(NUM_INPUTS, [16, 16], num_outputs, dropout_p=dropout_p)


def mean_field() -> LightningModule:
    """Returns a method that samples all layers."""
    return methods.MeanFieldVI(network(2), HeteroscedasticGaussian())


def deterministic() -> LightningModule:
    """Returns a method that runs its network once."""
    return methods.Deterministic(network(2), HeteroscedasticGaussian())


def fitted(make: Callable[[], LightningModule], data: DataLoader[Any]) -> LightningModule:
    """Makes a method and fits it for two epochs."""
    torch.manual_seed(0)
    method = make()
    Trainer(max_epochs=2, limit_val_batches=0, **QUIET).fit(method, data)
    return method


def calibrated(method: LightningModule, levels: int) -> LightningModule:
    """Scales variances several times, and puts conformal intervals around the last one from the third level on."""
    for level in range(levels):
        wrapper = methods.SplitConformal if level == 2 else methods.VarianceScaling
        method = wrapper(method)
        method.calibrate(regression_loader())
    return method


def counted_in_trainer(method: LightningModule, step: str, data: DataLoader[Any]) -> CallCounter:
    """Counts the last call of a step that a Trainer makes."""
    original = getattr(method, step)
    counter = CallCounter()

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal counter
        counter = CallCounter()
        with counter:
            return original(*args, **kwargs)

    setattr(method, step, counting)
    trainer = Trainer(max_epochs=1, limit_val_batches=0, **QUIET)
    if step == "training_step":
        trainer.fit(method, data)
    else:
        trainer.test(method, data, verbose=False)
    return counter


def counted_prediction(method: LightningModule, data: DataLoader[Any]) -> CallCounter:
    """Counts the second prediction of a batch; the first one may draw weights that are kept."""
    batch = next(iter(data))
    method.predict_step(batch)
    with CallCounter() as counter:
        method.predict_step(batch)
    return counter


def paths() -> Iterator[tuple[str, CallCounter]]:
    """Yields the ten paths."""
    regression, classes = regression_loader(), classification_loader()
    yield "`training_step`, `MeanFieldVI`", counted_in_trainer(mean_field(), "training_step", regression)
    gaussian, categorical = Gaussian(), Categorical(NUM_CLASSES)
    predicted = {
        "`MeanFieldVI`": (mean_field, regression),
        "`LastLayerVI`, `Gaussian`": (lambda: methods.LastLayerVI(network(1), gaussian), regression),
        "`SWAG`": (lambda: methods.SWAG(network(1), gaussian), regression),
        "`Laplace`, classes": (lambda: methods.Laplace(network(NUM_CLASSES), categorical), classes),
        "`SNGP`": (lambda: methods.SNGP(network(NUM_CLASSES), categorical), classes),
        "`DeepEnsemble`": (lambda: methods.DeepEnsemble(network(1), gaussian), regression),
        "`MCDropout`": (lambda: methods.MCDropout(network(1, dropout_p=0.1), gaussian), regression),
    }
    for name, (make, data) in predicted.items():
        yield f"`predict_step`, {name}", counted_prediction(fitted(make, data), data)
    method = fitted(mean_field, regression)
    for levels in (1, 3):
        counter = counted_in_trainer(calibrated(method, levels), "test_step", regression)
        yield f"`test_step`, {levels} calibration{'s' * (levels > 1)} of `MeanFieldVI`", counter


def forward_passes(make: Callable[[], LightningModule], levels: int) -> int:
    """Counts forward passes of the first layer for one test batch."""
    data = regression_loader()
    method = calibrated(fitted(make, data), levels)
    layers = [module for module in method.modules() if isinstance(module, nn.Linear)]
    calls = Counter[int]()
    for layer in {id(layer): layer for layer in layers}.values():
        layer.register_forward_hook(lambda module, *_: calls.update([module.in_features]))
    (batch,) = list(data)[:1]
    Trainer(**QUIET).test(method, DataLoader(TensorDataset(*batch), batch_size=BATCH_SIZE), verbose=False)
    return calls[NUM_INPUTS]


def subclasses(kind: type) -> Iterator[type]:
    """Yields all classes that derive from a class."""
    for child in kind.__subclasses__():
        yield child
        yield from subclasses(child)


def package_classes() -> list[type]:
    """Returns the LightningModules of the package."""
    kinds = {kind for kind in subclasses(LightningModule) if kind.__module__.startswith("lightning_vi.")}
    return sorted(kinds, key=lambda kind: kind.__name__)


def class_depths() -> dict[str, int]:
    """Counts the package's classes in the method resolution order of each public method."""
    return {
        kind.__name__: sum(base.__module__.startswith("lightning_vi.") for base in kind.__mro__)
        for kind in package_classes()
        if kind.__name__ in methods.__all__
    }


def overrides() -> dict[str, dict[str, bool]]:
    """Returns the classes that define what a base class in the package defines too, by the name of the function.

    The value of a class is True if it replaces an implementation, and False if it fills in an abstract function.
    """
    found: dict[str, dict[str, bool]] = defaultdict(dict)
    for kind in package_classes():
        bases = [base for base in kind.__mro__[1:] if base.__module__.startswith("lightning_vi.")]
        for name, value in vars(kind).items():
            is_function = isinstance(value, property | classmethod) or callable(value)
            replaced = next((vars(base)[name] for base in bases if name in vars(base)), None)
            if is_function and not name.startswith("__") and replaced is not None:
                found[name][kind.__name__] = not getattr(replaced, "__isabstractmethod__", False)
    return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))


def lines_of_rooms() -> dict[str, tuple[int, int, int]]:
    """Counts files, lines and lines of code (without docstrings, comments and blank lines) of each room."""
    totals: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text()
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for index, number in enumerate((1, len(text.splitlines()), lines_of_code(text))):
            totals[room][index] += number
    return {room: (files, lines, code) for room, (files, lines, code) in sorted(totals.items())}


def lines_of_code(text: str) -> int:
    """Counts lines without docstrings, comments and blank lines."""
    tree = ast.parse(text)
    docstrings = set()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        first = body[0] if isinstance(body, list) and body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in docstrings
        for number, line in enumerate(text.splitlines(), start=1)
    )


def seconds_of_help(repeats: int) -> float:
    """Times ``lightning-vi --help`` and returns the best of several runs, in seconds."""
    code = "import sys; from lightning_vi.cli import main; sys.argv = ['lightning-vi', '--help']; main()"
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        durations.append(time.perf_counter() - start)
    return min(durations)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Returns a table in Markdown."""
    head = [f"### {title}", "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join([*head, *(f"| {' | '.join(map(str, row))} |" for row in rows), ""])


def report(repeats: int) -> Iterator[str]:
    """Yields the tables one by one."""
    counted = [(name, count.calls, len(count.files), count.depth) for name, count in paths()]
    yield table("Calls", ["path", "calls", "files", "depth"], counted)

    passes = [(name, *(forward_passes(make, levels) for levels in (0, 1, 2, 3))) for name, make in BACKBONES.items()]
    columns = ["method", "0 calibrations", "1", "2", "3"]
    yield table("Passes of the first layer for a test batch", columns, passes)

    keys = [
        (name, *(len(calibrated(make(), levels).state_dict()) for levels in (0, 1, 2)))
        for name, make in BACKBONES.items()
    ]
    yield table("Keys of the state dictionary", columns[:4], keys)

    yield table("Classes in the method resolution order", ["method", "classes"], class_depths().items())

    replaced = overrides()
    rows = [(f"`{name}`", len(kinds), sum(kinds.values()), ", ".join(kinds)) for name, kinds in replaced.items()]
    total, concrete = (sum(row[column] for row in rows) for column in (1, 2))
    columns = ["name", "definitions in subclasses", "that replace an implementation", "in"]
    yield table("Overrides", columns, [*rows, ("all", total, concrete, f"{len(replaced)} names")])

    rooms = lines_of_rooms()
    totals = [sum(numbers) for numbers in zip(*rooms.values(), strict=True)]
    rows = [(room, *numbers) for room, numbers in rooms.items()]
    yield table("Lines", ["room", "files", "lines", "lines of code"], [*rows, ("all", *totals)])

    yield table("Start", ["command", "seconds"], [("`lightning-vi --help`", f"{seconds_of_help(repeats):.2f}")])


BACKBONES = {"`MeanFieldVI`": mean_field, "`Deterministic`": deterministic}


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of `lightning-vi --help` (default: %(default)s)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for text in report(arguments.repeats):
        print(text)


if __name__ == "__main__":
    main()
