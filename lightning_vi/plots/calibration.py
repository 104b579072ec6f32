"""Calibration plot of Gaussian predictions in regression."""

import warnings
from collections.abc import Sequence
from statistics import NormalDist
from types import ModuleType

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Array, Floats, as_vector
from lightning_vi.plots._predictions import as_rows, names_of_targets, regression
from lightning_vi.plots._style import (
    BAND_STDS,
    BLUE,
    DASHED,
    IDEAL,
    INK,
    MEAN,
    SKY,
    TOTAL,
    VERMILION,
    add_headroom,
    band,
    legend_inside,
    new_figure,
    note,
    style_axes,
)

EXPECTED_INSIDE = 2 * NormalDist().cdf(BAND_STDS) - 1


def plot_calibration(
    pred: Array,
    pred_uct: Array,
    target: Array,
    x: Array | None = None,
    *,
    title: str | None = None,
    xlabel: str = "x",
    ylabel: str = "y",
    target_names: Sequence[str] | None = None,
    max_intervals: int = 200,
) -> Figure:
    r"""Plots the calibration and the sharpness of Gaussian predictions.

    The panels follow the Uncertainty Toolbox (Chung et al., 2021, arXiv:2109.10254), which also computes the metrics:

    - with `x`: targets, predictive mean and the mean :math:`\pm` 2 standard deviations over `x`;
    - ordered prediction intervals: mean :math:`\pm` 2 standard deviations of each target, in ascending order of the
      targets, and the fraction of all targets inside (95.4% for exact Gaussians);
    - average calibration: observed against predicted fraction of targets inside the central intervals, and the area
      between this curve and the diagonal. Below the diagonal the model is overconfident;
    - sharpness: histogram of the standard deviations, their root mean square, and the root mean squared error, which
      on average equals the former for a calibrated model.

    Args:
        pred: predictive means, [N] or, for D targets, [N, D]; in general [B, ..., D], where each position is a datum.
        pred_uct: predictive standard deviations, positive, in units of the targets, the shape of `pred`.
        target: observed targets, the shape of `pred`.
        x: inputs, in any order, [N] or [N, 1].
        title: title of the figure.
        xlabel: label of the inputs, with their unit.
        ylabel: label of the targets, with their unit.
        target_names: one label for each target, with its unit, in place of `ylabel`.
        max_intervals: maximal number of intervals to draw, evenly selected. The metrics always use all targets.

    Returns:
        A figure with three panels, or four with `x`; for several targets, one row of them for each target.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, a standard deviation is not positive, or
            `max_intervals` is less than 1.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_calibration
        >>> generator = torch.Generator().manual_seed(0)
        >>> mean, std = torch.randn(200, generator=generator), torch.full((200,), 0.5)
        >>> figure = plot_calibration(mean, std, mean + std * torch.randn(200, generator=generator))
        >>> [ax.get_title(loc="left") for ax in figure.axes]
        ['Ordered prediction intervals', 'Average calibration', 'Sharpness']
    """
    if max_intervals < 1:
        raise InputValueError(f"max_intervals must be at least 1, got {max_intervals}")
    prediction = regression({"pred": pred, "pred_uct": pred_uct})
    means, stds = prediction.mean, prediction.require_std()
    observed = as_rows(target, "target", shape=means.shape, like="pred")
    count, num_targets = means.shape
    labels = names_of_targets(target_names, num_targets, ylabel)
    inputs = None if x is None else as_vector(x, "x", length=count, like="pred")
    num_panels = 3 if inputs is None else 4
    if num_targets == 1 and inputs is not None:
        figure = new_figure(10.0, 7.6, title)
        rows = figure.subplots(2, 2).reshape(1, 4)
    else:
        figure = new_figure(4.2 * num_panels, 4.0 * num_targets, title)
        rows = figure.subplots(num_targets, num_panels, squeeze=False)
    for axes, label, mean, std, values in zip(rows, labels, means.T, stds.T, observed.T, strict=True):
        if inputs is not None:
            _draw_over_x(axes[0], inputs, mean, std, values)
            style_axes(axes[0], title="Predictions", xlabel=xlabel, ylabel=label)
        _draw_target(axes[-3:], mean, std, values, label, max_intervals)
    return figure


