"""The comparison of methods."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning import LightningDataModule
from rich.console import Console
from torch import nn
from torchmetrics import Metric

from lightning_vi.arguments import check_at_least
from lightning_vi.compare.describe import describe
from lightning_vi.compare.entries import Entry, MethodLike, make_entries
from lightning_vi.compare.problem import Data, Measure, Problem, TestSet, Visitor
from lightning_vi.compare.progress import remaining_seconds, reporting
from lightning_vi.compare.result import Comparison
from lightning_vi.compare.running import Job
from lightning_vi.compare.shift_protocol import ShiftProtocol
from lightning_vi.compare.store import Key, Run, RunStore, file_name, joined_runs
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
    shifts: bool | ShiftProtocol = False,
    keep_checkpoints: bool = False,
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
    only what is missing or failed. More methods or seeds can be added, and `shifts` to runs that are finished, which
    start from their checkpoints if these were kept. The tables and figures are written anew, see `Comparison.save`.

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
        shifts: Whether to score images that are shifted in seven kinds and five severities, and to detect `ood_sets` by
            six scores; a `ShiftProtocol` chooses among them. Data must be images with class labels.
        keep_checkpoints: Whether to keep a checkpoint of each fitted method, in `output_dir/checkpoints`.
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
    if keep_checkpoints and output_dir is None:
        raise InputValueError("keep_checkpoints=True needs an output_dir")
    if not isinstance(shifts, bool | ShiftProtocol):
        raise InputTypeError(f"shifts must be True, False or a ShiftProtocol, got a {type(shifts).__name__}")
    protocol = (ShiftProtocol() if shifts else None) if isinstance(shifts, bool) else shifts
    plan = _Plan(entries, problem, _seed_list(seeds), protocol, keep_checkpoints)
    folder = None if output_dir is None else Path(output_dir)
    runs = _run_all(plan, folder, overwrite, progress, console)
    comparison = Comparison(runs, reference)
    if folder is not None:
        comparison.save(folder)
    return comparison


@dataclass(frozen=True)
class _Plan:
    """Runs of a comparison.

    Attributes:
        entries: The methods.
        problem: What all methods have in common.
        seeds: The seeds.
        protocol: Shifts to score; None for none.
        keep_checkpoints: Whether to keep a checkpoint of each fitted method.
    """

    entries: Sequence[Entry]
    problem: Problem
    seeds: Sequence[int]
    protocol: ShiftProtocol | None
    keep_checkpoints: bool


def _run_all(plan: _Plan, folder: Path | None, overwrite: bool, progress: bool, console: Console | None) -> list[Run]:
    """Runs what is missing, seed by seed, and returns all runs in the order of data, methods and seeds."""
    entries, problem, protocol = plan.entries, plan.problem, plan.protocol
    keys = [(data, entry, seed) for seed in plan.seeds for data in problem.data for entry in entries]
    problems = {data: problem.description(data) for data in problem.data}
    configs = {(data, entry.name): problems[data] | entry.description() for data, entry, _ in keys}
    store = RunStore(None if folder is None else folder / "runs")
    scored = _finished(store, keys, configs, overwrite)
    shifted: dict[Key, Run] = {}
    shift_configs: dict[tuple[str, str], Any] = {}
    shift_store = RunStore(None if folder is None or protocol is None else folder / "shift_runs")
    if protocol is not None:
        shift_configs = {key: config | {"shifts": describe(protocol)} for key, config in configs.items()}
        shifted = _finished(shift_store, keys, shift_configs, overwrite)
    done = {key: run for key, run in scored.items() if protocol is None or key in shifted}
    pending = [(data, entry, seed) for data, entry, seed in keys if (data, entry.name, seed) not in done]
    made: dict[tuple[str, int], LightningDataModule] = {}
    with reporting(len(keys), shown=progress, console=console) as reporter:
        for index, (data, entry, seed) in enumerate(pending):
            key = data, entry.name, seed
            label = ", ".join(part for part in (data, entry.name, f"seed {seed}") if part)
            left = remaining_seconds(list(done.values()), [(d, e.name) for d, e, _ in pending[index:]])
            reporter.update(label, len(keys) - len(pending) + index, left)
            if (data, seed) not in made:
                made = {(data, seed): problem.make_data(data, seed)}
                if protocol is not None:
                    protocol.check(made[data, seed], problem.make_likelihood(made[data, seed]))
            checkpoint = None if folder is None else folder / "checkpoints" / f"{file_name(*key)}.ckpt"
            has_checkpoint = checkpoint is not None and checkpoint.exists() and key in scored
            job = Job(entry, problem, made[data, seed], data, seed, checkpoint if plan.keep_checkpoints else None)
            if has_checkpoint:
                job.checkpoint = checkpoint
            else:
                if checkpoint is not None:
                    checkpoint.unlink(missing_ok=True)
                scored[key] = job.run()
                store.save(scored[key], configs[data, entry.name])
            if protocol is not None and not scored[key].error:
                shifted[key] = job.run_shifts(protocol)
                shift_store.save(shifted[key], shift_configs[data, entry.name])
            done[key] = scored[key]
        reporter.update("done", len(keys), None)
    order = [(data, entry.name, seed) for data in problem.data for entry in entries for seed in plan.seeds]
    return [run for key in order for run in joined_runs(scored[key], shifted.get(key))]


def _finished(
    store: RunStore, keys: Sequence[tuple[str, Entry, int]], configs: Mapping[tuple[str, str], Any], overwrite: bool
) -> dict[Key, Run]:
    """The runs that a store has."""
    if overwrite:
        return {}
    found = {
        (data, entry.name, seed): store.load(data, entry.name, seed, configs[data, entry.name])
        for data, entry, seed in keys
    }
    return {key: run for key, run in found.items() if run is not None}


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
