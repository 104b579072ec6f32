"""Plot of the variational objective and its terms over training, from a CSV log."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Floats
from lightning_vi.plots._logs import MetricsLog, read_log
from lightning_vi.plots._stages import BURN_IN_ENDS, mark_stages, stage_ends
from lightning_vi.plots._style import BLUE, VERMILION, legend_below, new_figure, style_axes

CURVES = (("train", "Training", BLUE), ("val", "Validation", VERMILION))


class Panel(NamedTuple):
    """Title, unit of the y-axis, and metrics to draw as (name, label, color)."""

    title: str
    unit: str
    curves: tuple[tuple[str, str, str], ...]


def plot_objective(
    save_dir: str | Path,
    *,
    extra_metrics: Sequence[str] = (),
    smoothing_window: int | None = None,
    title: str | None = None,
) -> Figure:
    r"""Plots the evidence lower bound, the negative log-likelihood and the KL divergence over the epochs.

    Faint lines are the logged values, bold lines their centered moving average. The average is taken separately during
    and after the burn-in, since the objective changes in between. Vertical lines mark the end of the burn-in and, with
    KL annealing, the epoch from which the KL has full weight. Validation values are drawn if they were logged. Panels
    without logged values are omitted, such as the KL of a baseline; without `train_elbo` the first panel shows
    `train_loss`.

    Args:
        save_dir: save directory of Lightning's `CSVLogger`, or directory of one run. The log is its `metrics.csv`, or
            that of the highest-numbered `version_*` in it or in its `lightning_logs`.
        extra_metrics: additional panels, by the metric's name without prefix: `["rmse"]` adds one with `train_rmse` and
            `val_rmse`.
        smoothing_window: number of logged values to average over; 1 draws the logged values only. None: a twentieth of
            the run but at least 5; fewer than 20 values are not smoothed.
        title: title of the figure.

    Returns:
        A figure with one panel per term.

    Raises:
        FileNotFoundError: if there is no log.
        ValueError: if the log has no term of the objective or lacks one of `extra_metrics`, or `smoothing_window` is
            not positive.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from lightning_vi.plots import plot_objective
        >>> with tempfile.TemporaryDirectory() as save_dir:
        ...     log = Path(save_dir, "metrics.csv")
        ...     _ = log.write_text(
        ...         "epoch,step,train_elbo,train_nll,train_kl,train_burnin\n"
        ...         "0,9,-2.5,2.5,,1.0\n1,19,-1.75,1.5,40.0,0.0\n2,29,-1.5,1.25,38.0,0.0\n"
        ...     )
        ...     figure = plot_objective(save_dir)
        >>> [ax.get_title(loc="left") for ax in figure.axes]
        ['Evidence lower bound', 'Negative log-likelihood', 'KL divergence']
    """
    if smoothing_window is not None and smoothing_window < 1:
        raise InputValueError(f"smoothing_window must be at least 1, got {smoothing_window}")
    log = read_log(save_dir)
    panels = _panels(log, extra_metrics)
    axis = log.time_axis([name for panel in panels for name, _, _ in panel.curves])
    stages = stage_ends(log, axis)
    burn_in_end = max((end for end, label in stages if label == BURN_IN_ENDS), default=-np.inf)

    figure = new_figure(4.2 * len(panels) if len(panels) > 1 else 6.0, 3.6, title)
    axes = [figure.add_subplot(1, len(panels), place + 1) for place in range(len(panels))]
    for ax, panel in zip(axes, panels, strict=True):
        for name, label, color in panel.curves:
            time, values = log.series(name, axis)
            window = smoothing_window or _default_window(len(time))
            _draw_smoothed(ax, time, values, window, burn_in_end, color=color, label=label)
        style_axes(ax, title=panel.title, xlabel=axis, ylabel=panel.unit)
    start = min(ax.get_xlim()[0] for ax in axes)
    end = max(ax.get_xlim()[1] for ax in axes)
    for ax in axes:
        ax.set_xlim(start, end)
        mark_stages(ax, stages)
    legend_below(figure, max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[1])))
    return figure


def _panels(log: MetricsLog, extra_metrics: Sequence[str]) -> list[Panel]:
    """Returns the panels that have at least one curve in the log."""

    def curves(metric: str) -> tuple[tuple[str, str, str], ...]:
        return tuple(
            (f"{prefix}_{metric}", label, color) for prefix, label, color in CURVES if log.has(f"{prefix}_{metric}")
        )

    terms = [
        Panel("Evidence lower bound", "nats per datum", curves("elbo")),
        Panel("Negative log-likelihood", "nats per datum", curves("nll")),
        Panel("KL divergence", "nats", curves("kl")),
    ]
    if not terms[0].curves:
        terms[0] = Panel("Loss", "", curves("loss"))
    extras = [Panel(metric, "", curves(metric)) for metric in extra_metrics]
    missing = [panel.title for panel in extras if not panel.curves]
    if missing or not any(panel.curves for panel in terms):
        wanted = missing or ["elbo", "loss", "nll", "kl"]
        raise InputValueError(
            f"{log.path} has no values of {wanted} under 'train_' or 'val_'; the columns are {sorted(log.columns)}"
        )
    return [panel for panel in terms + extras if panel.curves]


def _draw_smoothed(
    ax: Axes, time: Floats, values: Floats, window: int, burn_in_end: float, *, color: str, label: str
) -> None:
    if min(window, len(time)) < 3:
        ax.plot(time, values, color=color, linewidth=1.6, marker="o" if len(time) == 1 else "", label=label)
        return
    legend_label = label
    for stage in (time < burn_in_end, time >= burn_in_end):
        if stage.any():
            smooth = moving_average(values[stage], window)
            ax.plot(time[stage], smooth, color=color, linewidth=2, label=legend_label)
            legend_label = f"_{label}"
    ax.plot(time, values, color=color, linewidth=0.9, alpha=0.35, label=f"{label}, as logged")


def _default_window(count: int) -> int:
    return max(5, count // 20) if count >= 20 else 1


def moving_average(values: Floats, window: int) -> Floats:
    """Returns the centered moving average, [N], over an odd number of at most `window` and at most N / 2 values.

    The first and last values, which have no full window, lie on the least-squares line through the outermost window: an
    average over fewer values would be noisier there, and an average that is not centered would lag.
    """
    count = len(values)
    width = min(window, count // 2)
    width -= 1 - width % 2
    smooth = values.copy()
    if width < 3:
        return smooth
    half = width // 2
    smooth[half : count - half] = np.lib.stride_tricks.sliding_window_view(values, width).mean(axis=1)
    offset = np.arange(width) - half
    for outermost, ends in ((slice(0, width), slice(0, half)), (slice(count - width, count), slice(-half, None))):
        slope = np.sum(offset * values[outermost]) / np.sum(offset**2)
        line = values[outermost].mean() + slope * offset
        smooth[ends] = line[ends]
    return smooth
