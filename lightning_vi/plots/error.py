"""Plot of the observed error against the predicted uncertainty."""

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.functional.intervals import wilson_interval
from lightning_vi.plots._arrays import Array, Floats
from lightning_vi.plots._predictions import (
    PredictionLike,
    as_rows,
    classification,
    is_classification,
    names_of_targets,
    regression,
)
from lightning_vi.plots._style import (
    BLUE,
    DASHED,
    DATA,
    INK,
    LABEL_SIZE,
    TICK_SIZE,
    legend_below,
    panel_grid,
    style_axes,
)

MAX_POINTS = 1000
NORMAL_95 = 1.959964


def plot_error_uncertainty(
    prediction: PredictionLike,
    target: Array,
    n_bins: int = 10,
    *,
    title: str | None = None,
    ylabel: str = "y",
    target_names: Sequence[str] | None = None,
) -> Figure:
    r"""Plots the observed error over the predicted uncertainty, in bins of as many data each.

    Data are sorted by their uncertainty and divided into `n_bins` bins of equal size, up to ties. In regression, points
    are the root mean squared error of a bin over the root mean variance, which agree if the method is calibrated, and
    faint points the absolute errors of the data. The title shows the expected normalized calibration error (ENCE, Levi
    et al., 2022, arXiv:1905.11659),

    .. math:: \text{ENCE} = \frac1M \sum_b \frac{\lvert \text{RMV}_b - \text{RMSE}_b \rvert}{\text{RMV}_b}.

    In classification, points are the error rate of a bin over the mean of one minus the confidence, and the title shows
    the calibration error, the weighted mean of their distances. Error bars are 95% confidence intervals: Wilson's for
    error rates, and from the standard error of the mean squared error. Numbers are those of the data in a bin.

    Args:
        prediction: a `Prediction`, a dictionary of `predict_step`, or a dictionary of arrays: `pred` and `pred_uct` of
            a regression, [N], [N, D] or [B, ..., D], or probabilities `pred`, [N, C] or [N, C, ...].
        target: observed targets, the shape of `pred`; or labels 0 to C - 1, [N] or [N, ...].
        n_bins: number of bins; fewer if there are fewer data or few different uncertainties.
        title: title of the figure.
        ylabel: label of the targets of a regression, with their unit.
        target_names: one label for each target, with its unit, in place of `ylabel`.

    Returns:
        A figure with one panel for each target.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, a standard deviation is not positive,
            labels are not class labels, or `n_bins` is less than 1.
        TypeError: if `prediction` is none.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_error_uncertainty
        >>> std = torch.tensor([1.0, 1.0, 2.0, 2.0])
        >>> prediction = {"pred": torch.zeros(4), "pred_uct": std}
        >>> figure = plot_error_uncertainty(prediction, torch.tensor([1.0, -1.0, 3.0, -3.0]), n_bins=2)
        >>> figure.axes[0].get_title(loc="right")
        'ENCE = 0.250'
    """
    if n_bins < 1:
        raise InputValueError(f"n_bins must be at least 1, got {n_bins}")
    if is_classification(prediction, target):
        probs, labels = classification(prediction, target)
        figure, (ax,) = panel_grid(1, 5.2, 4.8, title)
        _draw_error_rates(ax, 1 - probs.max(axis=1), (probs.argmax(axis=1) != labels).astype(np.float64), n_bins)
        style_axes(ax, xlabel="1 - confidence", ylabel="error rate")
    else:
        arrays = regression(prediction)
        stds = arrays.require_std()
        errors = np.abs(as_rows(target, "target", shape=stds.shape, like="pred") - arrays.mean)
        names = names_of_targets(target_names, stds.shape[1], ylabel)
        figure, axes = panel_grid(len(names), 5.2, 4.8, title)
        for ax, name, std, error in zip(axes, names, stds.T, errors.T, strict=True):
            _draw_errors(ax, std, error, n_bins)
            quantity = f"predictive standard deviation of {name}"
            style_axes(ax, title=name if len(names) > 1 else None, xlabel=quantity, ylabel=f"error of {name}")
    legend_below(figure, figure.axes[0], columns=2)
    return figure


