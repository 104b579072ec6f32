"""Plot of a comparison of methods: means and standard errors of their scores."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.plots._arrays import Floats
from lightning_vi.plots._style import BLUE, DASHED, DATA, IDEAL, new_figure, style_axes

if TYPE_CHECKING:
    import pandas as pd

ROW_HEIGHT, PANEL_WIDTH, FRAME = 0.26, 3.1, 1.0


def plot_method_comparison(
    table: "pd.DataFrame",
    metrics: Sequence[str] | None = None,
    *,
    baseline: str | None = None,
    method: str = "method",
    dataset: str = "dataset",
    seed: str = "seed",
    labels: Mapping[str, str] | None = None,
    title: str | None = None,
) -> Figure:
    r"""Plots the mean score of each method with its standard error, one panel for each data set and metric.

    Large dots are means over the runs, bars one standard error on both sides, and small dots the runs. With `baseline`,
    scores are paired differences to the baseline's score of the same seed and data set, and runs without a counterpart
    are left out.

    Args:
        table: one row for each run, with the columns `method`, metrics and, if there are several, `dataset` and
            `seed`. Missing scores are left out.
        metrics: columns to draw. None: all columns of numbers that are not one of the other columns.
        baseline: method to subtract; None draws the scores themselves.
        method: name of the column of methods, which are drawn in the order of the table.
        dataset: name of the column of data sets; a table without it has one.
        seed: name of the column of seeds or splits, by which runs are paired.
        labels: labels of metrics, with units, by column.
        title: title of the figure.

    Returns:
        A figure with one row of panels for each data set and one column for each metric.

    Raises:
        ValueError: if a column is missing, there is no row or no metric, or `baseline` is no method or
            has several runs of a seed and data set.
        TypeError: if `table` is not a data frame.

    Example:
        >>> import pandas as pd
        >>> from lightning_vi.plots import plot_method_comparison
        >>> table = pd.DataFrame({"method": ["A", "A", "B", "B"], "seed": [0, 1, 0, 1], "nll": [1.0, 1.5, 0.5, 0.75]})
        >>> figure = plot_method_comparison(table)
        >>> [label.get_text() for label in figure.axes[0].get_yticklabels()]
        ['A', 'B']
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise InputTypeError(f"table must be a pandas DataFrame, got {type(table).__name__}")
    if method not in table:
        raise InputValueError(f"table must have the column {method!r}, got {sorted(map(str, table.columns))}")
    if table.empty:
        raise InputValueError("table must have at least one row, got none")
    columns = _metric_columns(table, metrics, (method, dataset, seed))
    groups = dict(list(table.groupby(dataset, sort=False))) if dataset in table else {"": table}
    names = list(dict.fromkeys(table[method]))
    if baseline is not None:
        if baseline not in names:
            raise InputValueError(f"baseline must be one of the methods {names}, got {baseline!r}")
        keys = [seed] if seed in table else []
        groups = {name: _differences(group, columns, baseline, method, keys) for name, group in groups.items()}
        names.remove(baseline)
    height = len(groups) * (FRAME + ROW_HEIGHT * len(names)) + 0.3
    figure = new_figure(1.6 + PANEL_WIDTH * len(columns), max(height, 2.2), title)
    panels = figure.subplots(len(groups), len(columns), squeeze=False)
    for axes, (data_name, group) in zip(panels, groups.items(), strict=True):
        for ax, column in zip(axes, columns, strict=True):
            scores = [group.loc[group[method] == name, column].to_numpy(dtype=np.float64) for name in names]
            _draw(ax, names, [values[np.isfinite(values)] for values in scores], show_names=ax is axes[0])
            label = (labels or {}).get(column, column)
            style_axes(
                ax,
                title=str(data_name) or None if ax is axes[0] else None,
                xlabel=label if baseline is None else f"{label}, minus that of {baseline}",
            )
            if baseline is not None:
                ax.axvline(0, color=IDEAL, linewidth=1.2, linestyle=DASHED, zorder=1)
    return figure


def _metric_columns(table: "pd.DataFrame", metrics: Sequence[str] | None, others: Sequence[str]) -> list[str]:
    numbers = [str(name) for name in table.select_dtypes("number") if name not in others]
    chosen = numbers if metrics is None else [metrics] if isinstance(metrics, str) else list(metrics)
    if not chosen:
        raise InputValueError(f"table must have a column of numbers besides {list(others)}, got {list(table.columns)}")
    if missing := [name for name in chosen if name not in numbers]:
        raise InputValueError(f"metrics must be columns of numbers, {numbers}, got {missing}")
    return chosen


def _differences(
    group: "pd.DataFrame", columns: list[str], baseline: str, method: str, keys: list[str]
) -> "pd.DataFrame":
    """Differences of each run to the baseline's run with the same keys."""
    reference = group.loc[group[method] == baseline, [*keys, *columns]]
    if reference.duplicated(keys).any() if keys else len(reference) > 1:
        raise InputValueError(
            f"baseline {baseline!r} must have one run for each seed and data set, so that runs can be paired"
        )
    others = group.loc[group[method] != baseline, [method, *keys, *columns]]
    pairs = others.merge(reference, how="inner" if keys else "cross", on=keys or None, suffixes=("", "_baseline"))
    for name in columns:
        pairs[name] = pairs[name] - pairs[f"{name}_baseline"]
    return pairs


def _draw(ax: Axes, names: list[str], scores: list[Floats], *, show_names: bool) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(4))  # numbers of five digits do not overlap
    for row, values in enumerate(scores):
        if not len(values):
            continue
        error = float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else 0.0
        if len(values) > 1:
            ax.plot(values, np.full(len(values), row), "o", markersize=3, color=DATA, alpha=0.4, markeredgewidth=0)
        ax.errorbar(
            values.mean(), row, xerr=error, fmt="o", markersize=6, color=BLUE, elinewidth=1.8, capsize=3, zorder=4
        )
    ax.set_yticks(range(len(names)), [str(name) for name in names] if show_names else [""] * len(names))
    ax.set_ylim(len(names) - 0.5, -0.5)
