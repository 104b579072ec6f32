"""Helpers of many tests: a silent Trainer, a logger that keeps its values, and small problems."""

import atexit
import re
import time
import warnings
from argparse import Namespace
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
LIGHTNING_WARNINGS = (
    ".*isinstance.treespec, LeafSpec.* is deprecated.*",
    ".*does not have many workers.*",
    ".*available but not used.*",
    ".*is smaller than the logging interval.*",
    ".*sampler has shuffling enabled.*",
    ".*but have no `val_dataloader`.*",
    ".*but have no `validation_step`.*",
    ".*Total length of .* across ranks is zero.*",
    ".*during distributed training.*",
    ".*Be aware that when using `ckpt_path`.*",
    ".*Checkpoint directory .* exists and is not empty.*",
)


def params_of(cases: Mapping[str, tuple[Any, ...]], *, default: Collection[str]) -> list[Any]:
    """Parameters of a test by name; those beyond the default ones are marked as thorough."""
    return [
        pytest.param(*case, id=name, marks=() if name in default else pytest.mark.thorough)
        for name, case in cases.items()
    ]


class History(Logger):
    """Keeps all logged values in order, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, list[float]] = {}

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> int:
        return 0

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        for name, value in metrics.items():
            self.values.setdefault(name, []).append(float(value))


def end_process_group() -> None:
    """Ends the process group, if there is one.

    Its threads may need Python's lock once more after the last collective; where the interpreter is already at its
    end, that aborts the process ("terminate called without an active exception").
    """
    if torch.distributed.is_initialized():
        time.sleep(0.1)  # torch 2.6 does not give them the lock while it waits for their end
        torch.distributed.destroy_process_group()


class EndProcessGroup(Callback):
    """Ends the process group at the exit of each rank; Lightning does so for NCCL alone."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        atexit.register(end_process_group)


def quiet_trainer(**options: Any) -> Trainer:
    """A Trainer on the CPU that prints nothing; Lightning's usual warnings are ignored in the running test."""
    for message in LIGHTNING_WARNINGS:
        warnings.filterwarnings("ignore", message)
    silent: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "max_epochs": 1,
        "num_sanity_val_steps": 0,
    }
    if "ddp" in str(options.get("strategy")):
        options["callbacks"] = [*options.get("callbacks", []), EndProcessGroup()]
    return Trainer(**(silent | options))


def fit(method: LightningModule, data: Any, ckpt_path: Any = None, **options: Any) -> dict[str, list[float]]:
    """Fits on a dataloader or datamodule, and returns the logged values."""
    history = History()
    quiet_trainer(logger=history, log_every_n_steps=1, **options).fit(method, data, ckpt_path=ckpt_path)
    return history.values


@torch.no_grad()
def metric_inputs(predictor: Any, x: Tensor, target: Tensor) -> dict[str, Any]:
    """Inputs of the metrics for a batch, as in a test step."""
    predictor.eval()
    predictive = predictor.predictive_distribution(x, predictor.num_mc_samples_test, predictor.noise.seed)
    inputs: dict[str, Any] = predictive.metric_inputs(target)
    return inputs


def reference_names(page: str) -> set[str]:
    """Words in code of the first columns of the tables of a page of the reference."""
    rows = re.findall(r"^\| (`[^|]*)\|", (REFERENCE / page).read_text(), flags=re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}


def normal(*shape: int) -> Tensor:
    """Standard normal data that depend on the shape alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def loader(*tensors: Tensor, batch_size: int = 8, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*tensors), batch_size=batch_size, **options)


def randomize_posteriors(network: nn.Module, low: float = 0.2, high: float = 0.8) -> None:
    """Draws posterior means from a standard normal and posterior stds from a uniform distribution."""
    parameters = dict(network.named_parameters())
    for name, parameter in parameters.items():
        if name.endswith("_mu"):
            nn.init.normal_(parameter)
        elif name.removesuffix("_rho") + "_mu" in parameters:
            std = torch.empty_like(parameter).uniform_(low, high)
            with torch.no_grad():
                parameter.copy_(std.expm1().log())


def copy_of_state(module: nn.Module) -> dict[str, Tensor]:
    """Copies of all tensors in the state dictionary."""
    return {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def same_state(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
