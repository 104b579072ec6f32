"""Histograms of the scores of out-of-distribution detection."""

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.functional.selective import auroc, false_positive_rate
from lightning_vi.plots._arrays import Array, Floats, as_vector
from lightning_vi.plots._style import BLUE, INK, LABEL_SIZE, VERMILION, legend_below, new_figure, style_axes


def plot_ood_scores(
    scores_in: Array,
    scores_out: Array,
    n_bins: int = 40,
    *,
    title: str | None = None,
    xlabel: str = "score",
) -> Figure:
    """Plots the distributions of the scores of in-distribution and out-of-distribution data.

    Both histograms have the same bins and are normalized by the number of data. The title shows the area under the ROC
    curve (AUROC), the probability that an out-of-distribution datum has the larger score, and the false positive rate
    at 95% true positive rate (FPR95), the fraction of in-distribution data above the threshold that detects 95% of the
    out-of-distribution data.

    Args:
        scores_in: scores of in-distribution data, [N] or [N, 1].
        scores_out: scores of out-of-distribution data, [M] or [M, 1]; should be the larger ones.
        n_bins: number of bins of equal width over the range of all scores.
        title: title of the figure.
        xlabel: name of the score, with its unit.

    Returns:
        A figure with one panel.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, or `n_bins` is less than 1.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_ood_scores
        >>> figure = plot_ood_scores(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.3, 0.4]))
        >>> figure.axes[0].get_title(loc="right")
        'AUROC = 0.917, FPR95 = 0.333'
    """
    if n_bins < 1:
        raise InputValueError(f"n_bins must be at least 1, got {n_bins}")
    inside, outside = as_vector(scores_in, "scores_in"), as_vector(scores_out, "scores_out")
    area = float(auroc(torch.from_numpy(inside), torch.from_numpy(outside)))
    rate = float(false_positive_rate(torch.from_numpy(inside), torch.from_numpy(outside)))

    figure = new_figure(6.0, 3.8, title)
    ax = figure.subplots()
    edges = np.histogram_bin_edges(np.concatenate([inside, outside]), bins=n_bins)
    _draw_histogram(ax, inside, edges, color=BLUE, label="In distribution")
    _draw_histogram(ax, outside, edges, color=VERMILION, label="Out of distribution")
    style_axes(ax, title="Scores", xlabel=xlabel, ylabel="share of the data")
    ax.set_title(f"AUROC = {area:.3f}, FPR95 = {rate:.3f}", loc="right", fontsize=LABEL_SIZE, color=INK)
    legend_below(figure, ax)
    return figure


def _draw_histogram(ax: Axes, scores: Floats, edges: Floats, *, color: str, label: str) -> None:
    ax.hist(
        scores,
        bins=edges.tolist(),
        weights=np.full(len(scores), 1 / len(scores)),
        color=color,
        alpha=0.5,
        edgecolor="white",
        linewidth=0.6,
        label=label,
    )
