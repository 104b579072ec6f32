"""Plot of a predictive distribution over a one-dimensional input."""
# ruff: noqa: N803

from collections.abc import Mapping
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Array, Floats, as_std, as_vector
from lightning_vi.plots._predictions import PredictionLike, SupportsAsDict, as_dict, interval_name, metadata
from lightning_vi.plots._style import (
    ALEATORIC,
    DASHED,
    DATA,
    EPISTEMIC,
    MEAN,
    TOTAL,
    TRUTH,
    VERMILION,
    band,
    legend_below,
    legend_inside,
    new_figure,
    scatter,
    style_axes,
)


def plot_predictions_regression(
    X_train: Array,
    Y_train: Array,
    X_gtext: Array,
    Y_gtext: Array | None,
    pred: Array | PredictionLike,
    pred_uct: Array | None = None,
    *,
    epistemic: Array | None = None,
    aleatoric: Array | None = None,
    lower: Array | None = None,
    upper: Array | None = None,
    interval_level: float | None = None,
    center: Literal["mean", "median"] | None = None,
    title: str | None = None,
    show_bands: bool = True,
    xlabel: str = "x",
    ylabel: str = "y",
) -> Figure:
    r"""Plots the predictive mean with bands of epistemic and total uncertainty, and the standard deviations.

    The left panel shows the training data, the true function and the predictive mean; with `show_bands` also the mean
    :math:`\pm` 2 epistemic (inner band) and :math:`\pm` 2 total standard deviations (outer band). The right panel shows
    the standard deviations in units of the targets, if `epistemic` or `aleatoric` is given. A part that is zero
    everywhere is left out, and so are bands of standard deviations around a median that has an interval.

    Args:
        X_train: training inputs, [N] or [N, 1].
        Y_train: training targets, [N] or [N, 1].
        X_gtext: inputs of the predictions, in any order, [G] or [G, 1].
        Y_gtext: the noise-free function at `X_gtext`, [G] or [G, 1]; None if it is unknown.
        pred: predictive mean at `X_gtext`, [G] or [G, 1]; or a `Prediction` or dictionary of `predict_step`, from which
            the arguments that follow are taken unless they are given.
        pred_uct: total predictive standard deviation, [G] or [G, 1]. None:
            :math:`\sqrt{\text{epistemic}^2 + \text{aleatoric}^2}` if both are given.
        epistemic: epistemic standard deviation, [G] or [G, 1].
        aleatoric: aleatoric standard deviation, [G] or [G, 1].
        lower: lower endpoints of prediction intervals, such as conformal ones, [G] or [G, 1]; drawn as a line.
        upper: upper endpoints, [G] or [G, 1].
        interval_level: nominal coverage of the intervals, between 0 and 1, for the legend.
        center: what `pred` is. None: what a `Prediction` says, or the mean.
        title: title of the figure.
        show_bands: if True, draws the bands in the left panel.
        xlabel: label of the inputs, with their unit.
        ylabel: label of the targets, with their unit.

    Returns:
        A figure with one or two panels.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, a standard deviation is negative, `lower`
            and `upper` are not given together, `interval_level` is out of range, or `center` is unknown.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_predictions_regression
        >>> x = torch.linspace(-3, 3, 50)
        >>> epistemic, aleatoric = 0.1 * x.abs(), torch.full_like(x, 0.2)
        >>> figure = plot_predictions_regression(
        ...     x, x.sin(), x, x.sin(), x.sin() + 0.1, epistemic=epistemic, aleatoric=aleatoric
        ... )
        >>> [ax.get_title(loc="left") for ax in figure.axes]
        ['Prediction', 'Uncertainty']
    """
    if isinstance(pred, Mapping | SupportsAsDict):
        values, facts = as_dict(pred, "pred"), metadata(pred)
        points: Array = values["pred"]
        pred_uct = values.get("pred_uct") if pred_uct is None else pred_uct
        epistemic = values.get("epistemic_uct") if epistemic is None else epistemic
        aleatoric = values.get("aleatoric_uct") if aleatoric is None else aleatoric
        if lower is None and upper is None:
            lower, upper = values.get("lower"), values.get("upper")
        interval_level = facts.get("interval_level") if interval_level is None else interval_level
        center = facts.get("center") if center is None else center
    else:
        points = pred
    center = "mean" if center is None else center
    if center not in ("mean", "median"):
        raise InputValueError(f"center must be 'mean' or 'median', got {center!r}")
    if (lower is None) != (upper is None):
        raise InputValueError("lower and upper must be given together")
    x_train = as_vector(X_train, "X_train")
    y_train = as_vector(Y_train, "Y_train", length=len(x_train), like="X_train")
    x = as_vector(X_gtext, "X_gtext")
    order = np.argsort(x, kind="stable")

    def sorted_std(value: Array | None, name: str) -> Floats | None:
        return None if value is None else as_std(value, name, length=len(x), like="X_gtext")[order]

    mean = as_vector(points, "pred", length=len(x), like="X_gtext")[order]
    total = sorted_std(pred_uct, "pred_uct")
    epistemic_std = sorted_std(epistemic, "epistemic")
    aleatoric_std = sorted_std(aleatoric, "aleatoric")
    if total is None and epistemic_std is not None and aleatoric_std is not None:
        total = np.hypot(epistemic_std, aleatoric_std)

    with_parts = epistemic_std is not None or aleatoric_std is not None
    parts = _shown_parts(total, aleatoric_std, epistemic_std)
    show_bands = show_bands and not (center == "median" and lower is not None)
    figure = new_figure(11.0 if with_parts else 7.0, 4.4, title)
    ax, *right = figure.subplots(1, 2, width_ratios=[3, 2], sharex=True) if with_parts else [figure.add_subplot()]

    scatter(ax, x_train, y_train, color=DATA, label="Training data")
    if Y_gtext is not None:
        y_true = as_vector(Y_gtext, "Y_gtext", length=len(x), like="X_gtext")[order]
        ax.plot(x[order], y_true, color=TRUTH, linewidth=1.4, linestyle=DASHED, label="True function")
    ax.plot(x[order], mean, color=MEAN, linewidth=2, label=f"Predictive {center}")
    if show_bands and epistemic_std is not None and epistemic_std.any():
        band(ax, x[order], mean, epistemic_std, color=EPISTEMIC, alpha=0.4, label="Epistemic uncertainty")
    if show_bands and total is not None:
        band(ax, x[order], mean, total, color=TOTAL, alpha=0.3, label="Total uncertainty")
    for name, endpoints, label in (("lower", lower, interval_name(interval_level)), ("upper", upper, None)):
        if endpoints is not None:
            ends = as_vector(endpoints, name, length=len(x), like="X_gtext")[order]
            ax.plot(x[order], ends, color=VERMILION, linewidth=1.4, label=label)
    style_axes(ax, title="Prediction" if with_parts else None, xlabel=xlabel, ylabel=ylabel)
    legend_below(figure, ax)
    for panel in right:
        _draw_stds(panel, x[order], parts)
        quantity = "standard deviation" if center == "mean" else "equivalent Gaussian standard deviation"
        style_axes(panel, title="Uncertainty", xlabel=xlabel, ylabel=f"{quantity} of {ylabel}")
    return figure


def _shown_parts(
    total: Floats | None, aleatoric: Floats | None, epistemic: Floats | None
) -> list[tuple[Floats, str, str]]:
    """Returns the standard deviations to draw, with colors and labels: the total alone where one part is zero."""
    if total is not None and aleatoric is not None and epistemic is not None:
        if aleatoric.any() and not epistemic.any():
            return [(total, TOTAL, "Total (aleatoric only)")]
        if epistemic.any() and not aleatoric.any():
            return [(total, TOTAL, "Total (epistemic only)")]
    named = ((total, TOTAL, "Total"), (aleatoric, ALEATORIC, "Aleatoric"), (epistemic, EPISTEMIC, "Epistemic"))
    return [(std, color, label) for std, color, label in named if std is not None]


def _draw_stds(ax: Axes, x: Floats, parts: list[tuple[Floats, str, str]]) -> None:
    for std, color, label in parts:
        ax.plot(x, std, color=color, linewidth=1.8, label=label)
    ax.set_ylim(bottom=0)
    legend_inside(ax)
