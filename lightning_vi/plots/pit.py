"""Histogram of the probability integral transform."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.intervals import uniform_histogram_band
from lightning_vi.plots._arrays import Array, Floats
from lightning_vi.plots._predictions import (
    PredictionLike,
    SupportsAsDict,
    as_rows,
    names_of_targets,
    percent,
    regression,
)
from lightning_vi.plots._style import (
    BLUE,
    DASHED,
    INK,
    LABEL_SIZE,
    SKY,
    VERMILION,
    legend_below,
    panel_grid,
    style_axes,
)


def plot_pit(
    prediction: PredictionLike | Array,
    target: Array | None = None,
    n_bins: int = 20,
    *,
    level: float = 0.95,
    title: str | None = None,
    target_names: Sequence[str] | None = None,
) -> Figure:
    r"""Plots a histogram of the probability integral transform (PIT) of the targets.

    The PIT of a target is the predicted probability of a smaller one, :math:`F(y)` (Dawid, 1984, "Statistical theory:
    the prequential approach"). If the predictions are calibrated, it is uniform: all bars are inside the band with
    probability `level`, see `lightning_vi.functional.uniform_histogram_band`. Bars outside are drawn in a second color.
    High bars at both ends are a sign of predictions that are too narrow, a hump in the middle of ones that are too
    wide, and a slope of a bias.

    The distribution of a `Prediction` is taken to be Gaussian. For others, such as mixtures of samples, give the values
    of the transform, for example those of `lightning_vi.functional.scoring.gaussian_mixture_cdf`.

    Args:
        prediction: a `Prediction`, a dictionary of `predict_step`, or a dictionary of arrays `pred` and `pred_uct`,
            [N], [N, D] or [B, ..., D]; or values of the transform between 0 and 1, [N] or [N, D].
        target: observed targets, the shape of `pred`; None with values of the transform.
        n_bins: number of bins on [0, 1].
        level: probability that all bars of a panel are inside the band, between 0 and 1.
        title: title of the figure.
        target_names: one name for each target.

    Returns:
        A figure with one panel for each target.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, a standard deviation is not positive, a
            transform is outside [0, 1], `n_bins` is less than 1, or `level` is out of range.
        TypeError: if `prediction` is that of a classifier, or a prediction without `target`.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_pit
        >>> figure = plot_pit(torch.linspace(0, 1, 200) ** 2, n_bins=10)
        >>> figure.axes[0].get_title(loc="right")
        '1 of 10 bins outside'
    """
    if n_bins < 1:
        raise InputValueError(f"n_bins must be at least 1, got {n_bins}")
    values = _transform(prediction, target)
    names = names_of_targets(target_names, values.shape[1], "target")
    low, high = uniform_histogram_band(len(values), n_bins, level)
    figure, axes = panel_grid(len(names), 5.6, 3.8, title)
    for ax, name, column in zip(axes, names, values.T, strict=True):
        counts, edges = np.histogram(column, bins=n_bins, range=(0.0, 1.0))
        outside = _draw(ax, counts, edges, (low, high), level)
        style_axes(
            ax, title=name if len(names) > 1 else None, xlabel="probability integral transform", ylabel="targets"
        )
        ax.set_title(f"{outside} of {n_bins} bins outside", loc="right", fontsize=LABEL_SIZE, color=INK)
    legend_below(figure, max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[1])), columns=2)
    return figure


def _transform(prediction: PredictionLike | Array, target: Array | None) -> Floats:
    """Values of the transform, [N, D]."""
    if isinstance(prediction, Mapping | SupportsAsDict):
        if target is None:
            raise InputTypeError("target must be given with a prediction")
        arrays = regression(prediction)
        observed = as_rows(target, "target", shape=arrays.mean.shape, like="pred")
        standardized = torch.from_numpy((observed - arrays.mean) / arrays.require_std())
        transform: Floats = torch.special.ndtr(standardized).numpy()
        return transform
    if target is not None:
        raise InputTypeError(
            "prediction must be a result of predict or predict_step, or a dictionary such as {'pred': mean, "
            f"'pred_uct': std}}, if target is given, got {type(prediction).__name__}; values of the transform need none"
        )
    values = as_rows(prediction, "prediction")
    if values.min() < 0 or values.max() > 1:
        raise InputValueError(
            f"values of the transform must lie between 0 and 1, got values in [{values.min():g}, {values.max():g}]"
        )
    return values


def _draw(ax: Axes, counts: Floats, edges: Floats, band: tuple[int, int], level: float) -> int:
    """Draws a histogram over the band, and returns the number of bars outside."""
    outside = (counts < band[0]) | (counts > band[1])
    ax.axhspan(*band, color=SKY, alpha=0.25, linewidth=0, label=f"{percent(level)} band of all bars, if calibrated")
    for edge in band:
        ax.axhline(edge, color=BLUE, linewidth=0.8, zorder=3)
    for chosen, color, label in ((~outside, BLUE, "Targets"), (outside, VERMILION, "Targets, outside of the band")):
        if chosen.any():
            ax.bar(
                edges[:-1][chosen],
                counts[chosen],
                edges[1] - edges[0],
                align="edge",
                color=color,
                alpha=0.65,
                edgecolor="white",
                linewidth=0.8,
                label=label,
            )
    expected = counts.sum() / len(counts)
    ax.axhline(expected, color=INK, linewidth=1.2, linestyle=DASHED, label=f"Expected: {expected:.4g} in each bin")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.08 * max(counts.max(), band[1]))
    return int(outside.sum())
