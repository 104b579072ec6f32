"""Plot of predictions against observed targets, for any number of inputs."""

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Array, Floats
from lightning_vi.plots._predictions import PredictionLike, as_rows, metadata, names_of_targets, percent, regression
from lightning_vi.plots._style import (
    BAND_STDS,
    BLUE,
    DASHED,
    INK,
    LABEL_SIZE,
    VERMILION,
    legend_below,
    note,
    panel_grid,
    style_axes,
)


def plot_predicted_observed(
    prediction: PredictionLike,
    target: Array,
    *,
    title: str | None = None,
    ylabel: str = "y",
    target_names: Sequence[str] | None = None,
    max_points: int = 500,
) -> Figure:
    r"""Plots predictions over the observed targets, with error bars.

    Error bars are the intervals of the prediction if it has them (conformal intervals, quantiles), otherwise the mean
    :math:`\pm` 2 standard deviations. Data outside of their interval are drawn in a second color. A note gives the
    fraction inside of all data, and the fraction expected: the level of the intervals if it is known, or 95.4% for
    Gaussians. The title of a panel shows the root mean squared error.

    Args:
        prediction: a `Prediction`, a dictionary of `predict_step`, or a dictionary of arrays `pred` and, if there is
            one, `pred_uct`, [N], [N, D] or [B, ..., D]; each position is a datum.
        target: observed targets, the shape of `pred`.
        title: title of the figure.
        ylabel: label of the targets, with their unit.
        target_names: one label for each target, with its unit, in place of `ylabel`.
        max_points: maximal number of data to draw for each target, evenly selected by their rank.

    Returns:
        A figure with one panel for each target.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, a standard deviation is negative, or
            `max_points` is less than 1.
        TypeError: if `prediction` is that of a classifier, or none.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_predicted_observed
        >>> prediction = {"pred": torch.tensor([0.0, 1.0, 2.0]), "pred_uct": torch.full((3,), 0.25)}
        >>> figure = plot_predicted_observed(prediction, torch.tensor([0.25, 1.25, 3.0]))
        >>> figure.axes[0].texts[0].get_text()
        '66.7% inside (95.4% expected)'
    """
    if max_points < 1:
        raise InputValueError(f"max_points must be at least 1, got {max_points}")
    arrays = regression(prediction)
    observed = as_rows(target, "target", shape=arrays.mean.shape, like="pred")
    names = names_of_targets(target_names, observed.shape[1], ylabel)
    expected: float | None = 2 * NormalDist().cdf(BAND_STDS) - 1
    low = high = None
    label = f"±{BAND_STDS:g} std"
    if arrays.lower is not None and arrays.upper is not None:
        low, high, label, expected = (
            arrays.lower,
            arrays.upper,
            arrays.interval,
            metadata(prediction).get("interval_level"),
        )
    elif arrays.std is not None:
        low, high = arrays.mean - BAND_STDS * arrays.std, arrays.mean + BAND_STDS * arrays.std

    figure, axes = panel_grid(len(names), 4.4, 4.4, title)
    for column, (ax, name) in enumerate(zip(axes, names, strict=True)):
        mean, values = arrays.mean[:, column], observed[:, column]
        interval = None if low is None or high is None else (low[:, column], high[:, column])
        _draw(ax, mean, values, interval, label, expected, max_points)
        style_axes(ax, title=name if len(names) > 1 else None, xlabel=f"observed {name}", ylabel=f"predicted {name}")
        error = float(np.sqrt(np.mean((mean - values) ** 2)))
        ax.set_title(f"RMSE = {error:.3g}", loc="right", fontsize=LABEL_SIZE, color=INK)
    legend_below(figure, max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[1])), columns=2)
    return figure


def _draw(
    ax: Axes,
    mean: Floats,
    observed: Floats,
    interval: tuple[Floats, Floats] | None,
    label: str,
    expected: float | None,
    max_points: int,
) -> None:
    order = np.argsort(observed, kind="stable")
    shown = order[np.unique(np.linspace(0, len(order) - 1, min(len(order), max_points)).round().astype(np.int64))]
    if interval is None:
        ax.plot(observed[shown], mean[shown], "o", markersize=4, color=BLUE, alpha=0.6, markeredgewidth=0, label="Data")
    else:
        low, high = interval
        inside = (low <= observed) & (observed <= high)
        reference = "" if expected is None else f" ({percent(expected)} expected)"
        note(ax, f"{inside.mean():.1%} inside{reference}", 0.97, 0.03)
        for color, chosen, where in ((BLUE, inside, "Inside"), (VERMILION, ~inside, "Outside")):
            rows = shown[chosen[shown]]
            if len(rows):
                ax.errorbar(
                    observed[rows],
                    mean[rows],
                    np.maximum([mean[rows] - low[rows], high[rows] - mean[rows]], 0),
                    fmt="o",
                    markersize=3.5,
                    color=color,
                    elinewidth=0.9,
                    alpha=0.6,
                    markeredgewidth=0,
                    label=f"{where} ({label})",
                )
    ends = np.array([min(observed.min(), mean.min()), max(observed.max(), mean.max())])
    if ends[0] == ends[1]:
        ends = ends + np.array([-0.5, 0.5]) * (abs(ends[0]) or 1.0)
    ax.plot(ends, ends, color=INK, linewidth=1.2, linestyle=DASHED, label="Ideal", zorder=5)
