"""Facts from which the sections of a report are written."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch import Tensor

from lightning_vi.core import Predictor
from lightning_vi.datamodules import CalibrationDataModule
from lightning_vi.likelihoods import Prediction
from lightning_vi.report.calibrations import Calibrations
from lightning_vi.report.scoring import ScoredSet

MAX_DRAWN = 20_000
"""Most elements of the targets in one figure."""


@dataclass(frozen=True)
class Facts:
    """A fitted method, its data, and its scores.

    Attributes:
        method: The method.
        datamodule: Its data.
        calibrations: The method before and after calibration.
        scored: Scores of each test set: of the method before calibration, ``"method"``, and of the calibrations.
        log_folder: Folder of the fit's log; None if it is not known.
        checkpoint: The checkpoint; None if it is not known.
    """

    method: Predictor
    datamodule: LightningDataModule
    calibrations: Calibrations
    scored: Mapping[str, Mapping[str, ScoredSet]]
    log_folder: Path | None = None
    checkpoint: Path | None = None

    @property
    def data(self) -> Any:
        """The datamodule, without a wrapper that serves calibration data."""
        return self.datamodule.data if isinstance(self.datamodule, CalibrationDataModule) else self.datamodule

    @property
    def is_classifier(self) -> bool:
        """True for classification."""
        return self.method.likelihood.task == "classification"

    @property
    def own(self) -> dict[str, ScoredSet]:
        """Scores of the method itself, as `Trainer.test` has them, by test set."""
        key = next(iter(self.calibrations.fitted)) if self.calibrations.is_given else "method"
        return {name: variants[key] for name, variants in self.scored.items()}

    @property
    def first(self) -> ScoredSet:
        """Scores of the method itself on the first test set."""
        return next(iter(self.own.values()))

    @property
    def target_names(self) -> list[str]:
        """Names of the targets of a regression."""
        width = self.method.likelihood.num_predictions
        names = [str(name) for name in getattr(self.data, "target_names", None) or []]
        if len(names) == width:
            return names
        return ["y"] if width == 1 else [f"y {place}" for place in range(width)]

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        width = self.method.likelihood.num_predictions
        names = [str(name) for name in getattr(self.data, "class_names", None) or []]
        return names if len(names) == width else [str(place) for place in range(width)]


def drawable(scored: ScoredSet) -> tuple[Prediction | dict[str, Tensor], Tensor]:
    """Prediction and targets as figures take them: without missing targets, and not too many.

    Args:
        scored: The test set.

    Returns:
        The prediction as it is, or a dictionary of [N, D] or [N, C] with one row per element; and the targets.
    """
    prediction, target, observed = scored.prediction, scored.target, scored.observed
    if observed is None and target.numel() <= MAX_DRAWN:
        return prediction, target
    is_classifier = prediction.probs is not None
    seen = torch.ones_like(target, dtype=torch.bool) if observed is None else observed
    kept = seen.flatten() if is_classifier else seen.reshape(-1, target.shape[-1]).all(-1)
    places = kept.nonzero()[:, 0]
    places = places[:: max(-(-len(places) // MAX_DRAWN), 1)]
    values = {}
    for name, value in prediction.as_dict().items():
        if name == "samples" or value.shape != prediction.mean.shape:
            continue
        rows = value.movedim(1, -1) if is_classifier else value
        values[name] = rows.reshape(-1, rows.shape[-1])[places]
    target = target.flatten() if is_classifier else target.reshape(-1, target.shape[-1])
    return values, target[places]
