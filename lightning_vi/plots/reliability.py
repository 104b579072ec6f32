"""Reliability diagram of a classifier."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.functional.intervals import wilson_interval
from lightning_vi.functional.scoring import expected_calibration_error, top_label, top_label_bins
from lightning_vi.plots._arrays import Array, Floats
from lightning_vi.plots._predictions import PredictionLike, classification, percent
from lightning_vi.plots._style import (
    BLUE,
    DASHED,
    GREEN,
    INK,
    LABEL_SIZE,
    SKY,
    TICK_SIZE,
    VERMILION,
    add_headroom,
    legend_below,
    legend_inside,
    new_figure,
    style_axes,
    tint,
)


def plot_reliability_diagram(
    probs: Array | PredictionLike,
    target: Array,
    n_bins: int = 15,
    *,
    level: float = 0.95,
    title: str | None = None,
) -> Figure:
    r"""Plots the accuracy of a classifier over its confidence, and a histogram of the confidence.

    Predictions are grouped into `n_bins` bins of equal width by their confidence, the largest class probability. Bars
    show the accuracy in each bin, with Wilson's confidence interval, and hatched bars the gap to the mean confidence,
    whose color tells overconfidence from underconfidence. Numbers are those of the predictions in each bin. The title
    shows the expected calibration error of Guo et al. (2017, arXiv:1706.04599),

    .. math:: \text{ECE} = \sum_b \frac{n_b}{N} \lvert \text{accuracy}_b - \text{confidence}_b \rvert.

    Args:
        probs: class probabilities, [N, C] or [N, C, ...]; or those of class 1 of two, [N] or [N, 1]; or a `Prediction`
            or dictionary of `predict_step`.
        target: class labels 0 to C - 1, [N], [N, 1] or [N, ...].
        n_bins: number of bins on [0, 1]; a bin includes its upper edge.
        level: confidence level of the error bars, between 0 and 1.
        title: title of the figure.

    Returns:
        A figure with two panels.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, `probs` are not probabilities, `target`
            are not class labels, `n_bins` is less than 1, or `level` is out of range.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_reliability_diagram
        >>> probs = torch.tensor([[0.75, 0.25], [0.75, 0.25], [0.125, 0.875], [0.875, 0.125]])
        >>> figure = plot_reliability_diagram(probs, torch.tensor([0, 0, 1, 1]), n_bins=2)
        >>> figure.axes[0].get_title(loc="right")
        'ECE = 0.062'
    """
    if n_bins < 1:
        raise InputValueError(f"n_bins must be at least 1, got {n_bins}")
    probabilities, labels = classification(probs, target, "probs")
    confidence, correct = top_label(torch.from_numpy(probabilities), torch.from_numpy(labels))
    bins = top_label_bins(confidence, correct, n_bins)

    figure = new_figure(5.2, 6.4, title)
    bars, counts = figure.subplots(2, 1, sharex=True, height_ratios=[5, 2])
    _draw_bars(bars, bins.numpy(), level)
    style_axes(bars, title="Reliability", ylabel="accuracy")
    ece = expected_calibration_error(bins).item()
    bars.set_title(f"ECE = {ece:.3f}", loc="right", fontsize=LABEL_SIZE, color=INK)
    _draw_counts(counts, bins.numpy())
    style_axes(counts, xlabel="confidence", ylabel="predictions")
    legend_below(figure, bars, columns=2)
    return figure


def _draw_bars(ax: Axes, bins: Floats, level: float) -> None:
    count, confidence, correct = bins[:, bins[0] > 0]
    accuracy = correct / count
    gap = confidence / count - accuracy
    width = 1 / bins.shape[1]
    left = np.flatnonzero(bins[0]) * width
    ax.bar(
        left, accuracy, width, align="edge", color=BLUE, alpha=0.6, edgecolor="white", linewidth=0.8, label="Accuracy"
    )
    for side, color, label in ((gap > 0, VERMILION, "Overconfident"), (gap < 0, GREEN, "Underconfident")):
        if side.any():
            ax.bar(
                left[side],
                np.abs(gap)[side],
                width,
                bottom=np.minimum(accuracy, accuracy + gap)[side],
                align="edge",
                facecolor=tint(color, 0.3),
                edgecolor=color,
                hatch="///",
                linewidth=0.8,
                label=f"Gap to confidence: {label.lower()}",
            )
    low, high = (ends.numpy() for ends in wilson_interval(torch.from_numpy(correct), torch.from_numpy(count), level))
    ax.errorbar(
        left + width / 2,
        accuracy,
        np.maximum([accuracy - low, high - accuracy], 0),
        fmt="none",
        ecolor=INK,
        elinewidth=1.1,
        capsize=2,
        label=f"{percent(level)} interval of the accuracy",
        zorder=4,
    )
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle=DASHED, label="Ideal")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)


def _draw_counts(ax: Axes, bins: Floats) -> None:
    count, confidence, correct = bins
    width = 1 / len(count)
    ax.bar(
        np.arange(len(count)) * width,
        count,
        width,
        align="edge",
        color=SKY,
        alpha=0.6,
        edgecolor="white",
        linewidth=0.6,
    )
    for place in np.flatnonzero(count):
        ax.annotate(
            f"{count[place]:.0f}",
            ((place + 0.5) * width, count[place]),
            xytext=(0, 1),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=TICK_SIZE - 2,
            color=INK,
        )
    accuracy, mean_confidence = correct.sum() / count.sum(), confidence.sum() / count.sum()
    top = add_headroom(ax, 0.55)
    ax.axvline(accuracy, ymax=top, color=BLUE, linewidth=2, label=f"Accuracy = {accuracy:.3f}")
    ax.axvline(
        mean_confidence,
        ymax=top,
        color=VERMILION,
        linewidth=1.6,
        linestyle=DASHED,
        label=f"Mean confidence = {mean_confidence:.3f}",
    )
    legend_inside(ax, loc="upper left")
