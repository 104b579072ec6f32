"""Plots of scores on shifted data and of out-of-distribution detection."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.plots._style import (
    CLASS_COLORS,
    DASHED,
    IDEAL,
    INK,
    legend_below,
    new_figure,
    panel_grid,
    style_axes,
)

if TYPE_CHECKING:
    import pandas as pd

MARKERS = "osD^vPX"
COLORS = (*CLASS_COLORS[:6], INK)
ROW_HEIGHT, PANEL_WIDTH, PANEL_HEIGHT = 0.3, 3.4, 2.6


def plot_shift(table: "pd.DataFrame", metric: str, *, label: str | None = None, title: str | None = None) -> Figure:
    """Plots a score against the severity of a shift: a panel for each kind of shift, a line for each method.

    Lines are means over the runs, bars one standard error on both sides. Scores between 0 and 1 have the same axis in
    all panels.

    Args:
        table: one row for each run, kind and severity, with the columns `method`, `shift`, `severity` and `metric`,
            such as `Comparison.shifts()`.
        metric: column to draw.
        label: label of the score, with its unit; the name of the column by default.
        title: title of the figure.

    Returns:
        A figure with one panel for each kind.

    Raises:
        ValueError: if a column is missing, or there is no row.
        TypeError: if `table` is not a data frame.

    Example:
        >>> import pandas as pd
        >>> from lightning_vi.plots import plot_shift
        >>> rows = {"method": ["A"] * 4, "shift": ["blur"] * 2 + ["noise"] * 2, "severity": [0, 1, 0, 1]}
        >>> figure = plot_shift(pd.DataFrame({**rows, "ece": [0.1, 0.2, 0.1, 0.4]}), "ece")
        >>> [ax.get_title(loc="left") for ax in figure.axes]
        ['blur', 'noise']
    """
    _check_table(table, ("method", "shift", "severity", metric))
    kinds, methods = list(dict.fromkeys(table["shift"])), list(dict.fromkeys(table["method"]))
    figure, panels = panel_grid(len(kinds), PANEL_WIDTH, PANEL_HEIGHT, title)
    for ax, kind in zip(panels, kinds, strict=True):
        own = table[table["shift"] == kind]
        for index, method in enumerate(methods):
            scores = own[own["method"] == method].groupby("severity")[metric]
            if scores.ngroups == 0:
                continue
            mean, error = scores.mean(), scores.sem().fillna(0.0)
            ax.errorbar(
                mean.index.to_numpy(),
                mean.to_numpy(),
                yerr=error.to_numpy(),
                linewidth=1.5,
                markersize=4.5,
                elinewidth=1,
                label=str(method),
                **_line(index),
            )
        style_axes(ax, title=str(kind).replace("_", " "), xlabel="severity", ylabel=label or metric)
        ax.set_xticks(sorted(set(table["severity"])))
    if table[metric].between(0, 1).all():
        low, high = min(ax.get_ylim()[0] for ax in panels), max(ax.get_ylim()[1] for ax in panels)
        for ax in panels:
            ax.set_ylim(low, high)
    legend_below(figure, panels[0], columns=min(len(methods), 5))
    return figure


def plot_detection(
    table: "pd.DataFrame", metric: str = "auroc", *, label: str | None = None, title: str | None = None
) -> Figure:
    """Plots how well scores tell out-of-distribution data: a panel for each data set, a dot for each score of a method.

    Dots are means over the runs, bars one standard error on both sides.

    Args:
        table: one row for each run, data set and score, with the columns `method`, `test_set`, `score` and `metric`,
            such as `Comparison.detection()`.
        metric: column to draw.
        label: label of the metric; its name in capitals by default.
        title: title of the figure.

    Returns:
        A figure with one panel for each data set.

    Raises:
        ValueError: if a column is missing, or there is no row.
        TypeError: if `table` is not a data frame.

    Example:
        >>> import pandas as pd
        >>> from lightning_vi.plots import plot_detection
        >>> rows = {"method": ["A", "B"], "test_set": ["letters"] * 2, "score": ["energy"] * 2, "auroc": [0.9, 0.8]}
        >>> [label.get_text() for label in plot_detection(pd.DataFrame(rows)).axes[0].get_yticklabels()]
        ['A', 'B']
    """
    _check_table(table, ("method", "test_set", "score", metric))
    sets, methods = list(dict.fromkeys(table["test_set"])), list(dict.fromkeys(table["method"]))
    scores = list(dict.fromkeys(table["score"]))
    figure = new_figure(1.6 + PANEL_WIDTH * len(sets), max(1.6 + ROW_HEIGHT * len(methods), 2.4), title)
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for ax, name in zip(panels, sets, strict=True):
        _draw_detection(ax, table[table["test_set"] == name], metric, methods, scores)
        style_axes(ax, title=str(name), xlabel=label or metric.upper())
        ax.set_yticks(range(len(methods)), methods if ax is panels[0] else [""] * len(methods))
        ax.set_ylim(len(methods) - 0.5, -0.5)
        if metric == "auroc":
            ax.axvline(0.5, color=IDEAL, linewidth=1.2, linestyle=DASHED, zorder=1)
    legend_below(figure, panels[0], columns=min(len(scores), 3 * len(sets)))
    return figure


def _draw_detection(ax: Axes, own: "pd.DataFrame", metric: str, methods: list[str], scores: list[str]) -> None:
    heights = np.linspace(-0.3, 0.3, len(scores)) if len(scores) > 1 else np.zeros(1)
    for index, score in enumerate(scores):
        values = own[own["score"] == score].groupby("method")[metric]
        mean = values.mean().reindex(methods)
        error = values.sem().reindex(methods).fillna(0.0)
        ax.errorbar(
            mean.to_numpy(),
            np.arange(len(methods)) + heights[index],
            xerr=error.to_numpy(),
            markersize=5,
            elinewidth=1.2,
            label=str(score).replace("_", " "),
            zorder=3,
            **_line(index) | {"linestyle": "none"},
        )


def _line(index: int) -> dict[str, Any]:
    """Style of a line by its number: colors and markers, which are hollow and dashed beyond the palette."""
    color, is_hollow = COLORS[index % len(COLORS)], index // len(COLORS) % 2 == 1
    return {
        "color": color,
        "marker": MARKERS[index % len(MARKERS)],
        "markerfacecolor": "white" if is_hollow else color,
        "linestyle": DASHED if is_hollow else "-",
    }


def _check_table(table: "pd.DataFrame", columns: Sequence[str]) -> None:
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise InputTypeError(f"table must be a pandas DataFrame, got {type(table).__name__}")
    if missing := [name for name in columns if name not in table]:
        raise InputValueError(f"table must have the column {missing[0]!r}, got {sorted(map(str, table.columns))}")
    if table.empty:
        raise InputValueError("table must have at least one row, got none")
