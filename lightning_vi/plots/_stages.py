"""Marks of the stages of a fit: the ends of the burn-in and of the annealing of the KL divergence."""

import numpy as np
from matplotlib.axes import Axes

from lightning_vi.plots._logs import MetricsLog
from lightning_vi.plots._style import DASHED, GRID, INK, TICK_SIZE

BURN_IN_ENDS = "burn-in ends"


def stage_ends(log: MetricsLog, axis: str) -> list[tuple[float, str]]:
    """Returns the ends of the burn-in and of the KL annealing, with their labels, if the run has reached them."""
    ends: list[tuple[float, str]] = []
    if log.has("train_burnin"):
        time, burning = log.series("train_burnin", axis)
        if burning[0] > 0 and burning[-1] == 0:
            ends.append((float(time[burning > 0].max()) + 1, BURN_IN_ENDS))
    if log.has("train_kl_weight"):
        time, weight = log.series("train_kl_weight", axis)
        full = float(time[weight == weight.max()].min())
        if (ends[0][0] if ends else time[0]) < full < time[-1]:
            ends.append((full, "KL at full weight"))
    return ends


def mark_stages(ax: Axes, stages: list[tuple[float, str]]) -> None:
    """Draws a labeled vertical line at the end of each stage, and a gray area for the burn-in."""
    for end, label in stages:
        at_top = _is_free_at_top(ax, end)
        ax.axvline(end, color=INK, linewidth=1.1, linestyle=DASHED)
        ax.text(
            end,
            0.97 if at_top else 0.03,
            f" {label}",
            transform=ax.get_xaxis_transform(),
            rotation=90,
            ha="left",
            va="top" if at_top else "bottom",
            fontsize=TICK_SIZE,
            color=INK,
        )
        if label == BURN_IN_ENDS:
            ax.axvspan(ax.get_xlim()[0], end, color=GRID, alpha=0.5, linewidth=0, zorder=0)


def _is_free_at_top(ax: Axes, time: float) -> bool:
    """Returns True if the curves right of `time` leave more space above than below them."""
    (start, end), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    nearby = [
        value
        for line in ax.lines
        for at, value in np.asarray(line.get_xydata())
        if time <= at <= time + 0.08 * (end - start) and bottom <= value <= top
    ]
    return not nearby or top - max(nearby) >= min(nearby) - bottom
