"""Plot of the data of a one-dimensional regression problem."""
# ruff: noqa: N803

import numpy as np
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Array, as_vector
from lightning_vi.plots._style import DATA, TEST_DATA, TRUTH, legend_below, new_figure, scatter, style_axes


def plot_toy_regression_data(
    X_train: Array,
    Y_train: Array,
    X_gtext: Array | None = None,
    Y_gtext: Array | None = None,
    X_test: Array | None = None,
    Y_test: Array | None = None,
    *,
    title: str | None = None,
    xlabel: str = "x",
    ylabel: str = "y",
) -> Figure:
    """Plots the training points of a one-dimensional problem, with the true function and test points.

    Args:
        X_train: training inputs, [N] or [N, 1].
        Y_train: training targets, [N] or [N, 1].
        X_gtext: inputs of the noise-free function, dense and in any order, [G] or [G, 1].
        Y_gtext: the noise-free function at `X_gtext`, [G] or [G, 1].
        X_test: test inputs, [M] or [M, 1].
        Y_test: test targets, [M] or [M, 1].
        title: title of the figure.
        xlabel: label of the inputs, with their unit.
        ylabel: label of the targets, with their unit.

    Returns:
        A figure with one panel.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, or only one array of a pair is given.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_toy_regression_data
        >>> x = torch.linspace(-3, 3, 100)
        >>> noise = 0.3 * torch.randn(100)
        >>> figure = plot_toy_regression_data(x, x.sin() + noise, x, x.sin(), ylabel="height [m]")
        >>> figure.axes[0].get_ylabel()
        'height [m]'
    """
    x_train = as_vector(X_train, "X_train")
    y_train = as_vector(Y_train, "Y_train", length=len(x_train), like="X_train")
    figure = new_figure(7.0, 4.2, title)
    ax = figure.add_subplot()
    scatter(ax, x_train, y_train, color=DATA, label="Training data")
    if X_test is not None and Y_test is not None:
        x_test = as_vector(X_test, "X_test")
        y_test = as_vector(Y_test, "Y_test", length=len(x_test), like="X_test")
        scatter(ax, x_test, y_test, color=TEST_DATA, label="Test data", hollow=True)
    elif X_test is not None or Y_test is not None:
        raise InputValueError("X_test and Y_test must be given together")
    if X_gtext is not None and Y_gtext is not None:
        x_true = as_vector(X_gtext, "X_gtext")
        y_true = as_vector(Y_gtext, "Y_gtext", length=len(x_true), like="X_gtext")
        order = np.argsort(x_true, kind="stable")
        ax.plot(x_true[order], y_true[order], color=TRUTH, linewidth=1.6, label="True function")
    elif X_gtext is not None or Y_gtext is not None:
        raise InputValueError("X_gtext and Y_gtext must be given together")
    style_axes(ax, xlabel=xlabel, ylabel=ylabel)
    legend_below(figure, ax)
    return figure
