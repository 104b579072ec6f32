"""Shared style of all figures: palette, axes, legends, and a figure that does not need pyplot."""

from io import BytesIO
from typing import Literal

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK = "#2B2B2B"
GRID = "#DDDDDD"

# Palette of Okabe & Ito: every pair is distinguishable under the common color vision deficiencies.
BLUE = "#0072B2"
SKY = "#56B4E9"
GREEN = "#009E73"
ORANGE = "#E69F00"
VERMILION = "#D55E00"
PURPLE = "#CC79A7"
YELLOW = "#F0E442"
CLASS_COLORS = (BLUE, ORANGE, GREEN, PURPLE, VERMILION, SKY, YELLOW)

DATA, TEST_DATA, TRUTH = "#6E6E6E", VERMILION, INK
MEAN, EPISTEMIC, ALEATORIC, TOTAL = BLUE, BLUE, ORANGE, SKY
IDEAL = "#8C8C8C"

BAND_STDS = 2.0
DASHED = (0, (4, 2))
TITLE_SIZE, LABEL_SIZE, TICK_SIZE = 11, 10, 9


def class_colors(num_classes: int) -> list[str]:
    """Returns one color per class: those of the palette, or evenly spaced colors of a colormap if it is too short."""
    if num_classes <= len(CLASS_COLORS):
        return list(CLASS_COLORS[:num_classes])
    return [to_hex(color) for color in colormaps["turbo"](np.linspace(0.05, 0.95, num_classes))]


def tint(color: str, share: float) -> str:
    """Returns `color` mixed with white; unlike a translucent fill, it hides what is below and shows no seams."""
    red, green, blue = (1 - share * (1 - channel) for channel in to_rgb(color))
    return to_hex((red, green, blue))


class InlineFigure(Figure):
    """A figure that notebooks display although it is not registered with pyplot.

    Notebooks display a plain `Figure` only after pyplot has been imported; a figure made by pyplot stays in its
    registry until it is closed. `_repr_png_` avoids both.
    """

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """Returns an empty white figure of `width` x `height` inches with constrained layout."""
    figure = InlineFigure(figsize=(width, height), layout="constrained", facecolor="white")
    if title is not None:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=INK)
    return figure


def panel_grid(count: int, width: float, height: float, title: str | None = None) -> tuple[Figure, list[Axes]]:
    """Returns a figure with `count` panels of `width` x `height` inches, at most three in a row."""
    columns = 2 if count == 4 else min(count, 3)
    rows = -(-count // columns)
    figure = new_figure(width * columns, height * rows + 0.5, title)
    return figure, [figure.add_subplot(rows, columns, place + 1) for place in range(count)]


def style_axes(ax: Axes, *, title: str | None = None, xlabel: str = "", ylabel: str = "") -> None:
    """Sets the labels of `ax`, a light grid behind the data, and the shared colors and sizes."""
    ax.set_facecolor("white")
    if title is not None:
        ax.set_title(title, loc="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK)
    ax.set_xlabel(xlabel, fontsize=LABEL_SIZE, color=INK)
    ax.set_ylabel(ylabel, fontsize=LABEL_SIZE, color=INK)
    ax.tick_params(labelsize=TICK_SIZE, labelcolor=INK, color=IDEAL, length=3)
    ax.grid(True, color=GRID, linewidth=0.6, linestyle="-")
    ax.set_axisbelow(True)
    for side, spine in ax.spines.items():
        spine.set_visible(side in {"left", "bottom"})
        spine.set_color(IDEAL)


def legend_inside(ax: Axes, loc: Literal["best", "upper left"] = "best") -> None:
    """Draws the legend of `ax` inside it."""
    ax.legend(loc=loc, fontsize=TICK_SIZE, labelcolor=INK, facecolor="white", edgecolor="none", framealpha=0.85)


def legend_below(figure: Figure, ax: Axes, columns: int | None = None) -> None:
    """Draws the legend of `ax` below the figure, in one row or in `columns` columns."""
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside lower center",
        ncols=columns or len(labels),
        fontsize=TICK_SIZE,
        labelcolor=INK,
        frameon=False,
        columnspacing=1.4,
        handlelength=1.8,
    )


def note(ax: Axes, text: str, x: float, y: float, *, color: str = INK) -> None:
    """Writes `text` at axes coordinates (`x`, `y`), aligned away from the nearest edges."""
    ax.text(
        x,
        y,
        text,
        transform=ax.transAxes,
        ha="left" if x < 0.5 else "right",
        va="bottom" if y < 0.5 else "top",
        fontsize=TICK_SIZE,
        color=color,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5},
        zorder=6,
    )


def scatter(
    ax: Axes,
    x: npt.NDArray[np.float64],
    y: npt.NDArray[np.float64],
    *,
    color: str,
    label: str,
    hollow: bool = False,
) -> None:
    """Draws data points: filled and translucent, or `hollow` to be distinguishable from filled ones."""
    ax.plot(
        x,
        y,
        linestyle="none",
        marker="o",
        markersize=4,
        color=color,
        markerfacecolor="none" if hollow else color,
        markeredgewidth=0.9 if hollow else 0,
        alpha=0.8 if hollow else 0.5,
        label=label,
    )


def add_headroom(ax: Axes, fraction: float) -> float:
    """Leaves the upper `fraction` of histogram `ax` free for a legend; returns the fraction below it."""
    ax.set_ylim(top=ax.dataLim.ymax / (1 - fraction))
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return 1 - fraction


def band(
    ax: Axes,
    x: npt.NDArray[np.float64],
    mean: npt.NDArray[np.float64],
    std: npt.NDArray[np.float64],
    *,
    color: str,
    alpha: float,
    label: str,
) -> None:
    """Fills the area between `mean` minus and plus two standard deviations."""
    ax.fill_between(
        x,
        mean - BAND_STDS * std,
        mean + BAND_STDS * std,
        color=color,
        alpha=alpha,
        linewidth=0,
        label=f"{label} (±{BAND_STDS:g} std)",
    )
