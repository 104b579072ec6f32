"""Callback that says at the end of a fit what speaks against it."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_warn

from lightning_vi.arguments import check_at_least
from lightning_vi.core import UQMethod
from lightning_vi.core.training_data import single_dataloader
from lightning_vi.diagnostics.findings import EpochRecord, Finding, FitFacts, find_problems, is_long_enough
from lightning_vi.diagnostics.method import PosteriorMethod
from lightning_vi.diagnostics.posterior import PosteriorDiagnostics, log_stds
from lightning_vi.diagnostics.reference import FitReference, compare_with_constant

FILE_NAME = "diagnostics.json"
"""Name of the file of the findings, beside the `metrics.csv` of a fit."""


@dataclass(frozen=True)
class FitDiagnostics:
    """Result of a fit; prints as a table of modules and a list of findings.

    Attributes:
        posterior: Diagnostics of the posterior, a row per module.
        reference: Losses of the fit and of constant outputs on some training rows; None if they cannot be read.
        findings: What speaks against the fit; empty if nothing does, or after a short fit.
    """

    posterior: PosteriorDiagnostics
    reference: FitReference | None
    findings: tuple[Finding, ...]

    def __str__(self) -> str:
        lines = [str(self.posterior)]
        if self.reference is not None:
            reference = self.reference
            lines.append(
                f"negative log-likelihood on {reference.num_rows} training rows, nats per datum: {reference.nll:.4g}, "
                f"{reference.nll_at_means:.4g} at the means, {reference.constant_nll:.4g} of the best constant"
            )
        return "\n".join([*lines, *(f"- {finding.text} {finding.advice}" for finding in self.findings)])


def read_findings(log_folder: str | Path) -> tuple[Finding, ...] | None:
    """Reads the findings of a fit from the folder of its log.

    Args:
        log_folder: The folder of a `CSVLogger`.

    Returns:
        The findings; None if the fit was not judged, or the file is not there or cannot be read.
    """
    try:
        found = json.loads((Path(log_folder) / FILE_NAME).read_text(encoding="utf-8"))
        return tuple(Finding(**finding) for finding in found)
    except (OSError, TypeError, ValueError):
        return None


class VariationalDiagnostics(Callback):
    """Warns once, at the end of a fit by variational inference, if something speaks against the fit.

    Methods with a variational posterior add this callback to the Trainer by themselves, unless it has one already. A
    fit of less than 10 epochs after burn-in, or of less than 200 steps, gives no warning, and neither does one that
    was interrupted. In distributed training, the process of rank zero warns. The history is part of the
    checkpoint, so that a resumed fit is judged as a whole. With a `CSVLogger`, the findings are also in the file
    `diagnostics.json` of its folder, from where a report takes them.

    An epoch costs the transfer of three numbers. The end of a fit costs predictions for at most 1024 training rows.

    Args:
        warn: Whether to warn; without it, `result` has the findings.
        log_every_n_epochs: Number of epochs between logged values of each module, ``diagnostics/<module>/kl``,
            ``.../snr`` (the median) and ``.../pruned_units``; 0 to log none.

    Attributes:
        result: Diagnostics of the last fit, None before its end.

    Raises:
        ValueError: If `log_every_n_epochs` is negative.

    Example:
        >>> import torch
        >>> from lightning import Trainer
        >>> from torch.utils.data import DataLoader, TensorDataset
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.callbacks import VariationalDiagnostics
        >>> from lightning_vi.likelihoods import Gaussian
        >>> loader = DataLoader(TensorDataset(torch.randn(8, 2), torch.randn(8, 1)), batch_size=8)
        >>> diagnostics = VariationalDiagnostics(warn=False)
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
        >>> trainer = Trainer(max_epochs=1, callbacks=[diagnostics], enable_model_summary=False, **quiet)
        >>> trainer.fit(MeanFieldVI(torch.nn.Linear(2, 1), Gaussian()), loader, loader)
        >>> diagnostics.result.findings
        ()
        >>> list(diagnostics.history.columns)
        ['epoch', 'num_steps', 'kl_weight', 'is_burnin', 'loss', 'nll', 'kl']
    """

    def __init__(self, warn: bool = True, log_every_n_epochs: int = 0) -> None:
        check_at_least("log_every_n_epochs", log_every_n_epochs, 0)
        self.warn = warn
        self.log_every_n_epochs = log_every_n_epochs
        self.result: FitDiagnostics | None = None
        self._history: list[EpochRecord] = []
        self._initial_stds: dict[str, float] = {}
        self._is_resumed = False
        self._is_new = False

    @property
    def history(self) -> pd.DataFrame:
        """The epochs of the fit, a row each, with the fields of `EpochRecord`."""
        return pd.DataFrame([asdict(record) for record in self._history])

    def state_dict(self) -> dict[str, Any]:  # noqa: D102
        return {"history": [asdict(record) for record in self._history], "initial_stds": self._initial_stds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: D102
        self._history = [EpochRecord(**record) for record in state_dict["history"]]
        self._initial_stds = dict(state_dict["initial_stds"])
        self._is_resumed = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Starts a history, unless the fit is resumed."""
        self.result = None
        is_resumed, self._is_resumed = self._is_resumed, False
        self._is_new = not is_resumed and isinstance(pl_module, PosteriorMethod) and not pl_module.is_trained
        if not is_resumed:
            self._history, self._initial_stds = [], {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Notes the posterior standard deviations before the first step of a new method."""
        if self._is_new and isinstance(pl_module, PosteriorMethod):
            self._initial_stds = dict(log_stds(pl_module.weight_posteriors()))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the means of the epoch."""
        if not isinstance(pl_module, PosteriorMethod):
            return
        means = {name: value.item() for name, value in pl_module.epoch_means().items()}
        if "train_loss" not in means:
            return
        is_burnin = pl_module.in_burnin
        weight = 0.0 if is_burnin else pl_module.effective_kl_weight()
        self._history.append(
            EpochRecord(
                trainer.current_epoch,
                trainer.global_step,
                weight,
                is_burnin,
                means["train_loss"],
                means.get("train_nll"),
                means.get("train_kl"),
            )
        )
        if self.log_every_n_epochs and (trainer.current_epoch + 1) % self.log_every_n_epochs == 0:
            for module in pl_module.posterior_diagnostics().modules:
                values = {"kl": module.kl, "snr": module.median_snr, "pruned_units": module.pruned_units}
                name = f"diagnostics/{module.module or 'root'}"
                pl_module.log_dict({f"{name}/{key}": value for key, value in values.items() if value is not None})

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Computes the diagnostics, and warns if there are findings."""
        if not isinstance(pl_module, PosteriorMethod) or not trainer.is_global_zero or not self._history:
            return
        posterior = pl_module.posterior_diagnostics()
        self.result = FitDiagnostics(posterior, None, ())
        if trainer.fast_dev_run or not is_long_enough(self._history):  # type: ignore[attr-defined]
            return
        changes = self._std_changes(pl_module)
        reference = _reference(pl_module, trainer)
        facts = FitFacts(
            self._history,
            posterior,
            pl_module.kl_weight,
            reference,
            changes,
            pl_module.open_remedies(),
            pl_module.is_divergence_scheduled,
            _is_stopped_early(trainer),
        )
        self.result = FitDiagnostics(posterior, reference, find_problems(facts))
        _write(trainer, self.result.findings)
        if self.warn and self.result.findings:
            rank_zero_warn(_warning(type(pl_module).__name__, self.result.findings))

    def _std_changes(self, method: PosteriorMethod) -> dict[str, float]:
        now = log_stds(method.weight_posteriors())
        return {name: now[name] - start for name, start in self._initial_stds.items() if name in now}


def _reference(method: UQMethod, trainer: Trainer) -> FitReference | None:
    reference = compare_with_constant(method, single_dataloader(trainer))
    is_finite = reference is not None and all(math.isfinite(value) for value in asdict(reference).values())
    return reference if is_finite else None


def _is_stopped_early(trainer: Trainer) -> bool:
    callbacks: list[Callback] = getattr(trainer, "callbacks", [])
    return any(isinstance(callback, EarlyStopping) and callback.stopped_epoch > 0 for callback in callbacks)


def _write(trainer: Trainer, findings: tuple[Finding, ...]) -> None:
    text = json.dumps([asdict(finding) for finding in findings], indent=2)
    for logger in trainer.loggers:
        if isinstance(logger, CSVLogger):
            folder = Path(logger.log_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def _warning(name: str, findings: tuple[Finding, ...]) -> str:
    lines = [f"- {finding.text} {finding.advice}" for finding in findings]
    return "\n".join(
        [
            f"Diagnostics of the fit of {name}:",
            *lines,
            "Print method.posterior_diagnostics() for details. VariationalDiagnostics(warn=False) among the Trainer's "
            "callbacks switches this warning off.",
        ]
    )
