"""Calibrations that a report shows beside the method, fitted on rows that are no test rows."""

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_vi.core import Predictor
from lightning_vi.datamodules import CalibrationDataModule, NewTableDataModule, TabularDataModule
from lightning_vi.errors import InputError
from lightning_vi.likelihoods import Likelihood, Quantiles
from lightning_vi.methods import (
    AdaptivePredictionSets,
    CalibratedMethod,
    ConformalMethod,
    ConformalQuantileRegression,
    SequentialConformal,
    SplitConformal,
    TemperatureScaling,
    VarianceScaling,
)

COVERAGE = 0.9
AFTER, CONFORMED = "after", "conformal"


@dataclass(frozen=True)
class Calibrations:
    """A method before and after calibration.

    Attributes:
        base: The method before.
        fitted: Calibrations of it by name, `AFTER` and `CONFORMED`.
        rows: The rows that served, in words.
        is_given: True if the report is on a calibrated method.
    """

    base: Predictor
    fitted: Mapping[str, CalibratedMethod] = field(default_factory=dict)
    rows: str = ""
    is_given: bool = False


def find_calibrations(method: Predictor, datamodule: LightningDataModule) -> Calibrations:
    """Takes apart a calibrated method, or calibrates another one on calibration rows, or else on validation rows.

    Args:
        method: A fitted method.
        datamodule: Its data.

    Returns:
        The calibrations; none if there are no rows for them, or the likelihood has none.
    """
    if isinstance(method, CalibratedMethod):
        name = CONFORMED if isinstance(method, ConformalMethod | SequentialConformal) else AFTER
        return Calibrations(method.source, {name: method}, "the calibration rows of its fit", is_given=True)
    found = _rows_for(method, datamodule)
    if found is None:
        return Calibrations(method)
    words, loader = found
    fitted = {}
    for name, kind in _kinds_for(method.likelihood).items():
        if (calibration := _calibrated(kind, method, loader)) is not None:
            fitted[name] = calibration
    return Calibrations(method, fitted, words)


def _kinds_for(likelihood: Likelihood) -> dict[str, type[CalibratedMethod]]:
    if likelihood.task == "classification":
        return {AFTER: TemperatureScaling, CONFORMED: AdaptivePredictionSets}
    if isinstance(likelihood, Quantiles):
        return {CONFORMED: ConformalQuantileRegression}
    return {AFTER: VarianceScaling, CONFORMED: SplitConformal}


def _calibrated(kind: type[CalibratedMethod], method: Predictor, loader: Iterable[Any]) -> CalibratedMethod | None:
    options: dict[str, Any] = {"coverage": COVERAGE} if issubclass(kind, ConformalMethod) else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*are too few for a coverage")  # intervals would be infinite
        try:
            calibration = kind(method, **options)
            calibration.calibrate(loader)
        except (InputError, UserWarning):
            return None
    return calibration


def _rows_for(method: Predictor, datamodule: LightningDataModule) -> tuple[str, Iterable[Any]] | None:
    """Rows that were not trained on and are not tested on, in words, and their dataloader."""
    inner: Any = datamodule.data if isinstance(datamodule, CalibrationDataModule) else datamodule
    if isinstance(inner, NewTableDataModule):
        return None
    if isinstance(inner, TabularDataModule) and method.data_state is not None and not inner._is_seen(method.data_state):
        return None  # all rows of a table that the method has not seen are test rows
    try:
        return "the calibration rows", inner.calibration_dataloader()
    except (AttributeError, InputError):
        pass
    if not is_overridden("val_dataloader", inner, LightningDataModule):
        return None
    loaders = inner.val_dataloader()
    if isinstance(loaders, list | tuple):
        loaders = loaders[0] if loaders else None
    return None if loaders is None else ("the validation rows, since there are no calibration rows", loaders)
