"""Class probabilities and uncertainty of a classifier with two inputs."""
# ruff: noqa: N803

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Array, Floats, as_labels, as_points, as_probs, as_vector
from lightning_vi.plots._grid import Grid, as_grid
from lightning_vi.plots._style import (
    INK,
    LABEL_SIZE,
    TICK_SIZE,
    class_colors,
    legend_below,
    new_figure,
    style_axes,
    tint,
)

NUM_LEVELS = 10
TINT = 0.75
DARK_GRAY = "#555555"


def plot_classification_2d(
    X: Array,
    Y: Array,
    X_grid: Array,
    probs_grid: Array,
    uncertainty_grid: Array | None = None,
    grid_shape: tuple[int, int] | None = None,
    *,
    title: str | None = None,
    xlabel: str = "$x_1$",
    ylabel: str = "$x_2$",
    uncertainty_label: str = "epistemic uncertainty [nats]",
) -> Figure:
    """Plots the class probabilities, the decision boundary and the uncertainty over a two-dimensional input space.

    Two classes are colored by the probability of class 1. More than two classes are colored by the most probable class,
    with an intensity given by its margin over the second one. Lines are the decision boundary, points are the data.

    Args:
        X: data points, [N, 2].
        Y: class labels 0 to C - 1, [N] or [N, 1].
        X_grid: a regular grid in row-major or column-major order, [G1 * G2, 2].
        probs_grid: class probabilities on the grid, [G1 * G2, C]; or those of class 1 of two, [G1 * G2].
        uncertainty_grid: uncertainty on the grid, such as `epistemic_uct` of `predict_step`, [G1 * G2]. None: no
            uncertainty panel.
        grid_shape: (G1, G2), such that `X_grid.reshape(G1, G2, 2)` is the grid. None: inferred from `X_grid`.
        title: title of the figure.
        xlabel: label of the first coordinate, with its unit.
        ylabel: label of the second coordinate, with its unit.
        uncertainty_label: label of `uncertainty_grid`, with its unit.

    Returns:
        A figure with one or two panels and their color bars.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, `probs_grid` are not probabilities, `Y`
            are not class labels, or `X_grid` is not a regular grid.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_classification_2d
        >>> axis = torch.linspace(-2, 2, 20)
        >>> grid = torch.cartesian_prod(axis, axis)
        >>> probs = torch.sigmoid(grid.sum(dim=1))
        >>> points = torch.tensor([[-1.0, -1.0], [1.0, 1.0]])
        >>> figure = plot_classification_2d(points, torch.tensor([0, 1]), grid, probs, probs * (1 - probs))
        >>> [ax.get_title(loc="left") for ax in figure.axes[:2]]
        ['Class probabilities', 'Uncertainty']
    """
    points = as_points(X, "X")
    grid = as_grid(as_points(X_grid, "X_grid"), grid_shape, "X_grid")
    num_nodes = grid.x.size
    probs = as_probs(probs_grid, "probs_grid")
    if len(probs) != num_nodes:
        raise InputValueError(f"probs_grid must have {num_nodes} rows, as many as X_grid, got {len(probs)}")
    probs = probs.reshape(*grid.x.shape, -1)
    labels = as_labels(Y, "Y", num_classes=probs.shape[-1], length=len(points), like="X")
    uncertainty = None
    if uncertainty_grid is not None:
        uncertainty = as_vector(uncertainty_grid, "uncertainty_grid", length=num_nodes, like="X_grid")
        uncertainty = uncertainty.reshape(grid.x.shape)

    num_panels = 1 if uncertainty is None else 2
    figure = new_figure(1.0 + 5.0 * num_panels, 4.6, title)
    axes = [figure.add_subplot(1, num_panels, place + 1) for place in range(num_panels)]
    colors = class_colors(probs.shape[-1])
    if len(colors) == 2:
        _draw_two_classes(axes[0], grid, probs[..., 1], colors)
    else:
        _draw_classes(axes[0], grid, probs, colors)
    if uncertainty is not None:
        _draw_uncertainty(axes[1], grid, uncertainty, uncertainty_label)
    for ax, name in zip(axes, ("Class probabilities", "Uncertainty"), strict=False):
        _draw_boundary(ax, grid, probs)
        for label, color in enumerate(colors):
            _draw_points(ax, points[labels == label], color, f"Class {label}")
        ax.set_xlim(grid.x.min(), grid.x.max())
        ax.set_ylim(grid.y.min(), grid.y.max())
        style_axes(ax, title=name, xlabel=xlabel, ylabel=ylabel)
        ax.grid(False)
    legend_below(figure, axes[0])
    return figure


def _draw_two_classes(ax: Axes, grid: Grid, prob: Floats, colors: list[str]) -> None:
    colormap = LinearSegmentedColormap.from_list("two_classes", [tint(colors[0], TINT), "white", tint(colors[1], TINT)])
    levels = np.linspace(0, 1, NUM_LEVELS + 1)
    filled = ax.contourf(grid.x, grid.y, np.clip(prob, 0, 1), levels=levels, cmap=colormap)
    _color_bar(ax, filled, "probability of class 1")


def _draw_classes(ax: Axes, grid: Grid, probs: Floats, colors: list[str]) -> None:
    for label, color in enumerate(colors):
        margin = _margin(probs, label)
        if margin.max() > 0:
            colormap = LinearSegmentedColormap.from_list("class", ["white", tint(color, TINT)])
            levels = np.linspace(0, 1, NUM_LEVELS + 1)
            ax.contourf(grid.x, grid.y, np.minimum(margin, 1), levels=levels, cmap=colormap)


def _draw_uncertainty(ax: Axes, grid: Grid, uncertainty: Floats, label: str) -> None:
    lowest, highest = min(0.0, float(uncertainty.min())), float(uncertainty.max())
    levels = MaxNLocator(NUM_LEVELS).tick_values(lowest, highest if highest > lowest else lowest + 1)
    colormap = LinearSegmentedColormap.from_list("uncertainty", ["white", DARK_GRAY])
    _color_bar(ax, ax.contourf(grid.x, grid.y, uncertainty, levels=levels, cmap=colormap), label)


def _draw_boundary(ax: Axes, grid: Grid, probs: Floats) -> None:
    num_classes = probs.shape[-1]
    for label in range(1 if num_classes == 2 else num_classes):
        margin = _margin(probs, label)
        if margin.min() < 0 < margin.max():
            ax.contour(grid.x, grid.y, margin, levels=[0.0], colors=[INK], linewidths=1.4)


def _margin(probs: Floats, label: int) -> Floats:
    """Returns the probability of class `label` minus the largest probability of the other classes."""
    others: Floats = np.delete(probs, label, axis=-1).max(axis=-1)
    return probs[..., label] - others


def _draw_points(ax: Axes, points: Floats, color: str, label: str) -> None:
    ax.plot(
        points[:, 0],
        points[:, 1],
        linestyle="none",
        marker="o",
        markersize=5,
        color=color,
        markeredgecolor="white",
        markeredgewidth=0.7,
        label=label,
    )


def _color_bar(ax: Axes, filled: ContourSet, label: str) -> None:
    bar = ax.figure.colorbar(filled, ax=ax, pad=0.02)
    bar.set_label(label, fontsize=LABEL_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, labelcolor=INK)
    bar.outline.set_visible(False)