def bins_of_equal_size(uncertainty: Floats, n_bins: int) -> list[np.ndarray]:
    """Returns the indices of the data in each bin, in ascending order of the uncertainty.

    Equal uncertainties are in one bin, so that sizes may differ, and constant ones have one bin.
    """
    order = np.argsort(uncertainty, kind="stable")
    ends = np.cumsum([len(rows) for rows in np.array_split(order, min(n_bins, len(order)))])
    values = uncertainty[order]
    ends = np.unique(np.searchsorted(values, values[ends - 1], side="right"))
    return np.split(order, ends[:-1])


def _draw_errors(ax: Axes, std: Floats, error: Floats, n_bins: int) -> None:
    bins = bins_of_equal_size(std, n_bins)
    predicted = np.array([np.sqrt(np.mean(std[rows] ** 2)) for rows in bins])
    squared = np.array([np.mean(error[rows] ** 2) for rows in bins])
    standard_error = np.array(
        [np.std(error[rows] ** 2, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else 0.0 for rows in bins]
    )
    low, high = (np.sqrt(np.maximum(squared + sign * NORMAL_95 * standard_error, 0)) for sign in (-1, 1))
    shown = np.unique(np.linspace(0, len(std) - 1, min(len(std), MAX_POINTS)).round().astype(np.int64))
    ax.plot(
        std[shown], error[shown], "o", markersize=2.5, color=DATA, alpha=0.3, markeredgewidth=0, label="Absolute errors"
    )
    observed = np.sqrt(squared)
    _draw_bins(ax, predicted, observed, low, high, [len(rows) for rows in bins], "RMSE of a bin (95% interval)")
    ax.set_ylim(0, 1.15 * max(high.max(), predicted.max(), float(np.quantile(error, 0.99))))
    ence = float(np.mean(np.abs(predicted - observed) / predicted))
    ax.set_title(f"ENCE = {ence:.3f}", loc="right", fontsize=LABEL_SIZE, color=INK)


def _draw_error_rates(ax: Axes, uncertainty: Floats, wrong: Floats, n_bins: int) -> None:
    bins = bins_of_equal_size(uncertainty, n_bins)
    sizes = [len(rows) for rows in bins]
    predicted = np.array([uncertainty[rows].mean() for rows in bins])
    observed = np.array([wrong[rows].mean() for rows in bins])
    count = torch.tensor([float(wrong[rows].sum()) for rows in bins])
    low, high = (ends.numpy() for ends in wilson_interval(count, torch.tensor(sizes)))
    _draw_bins(ax, predicted, observed, low, high, sizes, "Error rate of a bin (95% interval)")
    ax.set_ylim(0, min(1.0, 1.15 * max(high.max(), predicted.max())))
    gap = float(np.average(np.abs(predicted - observed), weights=sizes))
    ax.set_title(f"Calibration error = {gap:.3f}", loc="right", fontsize=LABEL_SIZE, color=INK)


def _draw_bins(
    ax: Axes, predicted: Floats, observed: Floats, low: Floats, high: Floats, sizes: list[int], label: str
) -> None:
    ax.errorbar(
        predicted,
        observed,
        np.maximum([observed - low, high - observed], 0),
        fmt="o-",
        markersize=5,
        linewidth=1.4,
        color=BLUE,
        capsize=2,
        label=label,
        zorder=4,
    )
    for x, y, size in zip(predicted, high, sizes, strict=True):
        ax.annotate(
            str(size),
            (x, y),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            fontsize=TICK_SIZE - 2,
            color=INK,
            annotation_clip=True,
        )
    left, right = predicted.min(), predicted.max()
    margin = 0.08 * (right - left) if right > left else 0.1 * (abs(right) or 1.0)
    ax.set_xlim(max(left - margin, 0), right + margin)
    ends = np.array(ax.get_xlim())
    ax.plot(ends, ends, color=INK, linewidth=1.2, linestyle=DASHED, label="Ideal", zorder=3)
