"""The comparison of methods."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from rich.console import Console
from torch import nn
from torchmetrics import Metric

from lightning_vi.arguments import check_at_least
from lightning_vi.compare.entries import Entry, MethodLike, make_entries
from lightning_vi.compare.problem import Data, Measure, Problem, TestSet, Visitor
from lightning_vi.compare.progress import remaining_seconds, reporting
from lightning_vi.compare.result import Comparison
from lightning_vi.compare.running import run_entry
from lightning_vi.compare.store import Run, RunStore
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import Likelihood


def compare(
    methods: Sequence[MethodLike] | Mapping[str, MethodLike],
    data: Data | Mapping[str, Data],
    backbone: nn.Module | Callable[[Any], nn.Module],
    likelihood: Likelihood | Callable[[Any], Likelihood],
    *,
    max_epochs: int | None = None,
    trainer: Mapping[str, Any] | None = None,
    seeds: int | Sequence[int] = 5,
    reference: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    common_options: Mapping[str, Any] | None = None,
    test_sets: Mapping[str, TestSet] | None = None,
    ood_sets: Mapping[str, TestSet] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    measures: Mapping[str, Measure] | None = None,
    visit: Visitor | None = None,
    output_dir: str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    console: Console | None = None,
) -> Comparison:
    """Trains several methods on the same data, network and budget, and scores them on the same test sets.

    Every method runs with its own defaults, except for what it needs to run at all: `MCDropout` gets dropout behind the
    activations of a network without any, `QuantileRegression` and `MeanVarianceEstimation` their likelihoods and a last
    layer of that width. An error in one run is recorded with its message, and the others go on.

    With `output_dir`, each finished run is a file in `output_dir/runs`, and a second call with the same arguments runs
    only what is missing or failed. More methods or seeds can be added. The tables and figures are written anew, see
    `Comparison.save`.

    Args:
        methods: Names such as ``"MeanFieldVI"``, classes, or functions from network and likelihood to a method; a
            mapping names them. ``"Deterministic + TemperatureScaling"`` is calibrated after the fit, on the
            `calibration_dataloader` of the datamodule.
        data: A datamodule, or a function from the seed, which may be the number of a split, to one; a mapping for
            several data sets.
        backbone: A network, of which each fit gets a copy, or a function from the datamodule to a new network, called
            after seeding, so that all methods start from the same weights.
        likelihood: A likelihood, or a function from the datamodule to one.
        max_epochs: Number of epochs of each fit.
        trainer: Further arguments of the `Trainer`; callbacks are copied for each fit. Validation is off unless
            callbacks or `limit_val_batches` are given. If a `ModelCheckpoint` monitors a metric, the best weights are
            scored.
        seeds: Number of seeds, from 0, or the seeds.
        reference: Method that the others are compared with; by default `Deterministic` if it takes part, else the
            first method.
        options: Arguments of single methods, by name.
        common_options: Arguments of all methods that take them, such as `optimizer`.
        test_sets: Further labeled test sets, such as shifted data: dataloaders, lists of batches, datamodules, or
            functions from the datamodule of the fit to a dataloader.
        ood_sets: Out-of-distribution data, as `test_sets`. They are not scored by labels, but by how well the
            uncertainty tells them from the test data, see `lightning_vi.evaluation.ood_detection`.
        metrics: Further metrics of the labeled test sets by name, such as ``{"pinball": PinballLoss()}``, which take
            their arguments from the quantities that all of the methods have, see `lightning_vi.metrics`.
        measures: Further numbers: functions from a fitted method and its datamodule.
        visit: Called with the name of the method, the seed, the fitted method and its datamodule after each run, such
            as to draw figures.
        output_dir: Folder for the runs, tables and figures; None for no files.
        overwrite: Whether to repeat the runs that are in `output_dir`.
        progress: Whether to show a progress bar.
        console: Console of the progress bar; standard error by default.

    Returns:
        All scores, with summaries, tables and figures.

    Raises:
        ValueError: If a name or option is unknown, an argument is out of range, or `output_dir` has runs of another
            configuration.
        TypeError: If an argument has the wrong type.

    Example:
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.datamodules import ToyHeteroscedasticDataModule
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> table = compare(
        ...     ["Deterministic", "LastLayerVI"],
        ...     ToyHeteroscedasticDataModule(n_points=60),
        ...     backbone=lambda datamodule: MLP(datamodule.n_inputs, [8], 2),
        ...     likelihood=HeteroscedasticGaussian(),
        ...     max_epochs=1,
        ...     seeds=2,
        ...     progress=False,
        ... )
        >>> len(table.frame), table.reference
        (4, 'Deterministic')
    """
    entries = make_entries(methods, options or {}, common_options or {})
    reference = _check_reference(reference, [entry.name for entry in entries])
    arguments = dict(trainer or {})
    if max_epochs is not None:
        if "max_epochs" in arguments:
            raise InputValueError("max_epochs is given twice, as argument and in trainer")
        check_at_least("max_epochs", max_epochs, 1)
        arguments["max_epochs"] = max_epochs
    if not {"max_epochs", "max_steps", "max_time"} & arguments.keys():
        raise InputValueError("max_epochs is missing, the number of epochs of each fit")
    problem = Problem(
        dict(data) if isinstance(data, Mapping) else {"": data},
        backbone,
        likelihood,
        arguments,
        dict(test_sets or {}),
        dict(ood_sets or {}),
        dict(measures or {}),
        visit,
        dict(metrics or {}),
    )
    _check_names(problem)
    folder = None if output_dir is None else Path(output_dir)
    runs = _run_all(entries, problem, _seed_list(seeds), folder, overwrite, progress, console)
    comparison = Comparison(runs, reference)
    if folder is not None:
        comparison.save(folder)
    return comparison


def _run_all(
    entries: Sequence[Entry],
    problem: Problem,
    seeds: Sequence[int],
    folder: Path | None,
    overwrite: bool,
    progress: bool,
    console: Console | None,
) -> list[Run]:
    """Runs what is missing, seed by seed, and returns all runs in the order of data, methods and seeds."""
    store = RunStore(None if folder is None else folder / "runs")
    keys = [(data, entry, seed) for seed in seeds for data in problem.data for entry in entries]
    problems = {data: problem.description(data) for data in problem.data}
    configs = {(data, entry.name): problems[data] | entry.description() for data, entry, _ in keys}
    done: dict[tuple[str, str, int], Run] = {}
    if not overwrite:
        for data, entry, seed in keys:
            run = store.load(data, entry.name, seed, configs[data, entry.name])
            if run is not None:
                done[data, entry.name, seed] = run
    pending = [(data, entry, seed) for data, entry, seed in keys if (data, entry.name, seed) not in done]
    made: dict[tuple[str, int], LightningDataModule] = {}
    with reporting(len(keys), shown=progress, console=console) as reporter:
        for index, (data, entry, seed) in enumerate(pending):
            label = ", ".join(part for part in (data, entry.name, f"seed {seed}") if part)
            left = remaining_seconds(list(done.values()), [(d, e.name) for d, e, _ in pending[index:]])
            reporter.update(label, len(keys) - len(pending) + index, left)
            if (data, seed) not in made:
                made = {(data, seed): problem.make_data(data, seed)}
            run = run_entry(entry, problem, made[data, seed], data, seed)
            store.save(run, configs[data, entry.name])
            done[data, entry.name, seed] = run
        reporter.update("done", len(keys), None)
    order = [(data, entry.name, seed) for data in problem.data for entry in entries for seed in seeds]
    return [done[key] for key in order]


def _seed_list(seeds: int | Sequence[int]) -> list[int]:
    if isinstance(seeds, int):
        check_at_least("seeds", seeds, 1)
        return list(range(seeds))
    found = list(seeds)
    if not found or len(set(found)) < len(found):
        raise InputValueError(f"seeds must be a number or a list of different numbers, got {seeds!r}")
    return found


def _check_reference(reference: str | None, names: Sequence[str]) -> str:
    if reference is None:
        return "Deterministic" if "Deterministic" in names else names[0]
    if reference not in names:
        raise InputValueError(f"reference={reference!r} is none of the methods {list(names)}")
    return reference


def _check_names(problem: Problem) -> None:
    names = ["test", *problem.test_sets, *problem.ood_sets]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputValueError(f"two test sets have the name {repeated[0]!r}; the datamodule's own is 'test'")
    if not problem.data:
        raise InputTypeError("data must have at least one data set")