def _draw_target(
    axes: Sequence[Axes], mean: Floats, std: Floats, observed: Floats, ylabel: str, max_intervals: int
) -> None:
    intervals, calibration, sharpness = axes
    _draw_intervals(intervals, mean, std, observed, max_intervals)
    style_axes(intervals, title="Ordered prediction intervals", xlabel="rank of the target", ylabel=ylabel)
    _draw_average_calibration(calibration, mean, std, observed)
    style_axes(
        calibration,
        title="Average calibration",
        xlabel="predicted share in interval",
        ylabel="observed share in interval",
    )
    _draw_sharpness(sharpness, mean, std, observed)
    style_axes(sharpness, title="Sharpness", xlabel=f"predictive standard deviation of {ylabel}", ylabel="targets")


def _draw_over_x(ax: Axes, x: Floats, mean: Floats, std: Floats, target: Floats) -> None:
    order = np.argsort(x, kind="stable")
    x, mean, std, target = x[order], mean[order], std[order], target[order]
    band(ax, x, mean, std, color=TOTAL, alpha=0.3, label="Interval")
    ax.plot(x, mean, color=MEAN, linewidth=1.8, label="Predictive mean")
    ax.plot(x, target, linestyle="none", marker="o", markersize=3.5, color=VERMILION, alpha=0.7, label="Target")
    # With many points, the search for the best location takes seconds and emits a warning.
    legend_inside(ax, loc="best" if len(x) <= 10_000 else "upper left")


def _draw_intervals(ax: Axes, mean: Floats, std: Floats, target: Floats, max_intervals: int) -> None:
    inside = float(np.mean(np.abs(target - mean) <= BAND_STDS * std))
    order = np.argsort(target, kind="stable")
    rank = np.unique(np.linspace(0, len(target) - 1, min(len(target), max_intervals)).round().astype(np.int64))
    mean, std, target = mean[order][rank], std[order][rank], target[order][rank]
    label = f"Prediction (±{BAND_STDS:g} std)"
    ax.errorbar(
        rank,
        mean,
        BAND_STDS * std,
        fmt="o",
        markersize=3,
        color=BLUE,
        ecolor=SKY,
        elinewidth=1.2,
        label=label,
    )
    ax.plot(rank, target, color=VERMILION, linewidth=1.8, zorder=4, label="Target")
    note(ax, f"{inside:.1%} of the targets inside ({EXPECTED_INSIDE:.1%} if calibrated)", 0.97, 0.03)
    legend_inside(ax, loc="upper left")


def _draw_average_calibration(ax: Axes, mean: Floats, std: Floats, target: Floats) -> None:
    predicted, observed, area = calibration_curve(mean, std, target)
    ax.plot([0, 1], [0, 1], color=IDEAL, linewidth=1.2, linestyle=DASHED, label="Ideal")
    ax.fill_between(predicted, predicted, observed, color=SKY, alpha=0.3, linewidth=0)
    ax.plot(predicted, observed, color=BLUE, linewidth=2, label="Model")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    note(ax, f"Miscalibration area = {area:.3f}", 0.97, 0.03)
    legend_inside(ax, loc="upper left")


def _draw_sharpness(ax: Axes, mean: Floats, std: Floats, target: Floats) -> None:
    root_mean_square = float(np.sqrt(np.mean(std**2)))
    error = float(np.sqrt(np.mean((target - mean) ** 2)))
    spread = std.max() - std.min()
    limits = (std.min(), std.max()) if spread > 1e-6 * std.max() else (0.9 * std.max(), 1.1 * std.max())
    ax.hist(std, bins=20, range=limits, color=SKY, alpha=0.6, edgecolor="white", linewidth=0.6)
    top = add_headroom(ax, 0.25)
    label = f"Sharpness (RMS std) = {root_mean_square:.3g}"
    ax.axvline(root_mean_square, ymax=top, color=BLUE, linewidth=2, label=label)
    ax.axvline(error, ymax=top, color=INK, linewidth=1.4, linestyle=DASHED, label=f"RMSE = {error:.3g}")
    legend_inside(ax, loc="upper left")


def calibration_curve(mean: Floats, std: Floats, target: Floats) -> tuple[Floats, Floats, float]:
    """Returns predicted and observed fractions inside the central intervals, and the area between them."""
    toolbox = _import_toolbox()
    predicted, shares = toolbox.get_proportion_lists(mean, std, target)
    observed = np.asarray(shares)
    return predicted, observed, float(toolbox.miscalibration_area_from_proportions(predicted, observed))


def _import_toolbox() -> ModuleType:
    # Compiling the toolbox emits warnings about invalid escape sequences, which may be turned into errors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from uncertainty_toolbox import metrics_calibration
    return metrics_calibration  # type: ignore[no-any-return]
