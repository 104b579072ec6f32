"""The folder and the checkpoint of the last fit of a configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml


class LastFit(NamedTuple):
    """A checkpoint of a fit.

    Attributes:
        checkpoint: Its path.
        which: ``"best"`` or ``"last"``.
    """

    checkpoint: Path
    which: str


def find_last_fit(trainer: Mapping[str, Any], model: Any) -> LastFit | None:
    """Finds the best checkpoint of the last fit of a method, or its last one if no metric was monitored.

    Args:
        trainer: Arguments of the `Trainer`, which say where the logs are.
        model: The method of the configuration, which must be that of the fit.

    Returns:
        The checkpoint; None if there is no such fit.
    """
    for fit in sorted(_log_folder(trainer).glob("version_*"), key=_version, reverse=True):
        checkpoints = list((fit / "checkpoints").glob("*.ckpt"))
        config = fit / "config.yaml"
        if checkpoints and config.exists() and yaml.safe_load(config.read_text()).get("model") == model:
            newest = max(checkpoints, key=lambda path: (path.stat().st_mtime_ns, path.name))
            best = _best(newest)
            return LastFit(newest, "last") if best is None else LastFit(best, "best")
    return None


def folder_of_fit(checkpoint: Path) -> Path:
    """Returns the folder of the fit that a checkpoint belongs to.

    Args:
        checkpoint: Path of the checkpoint.

    Returns:
        The folder of its logs, or the folder of the checkpoint if it is elsewhere.
    """
    folder = checkpoint.parent
    return folder.parent if folder.name == "checkpoints" else folder


def _log_folder(trainer: Mapping[str, Any]) -> Path:
    logger = trainer.get("logger")
    arguments = logger.get("init_args", {}) if isinstance(logger, Mapping) else {}
    save_dir = arguments.get("save_dir") or trainer.get("default_root_dir") or "."
    return Path(save_dir) / str(arguments.get("name") or "lightning_logs")


def _version(folder: Path) -> int:
    number = folder.name.removeprefix("version_")
    return int(number) if number.isdigit() else -1


def _best(checkpoint: Path) -> Path | None:
    """The best checkpoint beside another one, if a metric was monitored."""
    callbacks = torch.load(checkpoint, weights_only=True, map_location="cpu").get("callbacks", {})
    for state in callbacks.values():
        if isinstance(state, dict) and state.get("monitor") and state.get("best_model_path"):
            path = checkpoint.parent / Path(state["best_model_path"]).name
            if path.exists():
                return path
    return None
