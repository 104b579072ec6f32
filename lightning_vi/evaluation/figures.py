"""The usual figures of a fitted method: predictions, calibration, selective prediction and training."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from matplotlib.figure import Figure
from torch import Tensor

from lightning_vi.core import Predictor
from lightning_vi.core.batch import split_batch
from lightning_vi.datamodules import ArrayDataModule, ToyHeteroscedasticDataModule
from lightning_vi.errors import InputValueError
from lightning_vi.evaluation.collecting import collect
from lightning_vi.evaluation.selective import selective_prediction
from lightning_vi.plots import (
    plot_calibration,
    plot_objective,
    plot_predictions_regression,
    plot_reliability_diagram,
    plot_risk_coverage,
)

MAX_TARGETS = 6
NUM_GRID = 200


def method_figures(
    method: Predictor,
    datamodule: LightningDataModule,
    log_folder: str | Path | None = None,
    *,
    title: str | None = None,
) -> dict[str, Figure]:
    """Draws the usual figures of a fitted method on the test data.

    Regression has ``calibration``, for each of the first six targets if there are several, and ``predictions`` over the
    input if there is one input and one target; classification has ``reliability``. Both have ``selective``, the risk of
    the most certain data, and ``objective`` if the log of the fit is at hand.

    Args:
        method: A fitted method.
        datamodule: Its data, with test data.
        log_folder: Folder of the fit's `metrics.csv`.
        title: Title of the figures.

    Returns:
        The figures by name.

    Example:
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = Deterministic(MLP(1, [8], 2), HeteroscedasticGaussian())
        >>> sorted(method_figures(method, ToyHeteroscedasticDataModule(n_points=60)))
        ['calibration', 'predictions', 'selective']
    """
    loader = datamodule.test_dataloader()
    pred, uncertainty, target = _collected(method, loader)
    figures: dict[str, Figure] = {}
    if method.likelihood.task == "classification":
        if pred.dim() == 2:
            figures["reliability"] = plot_reliability_diagram(pred, target, title=title)
    else:
        if (curve := _curve(method, datamodule, title)) is not None:
            figures["predictions"] = curve
        figures |= _calibrations(pred, uncertainty, target, title)
    selective = selective_prediction(method, loader)
    figures["selective"] = plot_risk_coverage(selective.uncertainty, selective.loss, title=title)
    try:
        if log_folder is not None:
            figures["objective"] = plot_objective(log_folder, title=title)
    except (FileNotFoundError, InputValueError):
        pass  # the fit has no log, or none of an objective
    return figures


def _collected(method: Predictor, loader: Iterable[Any]) -> tuple[Tensor, Tensor, Tensor]:
    def read(prediction: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, ...]:
        target = split_batch(batch)[1]
        if target is None:
            raise InputValueError("the test data must have targets")
        return prediction["pred"], prediction["pred_uct"], target

    pred, uncertainty, target = collect(method, loader, read, name="test data", trainer=None)
    return pred, uncertainty, target


def _calibrations(pred: Tensor, uncertainty: Tensor, target: Tensor, title: str | None) -> dict[str, Figure]:
    columns = [values.flatten(0, -2).unbind(-1) for values in (pred, uncertainty, target)]
    figures = {}
    for index, (mean, std, y) in enumerate(zip(*columns, strict=True)):
        seen = y.isfinite()
        name = "calibration" if len(columns[0]) == 1 else f"calibration_{index}"
        if index < MAX_TARGETS and bool((std[seen] > 0).all()):
            figures[name] = plot_calibration(mean[seen], std[seen], y[seen], title=title)
    return figures


def _curve(method: Predictor, datamodule: LightningDataModule, title: str | None) -> Figure | None:
    """Predictions over the input, for data with one input and one target."""
    is_curve = isinstance(datamodule, ArrayDataModule) and datamodule.n_inputs == datamodule.n_targets == 1
    if not is_curve or datamodule.X_train.dim() != 2:
        return None
    x, y = datamodule.X_train, datamodule.Y_train
    if isinstance(datamodule, ToyHeteroscedasticDataModule):
        grid, truth = datamodule.X_gtext, datamodule.Y_gtext
    else:
        margin = 0.2 * (x.max() - x.min())
        grid, truth = torch.linspace(float(x.min() - margin), float(x.max() + margin), NUM_GRID).unsqueeze(1), None
    found = {name: values.cpu() for name, values in method.predict_step(grid.to(method.device)).items()}
    return plot_predictions_regression(
        x,
        y,
        grid,
        truth,
        found["pred"],
        found["pred_uct"],
        epistemic=found["epistemic_uct"],
        aleatoric=found["aleatoric_uct"],
        lower=found.get("lower"),
        upper=found.get("upper"),
        title=title,
    )
