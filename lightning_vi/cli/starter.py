"""A first configuration for a table."""

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import lightning_vi.likelihoods
from lightning_vi import methods
from lightning_vi.backbones import MLP, TabularMLP
from lightning_vi.datamodules import TabularDataModule
from lightning_vi.datamodules.suggest import suggest_arguments
from lightning_vi.errors import InputValueError
from lightning_vi.methods import UQMethod

NUM_STEPS = 10_000
NUM_STEPS_TO_AVERAGE = 2_000
"""Length of a fit that averages weights without a prior: a long one may overfit, and a stopped one has no average."""
DROPOUT = 0.1
FEW_ROWS = 1000
"""With fewer training rows, one hidden layer is enough; a posterior over two prunes most of their weights."""


@dataclass(frozen=True)
class Starter:
    """A configuration file and what to say about it.

    Attributes:
        text: The file.
        facts: What was found and chosen, a line each.
        commands: The next commands.
    """

    text: str
    facts: list[str]
    commands: list[str]


def make_starter(
    data: str,
    target: list[str],
    output: Path,
    method: str,
    max_epochs: int | None,
    batch_size: int | None,
    **options: Any,
) -> Starter:
    """Looks at a table and writes a configuration for it.

    Args:
        data: Path of the table.
        target: Names of the target columns.
        output: Path of the file.
        method: Name of the class of the method.
        max_epochs: Number of epochs; None to choose it.
        batch_size: Number of rows per batch; None to choose it.
        **options: `task`, `sep` and other arguments of `TabularDataModule`; None to guess them.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If the table has faults, or an argument does not fit.
    """
    guess = suggest_arguments(data, target, **options)
    module = TabularDataModule(data, **guess.arguments)
    num_rows = len(module.X_train)
    batch_size = _batch_size(num_rows) if batch_size is None else batch_size
    steps = -(-num_rows // batch_size)
    model, likelihood, built = _model(method, module)
    wanted = NUM_STEPS_TO_AVERAGE if isinstance(built, methods.SWA) else NUM_STEPS
    max_epochs = min(max(wanted // steps, 20), 500) if max_epochs is None else max_epochs
    stops = not built.needs_whole_fit
    name = output.stem
    config = {
        "seed_everything": 0,
        "model": model,
        "data": {
            "class_path": "lightning_vi.datamodules.TabularDataModule",
            "init_args": {"data": data, **guess.arguments, "batch_size": batch_size},
        },
        "trainer": {
            "max_epochs": max_epochs,
            "log_every_n_steps": min(10, steps),
            **({"callbacks": _stopping(max(10, max_epochs // 10))} if stops else {}),
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": "outputs", "name": name},
            },
        },
    }
    parts = ", ".join(f"{len(rows)} {part}" for part, rows in module.row_indices.items())
    facts = [
        *guess.facts,
        f"method: {method} with {likelihood}, on {module.n_inputs} features (else: --method)",
        f"rows: {parts}",
        f"training: at most {max_epochs} epochs in batches of {batch_size}, stopped when val_nll no longer falls"
        if stops
        else f"training: {max_epochs} epochs in batches of {batch_size}, to the end, for which {method} is made",
    ]
    commands = [
        f"  lightning-vi fit --config {output}",
        f"  lightning-vi test --config {output}",
        f"  lightning-vi predict --config {output} --data.init_args.data NEW_FILE",
    ]
    comment = "\n".join(f"# {line}" for line in [f"{method} on {Path(data).name}, by `lightning-vi init`.", *facts])
    then = "\n".join(f"#{line}" for line in commands)
    settings = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=120)
    return Starter(f"{comment}\n# next:\n{then}\n{settings}", facts, commands)


def _stopping(patience: int) -> list[dict[str, Any]]:
    """Returns the callbacks of a fit that may overfit."""
    return [
        {
            "class_path": "lightning.pytorch.callbacks.EarlyStopping",
            "init_args": {"monitor": "val_nll", "patience": patience},
        },
        {
            "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
            "init_args": {"filename": "best", "monitor": "val_nll"},
        },
    ]


def _batch_size(num_rows: int) -> int:
    return next((size for size in (32, 64, 128, 256, 512) if num_rows <= 64 * size), 1024)


def _model(name: str, data: TabularDataModule) -> tuple[dict[str, Any], str, UQMethod]:
    """Returns the configuration of the model, the likelihood in words, and the model, built to check both."""
    kinds = {known: kind for known, kind in vars(methods).items() if _is_method(kind)}
    if name not in kinds:
        raise InputValueError(f"--method must be one of {sorted(kinds)}, got {name!r}")
    if data.num_classes is not None:
        likelihood, arguments, width = "Categorical", {"num_classes": data.num_classes}, data.num_classes
    elif name == "QuantileRegression":
        likelihood, arguments, width = "Quantiles", {"num_targets": data.n_targets}, 3 * data.n_targets
    else:
        likelihood, arguments, width = "HeteroscedasticGaussian", {"num_targets": data.n_targets}, 2 * data.n_targets
    hidden = [50] if len(data.X_train) < FEW_ROWS else [50, 50]
    network: dict[str, Any] = {"n_inputs": data.n_inputs, "n_hidden": hidden, "n_outputs": width}
    if name == "MCDropout":
        network["dropout_p"] = DROPOUT
    backbone = TabularMLP if data.cardinalities else MLP
    if data.cardinalities:
        network = {"n_inputs": data.n_inputs, "cardinalities": data.cardinalities, **network}
    built = kinds[name](backbone(**network), getattr(lightning_vi.likelihoods, likelihood)(**arguments))
    init_args = {
        "backbone": {"class_path": f"lightning_vi.backbones.{backbone.__name__}", "init_args": network},
        "likelihood": {"class_path": f"lightning_vi.likelihoods.{likelihood}", "init_args": arguments},
    }
    return {"class_path": f"lightning_vi.{name}", "init_args": init_args}, likelihood, built


def _is_method(kind: Any) -> bool:
    """Tells whether a class is a method that a network and a likelihood make."""
    is_method = isinstance(kind, type) and issubclass(kind, UQMethod) and not inspect.isabstract(kind)
    return is_method and kind is not methods.VariationalMethod
