"""The usual figures of a fitted method: predictions, calibration, errors, selective prediction and training."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from matplotlib.figure import Figure
from torch import Tensor

from lightning_vi.core import Predictor
from lightning_vi.core.batch import split_batch
from lightning_vi.core.element_rows import element_rows
from lightning_vi.datamodules import ArrayDataModule, ToyHeteroscedasticDataModule
from lightning_vi.errors import InputError, InputValueError
from lightning_vi.evaluation.collecting import collect
from lightning_vi.evaluation.selective import selective_prediction
from lightning_vi.plots import (
    plot_calibration,
    plot_error_uncertainty,
    plot_field,
    plot_objective,
    plot_pit,
    plot_predicted_observed,
    plot_predictions_regression,
    plot_reliability_diagram,
    plot_risk_coverage,
    plot_segmentation,
)

NUM_GRID, NUM_MAPS = 200, 4
MAPS = ("pred", "pred_uct", "epistemic_uct", "aleatoric_uct")


def method_figures(
    method: Predictor,
    datamodule: LightningDataModule,
    log_folder: str | Path | None = None,
    *,
    title: str | None = None,
) -> dict[str, Figure]:
    """Draws the usual figures of a fitted method on the test data.

    Regression has ``predictions`` over the input, for one input and one target, ``observed``, ``calibration`` and
    ``pit``; classification has ``reliability``. Both have ``maps`` of the first images if targets are maps,
    ``error`` against uncertainty, ``selective``, the risk of the most certain data, and ``objective`` if the log of the
    fit is at hand. Figures that the shape of the data does not allow are left out.

    Args:
        method: A fitted method.
        datamodule: Its data, with test data.
        log_folder: Folder of the fit's `metrics.csv`.
        title: Title of the figures.

    Returns:
        The figures by name.

    Raises:
        ValueError: If the test data have no targets.

    Example:
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = Deterministic(MLP(1, [8], 2), HeteroscedasticGaussian())
        >>> sorted(method_figures(method, ToyHeteroscedasticDataModule(n_points=60)))
        ['calibration', 'error', 'observed', 'pit', 'predictions', 'selective']
    """
    loader = datamodule.test_dataloader()
    whole, all_targets = _predictions(method, loader)
    found, target = element_rows(whole, all_targets, method.likelihood)
    mean = found["pred"]
    figures: dict[str, Callable[[], Figure | None]]
    if method.likelihood.task == "classification":
        figures = {"reliability": partial(plot_reliability_diagram, mean, target, title=title)}
    else:
        figures = {
            "predictions": partial(_curve, method, datamodule, title),
            "observed": partial(plot_predicted_observed, found, target, title=title),
            "calibration": partial(plot_calibration, mean, found["pred_uct"], target, title=title),
            "pit": partial(plot_pit, found, target, title=title),
        }
    figures["error"] = partial(plot_error_uncertainty, found, target, title=title)
    figures["maps"] = partial(_maps, method, datamodule, whole, all_targets, title)
    selective = selective_prediction(method, loader)
    figures["selective"] = partial(plot_risk_coverage, selective.uncertainty, selective.loss, title=title)
    if log_folder is not None:
        figures["objective"] = partial(plot_objective, log_folder, title=title)
    drawn = {name: _drawn(draw) for name, draw in figures.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _drawn(draw: Callable[[], Figure | None]) -> Figure | None:
    """A figure; None if the data or the log do not allow it."""
    try:
        return draw()
    except (InputError, FileNotFoundError):
        return None


def _predictions(method: Predictor, loader: Iterable[Any]) -> tuple[dict[str, Tensor], Tensor]:
    """Returns the predictions of all data by their name, and the targets."""
    names: list[str] = []

    def read(prediction: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, ...]:
        target = split_batch(batch)[1]
        if target is None:
            raise InputValueError("the test data must have targets")
        names[:] = prediction
        return (*prediction.values(), target)

    *columns, target = collect(method, loader, read, name="test data", trainer=None)
    return dict(zip(names, columns, strict=True)), target


def _maps(
    method: Predictor, datamodule: LightningDataModule, values: Mapping[str, Tensor], target: Tensor, title: str | None
) -> Figure | None:
    """Maps of the first images, for labels [B, H, W] and targets [B, H, W, D] or [B, D, H, W]."""
    likelihood = method.likelihood
    x = split_batch(next(iter(datamodule.test_dataloader())))[0]
    class_names = getattr(getattr(datamodule, "data", datamodule), "class_names", None)
    if likelihood.task == "classification" and target.dim() == 3 and isinstance(x, Tensor):
        first = {key: value[: len(x)] for key, value in values.items() if key in MAPS}
        return plot_segmentation(
            x[:, :1] if x.shape[1] != 3 else x,
            first,
            target[: len(x)],
            class_names=class_names,
            ignore_index=getattr(likelihood, "ignore_index", None),
            title=title,
            max_images=NUM_MAPS,
        )
    if likelihood.task == "regression" and target.dim() == 4:
        dim = likelihood.prediction_dim
        first = {key: value[:1].movedim(dim, -1) for key, value in values.items() if key in MAPS}
        return plot_field(first, target[:1].movedim(dim, -1), title=title, is_image=True)
    return None


def _curve(method: Predictor, datamodule: LightningDataModule, title: str | None) -> Figure | None:
    """Predictions over the input, for data with one input and one target."""
    if not isinstance(datamodule, ArrayDataModule) or datamodule.X_train.dim() != 2:
        return None
    if not datamodule.n_inputs == datamodule.n_targets == 1:
        return None
    x, y = datamodule.X_train, datamodule.Y_train
    if isinstance(datamodule, ToyHeteroscedasticDataModule):
        grid, truth = datamodule.X_gtext, datamodule.Y_gtext
    else:
        margin = 0.2 * (x.max() - x.min())
        grid, truth = torch.linspace(float(x.min() - margin), float(x.max() + margin), NUM_GRID).unsqueeze(1), None
    return plot_predictions_regression(x, y, grid, truth, method.predict(grid.to(method.device)), title=title)
