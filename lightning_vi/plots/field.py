"""Maps of a regression on two inputs, or of a field."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Array, Floats, as_floats, as_points
from lightning_vi.plots._grid import Grid, as_grid
from lightning_vi.plots._predictions import PredictionLike, as_dict
from lightning_vi.plots._style import INK, LABEL_SIZE, TICK_SIZE, new_figure, style_axes


def plot_field(
    prediction: PredictionLike,
    truth: Array | None = None,
    x: Array | None = None,
    *,
    grid_shape: tuple[int, int] | None = None,
    target: int = 0,
    X_train: Array | None = None,  # noqa: N803
    title: str | None = None,
    xlabel: str = "$x_1$",
    ylabel: str = "$x_2$",
    label: str = "y",
    is_image: bool = False,
) -> Figure:
    """Plots a field over two coordinates: the truth, the predictive mean, their difference and standard deviations.

    Truth and mean have the same colors. Standard deviations have one color scale, which starts at zero, so that
    epistemic and aleatoric parts can be compared. Panels without data are left out.

    Args:
        prediction: a `Prediction`, a dictionary of `predict_step`, or a dictionary of arrays: `pred` and, if there are,
            `epistemic_uct` and `aleatoric_uct`. Of the points of a grid, [G1 * G2] or [G1 * G2, D], or of one field,
            [G1, G2], [G1, G2, D] or [1, G1, G2, D].
        truth: the noise-free field or the targets, the shape of `pred`; None if it is unknown.
        x: a regular grid in row-major or column-major order, [G1 * G2, 2]; None: fields are drawn over their indices.
        grid_shape: (G1, G2), such that `x.reshape(G1, G2, 2)` is the grid. None: inferred from `x`.
        target: index of the target to draw.
        X_train: training points, [N, 2], drawn over the epistemic standard deviation.
        title: title of the figure.
        xlabel: label of the first coordinate, with its unit.
        ylabel: label of the second coordinate, with its unit.
        label: label of the target, with its unit.
        is_image: whether the field is drawn as an image, with the first index, the row, from top to bottom, and the
            second one, the column, from left to right; without `x`.

    Returns:
        A figure with one panel for each quantity and their color bars.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, there is no such target, or `x` is not a
            regular grid.
        TypeError: if `prediction` is none.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_field
        >>> axis = torch.linspace(0, 1, 10)
        >>> grid = torch.cartesian_prod(axis, axis)
        >>> truth = grid.sum(1, keepdim=True).sin()
        >>> figure = plot_field({"pred": truth + 0.1, "epistemic_uct": 0.1 + 0 * truth}, truth, grid)
        >>> [ax.get_title(loc="left") for ax in figure.axes[:4]]
        ['Truth', 'Predictive mean', 'Error', 'Epistemic std']
    """
    values = as_dict(prediction)
    grid, shape = _as_coordinates(x, grid_shape, values["pred"])
    if is_image and x is not None:
        raise InputValueError("is_image=True draws fields over their indices, so x must be None")
    if is_image:
        grid, xlabel, ylabel = Grid(grid.y, grid.x), "column", "row"
    mean = _as_map(values["pred"], "pred", shape, target)
    exact = None if truth is None else _as_map(truth, "truth", shape, target)
    stds = {
        name: _as_map(values[key], key, shape, target)
        for key, name in (("epistemic_uct", "Epistemic std"), ("aleatoric_uct", "Aleatoric std"))
        if values.get(key) is not None
    }
    both = [mean] if exact is None else [exact, mean]
    limits = min(float(each.min()) for each in both), max(float(each.max()) for each in both)
    panels = [
        (name, each, "viridis", limits)
        for name, each in zip(("Truth", "Predictive mean")[-len(both) :], both, strict=True)
    ]
    if exact is not None:
        largest = float(np.abs(mean - exact).max()) or 1.0
        panels.append(("Error", mean - exact, "RdBu_r", (-largest, largest)))
    top = max((float(std.max()) for std in stds.values()), default=0.0) or 1.0
    panels += [(name, std, "magma", (0.0, top)) for name, std in stds.items()]

    columns = len(panels) if len(panels) < 5 else 3
    rows = -(-len(panels) // columns)
    figure = new_figure(3.4 * columns, 3.1 * rows, title)
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(len(panels))]
    for ax, (name, each, colormap, (low, high)) in zip(axes, panels, strict=True):
        _draw_map(ax, grid, each, colormap, (low, high), f"std of {label}" if "std" in name else label)
        style_axes(ax, title=name, xlabel=xlabel, ylabel=ylabel)
        ax.grid(False)
        if is_image:
            ax.set_aspect("equal")
            ax.invert_yaxis()
        if name == "Epistemic std" and X_train is not None:
            points = as_points(X_train, "X_train")
            ax.plot(*points.T, "o", markersize=2.5, color="white", markeredgecolor=INK, markeredgewidth=0.5)
            ax.set_xlim(grid.x.min(), grid.x.max())
            ax.set_ylim(grid.y.min(), grid.y.max())
    return figure


def _as_coordinates(x: Array | None, grid_shape: tuple[int, int] | None, pred: Array) -> tuple[Grid, tuple[int, int]]:
    """The grid, and its numbers of rows and columns."""
    if x is not None:
        grid = as_grid(as_points(x, "x"), grid_shape, "x")
        return grid, (grid.x.shape[0], grid.x.shape[1])
    shape = tuple(np.shape(pred))
    if len(shape) == 4 and shape[0] == 1:
        shape = shape[1:]
    if grid_shape is None and len(shape) not in (2, 3):
        raise InputValueError(
            f"x must be given, or pred must be a field of shape [G1, G2], [G1, G2, D] or [1, G1, G2, D], got {shape}"
        )
    rows, columns = grid_shape or shape[:2]
    if rows < 2 or columns < 2:
        raise InputValueError(
            f"pred must be a field of at least 2 x 2 points, got {(rows, columns)}; give the points of a list as x"
        )
    first, second = np.meshgrid(np.arange(rows, dtype=np.float64), np.arange(columns, dtype=np.float64), indexing="ij")
    return Grid(first, second), (rows, columns)


def _as_map(value: Array, name: str, shape: tuple[int, int], target: int) -> Floats:
    """One target of a field as [G1, G2]."""
    floats = as_floats(value, name)
    count = shape[0] * shape[1]
    if floats.size % count or (floats.ndim < 2 and floats.size != count):
        raise InputValueError(
            f"{name} must have a value for each of the {shape[0]} x {shape[1]} points, got {floats.shape}"
        )
    fields = floats.reshape(count, -1)
    if not 0 <= target < fields.shape[1]:
        raise InputValueError(f"target must be an index of the {fields.shape[1]} targets of {name}, got {target}")
    return fields[:, target].reshape(shape)


def _draw_map(ax: Axes, grid: Grid, values: Floats, colormap: str, limits: tuple[float, float], label: str) -> None:
    low, high = limits
    if high <= low:
        low, high = low - 0.5 * (abs(low) or 1.0), high + 0.5 * (abs(high) or 1.0)
    drawn = ax.pcolormesh(
        grid.x, grid.y, values, cmap=colormap, vmin=low, vmax=high, shading="nearest", rasterized=True
    )
    bar = ax.figure.colorbar(drawn, ax=ax, pad=0.02)
    bar.set_label(label, fontsize=LABEL_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE, labelcolor=INK)
    bar.outline.set_visible(False)
