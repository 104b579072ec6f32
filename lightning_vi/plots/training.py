"""Plot of logged metrics over training, from a CSV log."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.plots._logs import read_log
from lightning_vi.plots._metric_units import metric_unit
from lightning_vi.plots._stages import mark_stages, stage_ends
from lightning_vi.plots._style import BLUE, panel_grid, style_axes


def plot_training_metrics(
    save_dir: str | Path,
    metrics: Sequence[str],
    *,
    title: str | None = None,
    ylabels: Sequence[str] | None = None,
) -> Figure:
    r"""Plots each of `metrics` over the epochs, one panel per metric.

    If a metric was logged more than once in an epoch, all metrics are drawn over the steps. Vertical lines mark the end
    of the burn-in and, with KL annealing, the epoch from which the KL has full weight.

    Args:
        save_dir: save directory of Lightning's `CSVLogger`, or directory of one run. The log is its `metrics.csv`, or
            that of the highest-numbered `version_*` in it or in its `lightning_logs`.
        metrics: names of columns of the log, such as `["train_loss", "val_nll"]`.
        title: title of the figure.
        ylabels: one label for each of `metrics`, with its unit. None: the units of the metrics that methods log, and
            nothing for others.

    Returns:
        A figure with one panel per metric.

    Raises:
        FileNotFoundError: if there is no log.
        ValueError: if `metrics` is empty, a metric is not in the log or has no value, or the length of `ylabels` is not
            that of `metrics`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from lightning_vi.plots import plot_training_metrics
        >>> with tempfile.TemporaryDirectory() as save_dir:
        ...     log = Path(save_dir, "metrics.csv")
        ...     _ = log.write_text("epoch,step,train_loss,val_nll\n0,9,2.5,\n0,9,,1.5\n1,19,1.75,\n")
        ...     figure = plot_training_metrics(save_dir, ["train_loss", "val_nll"])
        >>> [float(y) for y in figure.axes[0].lines[0].get_ydata()]
        [2.5, 1.75]
    """
    names = [metrics] if isinstance(metrics, str) else list(metrics)
    if not names:
        raise InputValueError("metrics must name at least one column of the log, got none")
    labels = [metric_unit(name) for name in names] if ylabels is None else list(ylabels)
    if len(labels) != len(names):
        raise InputValueError(f"ylabels must have one label for each of the {len(names)} metrics, got {len(labels)}")
    log = read_log(save_dir)
    for name in names:
        log.require(name)
    axis = log.time_axis(names)
    stages = stage_ends(log, axis)

    figure, axes = panel_grid(len(names), 4.2 if len(names) > 1 else 6.0, 3.0, title)
    for ax, name, label in zip(axes, names, labels, strict=True):
        time, values = log.series(name, axis)
        marker = "o" if len(time) <= 12 else ""
        ax.plot(time, values, color=BLUE, linewidth=1.8, marker=marker, markersize=4, label=name)
        style_axes(ax, title=name, xlabel=axis, ylabel=label)
        if stages:
            ax.set_xlim(min(float(time[0]), 0.0), max(ax.get_xlim()[1], *(end for end, _ in stages)))
            mark_stages(ax, stages)
    return figure
