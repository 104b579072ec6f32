"""Plot of logged metrics over training, from a CSV log."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.plots._logs import read_log
from lightning_vi.plots._style import BLUE, new_figure, style_axes

MAX_COLUMNS = 3


def plot_training_metrics(
    save_dir: str | Path,
    metrics: Sequence[str],
    *,
    title: str | None = None,
    ylabels: Sequence[str] | None = None,
) -> Figure:
    r"""Plots each of `metrics` over the epochs, one panel per metric.

    If a metric was logged more than once in an epoch, all metrics are drawn over the steps.

    Args:
        save_dir: save directory of Lightning's `CSVLogger`, or directory of one run. The log is its `metrics.csv`, or
            that of the highest-numbered `version_*` in it or in its `lightning_logs`.
        metrics: names of columns of the log, such as `["train_loss", "val_nll"]`.
        title: title of the figure.
        ylabels: one label for each of `metrics`, with its unit. None: no labels.

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
    labels = [""] * len(names) if ylabels is None else list(ylabels)
    if len(labels) != len(names):
        raise InputValueError(f"ylabels must have one label for each of the {len(names)} metrics, got {len(labels)}")
    log = read_log(save_dir)
    for name in names:
        log.require(name)
    axis = log.time_axis(names)

    columns = 2 if len(names) == 4 else min(len(names), MAX_COLUMNS)
    rows = -(-len(names) // columns)
    figure = new_figure(4.2 * columns if columns > 1 else 6.0, 3.2 * rows, title)
    for place, (name, label) in enumerate(zip(names, labels, strict=True), start=1):
        ax = figure.add_subplot(rows, columns, place)
        time, values = log.series(name, axis)
        marker = "o" if len(time) <= 12 else ""
        ax.plot(time, values, color=BLUE, linewidth=1.8, marker=marker, markersize=4, label=name)
        style_axes(ax, title=name, xlabel=axis, ylabel=label)
    return figure
