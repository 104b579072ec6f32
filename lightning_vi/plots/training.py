"""Curves of a training run, from its CSV log."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.plots._arrays import Floats
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
    r"""Shows each of `metrics` over the epochs, one panel per metric.

    Rows in which a metric is missing, because others were logged there, are skipped. Metrics that were
    logged more than once in an epoch are drawn against the step, and so are then all the others.

    Args:
        save_dir: folder that was given to Lightning's `CSVLogger`; or that of one run. The log is its
            `metrics.csv`, or that of the highest-numbered `version_*` in it or in its `lightning_logs`.
        metrics: names of columns of the log, such as `["train_loss", "val_nll"]`.
        title: heading of the figure.
        ylabels: one label for each of `metrics`, with its unit. Defaults to the names.

    Returns:
        A figure with one panel per metric, unknown to pyplot; notebooks display it, `savefig` writes it.

    Raises:
        FileNotFoundError: if there is no log.
        ValueError: if `metrics` is empty, a metric is not in the log or has no value, or `ylabels` has
            another length.

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
        raise ValueError("metrics must name at least one column of the log, got none")
    labels = names if ylabels is None else list(ylabels)
    if len(labels) != len(names):
        raise ValueError(f"ylabels must have one label for each of the {len(names)} metrics, got {len(labels)}")
    log = read_log(save_dir)
    for name in names:
        log.require(name)
    axis = log.time_axis(names)

    columns = 2 if len(names) == 4 else min(len(names), MAX_COLUMNS)
    rows = -(-len(names) // columns)
    figure = new_figure(4.2 * columns if columns > 1 else 6.0, 3.2 * rows, title)
    for place, (name, label) in enumerate(zip(names, labels, strict=True), start=1):
        ax = figure.add_subplot(rows, columns, place)
        draw_curve(ax, *log.series(name, axis), label=name)
        style_axes(ax, title=name, xlabel=axis, ylabel=label if ylabels is not None else "")
    return figure


def draw_curve(ax: Axes, time: Floats, values: Floats, *, label: str, color: str = BLUE) -> None:
    """Draws one metric over time; a few values are marked, since one alone makes no line."""
    ax.plot(
        time,
        values,
        color=color,
        linewidth=1.8,
        marker="o" if len(time) <= 12 else "",
        markersize=4,
        label=label,
    )
