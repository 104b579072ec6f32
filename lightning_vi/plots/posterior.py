"""Plot of a posterior, module by module."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.plots._style import (
    BLUE,
    DASHED,
    GREEN,
    INK,
    ORANGE,
    SKY,
    TICK_SIZE,
    VERMILION,
    legend_below,
    new_figure,
    style_axes,
)

QUANTILES = ("snr_05", "snr_25", "snr_50", "snr_75", "snr_95")
MAX_MODULES = 40


class PosteriorTable(Protocol):
    """Diagnostics with a row per module, such as `PosteriorDiagnostics`."""

    def to_frame(self) -> pd.DataFrame:
        """Returns one row per module, with its name as the index."""


class DiagnosedPosterior(Protocol):
    """A method that makes such a table."""

    def posterior_diagnostics(self) -> PosteriorTable:
        """Computes the diagnostics."""


def plot_posterior(posterior: DiagnosedPosterior | PosteriorTable, *, title: str | None = None) -> Figure:
    r"""Plots KL divergence, signal-to-noise ratio, standard deviation and pruned units of each module.

    Boxes of the second panel hold the middle half of the module's weights, lines nine tenths of them, and left of the
    dashed line the noise is larger than the mean. A standard deviation equal to the prior's, at the dashed line of the
    third panel, belongs to weights that the data have told nothing. The last panel has the shares of output units whose
    incoming weights are noise and of inputs whose outgoing weights are, see `PosteriorDiagnostics`.

    Args:
        posterior: a method with a variational posterior, or its diagnostics, as `VariationalDiagnostics` keeps them.
        title: title of the figure.

    Returns:
        A figure with four panels and one row per module.

    Raises:
        TypeError: if `posterior` has no diagnostics.
        ValueError: if it has more than 40 modules with weights, which leave no room for their names.

    Example:
        >>> import torch
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> figure = plot_posterior(MeanFieldVI(MLP(1, [8, 8], 1), Gaussian()))
        >>> [ax.get_title(loc="left") for ax in figure.axes]
        ['KL divergence', 'Signal-to-noise ratio', 'Std over prior std', 'Units without signal']
    """
    table = _table(posterior)
    if len(table) > MAX_MODULES:
        raise InputValueError(f"posterior has {len(table)} modules, and there is room for {MAX_MODULES}")
    names = [str(name) or "(root)" for name in table.index]
    panels: tuple[tuple[str, str, Callable[[Axes, pd.DataFrame], None]], ...] = (
        ("KL divergence", "nats", _draw_kl),
        ("Signal-to-noise ratio", r"$|\mu|\ /\ \sigma$", _draw_signal),
        ("Std over prior std", "ratio", _draw_std),
        ("Units without signal", "share", _draw_pruned),
    )
    figure = new_figure(12.5, 2.2 + 0.34 * len(table), title)
    for place, (name, unit, draw) in enumerate(panels):
        ax = figure.add_subplot(1, len(panels), place + 1)
        draw(ax, table)
        style_axes(ax, title=name, xlabel=unit)
        ax.set_yticks(range(len(names)), names if place == 0 else [""] * len(names), fontsize=TICK_SIZE)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.grid(False, axis="y")
    figure.axes[0].set_ylabel("module", fontsize=TICK_SIZE, color=INK)
    legend_below(figure, figure.axes[-1])
    return figure


def _table(posterior: DiagnosedPosterior | PosteriorTable) -> pd.DataFrame:
    diagnose = getattr(posterior, "posterior_diagnostics", None)
    found = diagnose() if callable(diagnose) else posterior
    if not hasattr(found, "to_frame"):
        name = type(posterior).__name__
        raise InputTypeError(f"posterior must be a method with a variational posterior or its diagnostics, got {name}")
    frame: pd.DataFrame = found.to_frame()
    return frame


def _rows(table: pd.DataFrame) -> list[int]:
    return list(range(len(table)))


def _draw_kl(ax: Axes, table: pd.DataFrame) -> None:
    values = table["kl"].to_numpy(dtype=float)
    ax.barh(_rows(table), values, height=0.6, color=BLUE)
    ax.set_xlim(min(0.0, 1.3 * float(values.min())), 1.35 * max(float(values.max()), 1e-12))
    for row, (value, per_weight) in enumerate(zip(values, table["kl_per_weight"], strict=True)):
        text = f" {per_weight:.2g} per weight"
        ax.text(max(value, 0.0), row, text, va="center", fontsize=TICK_SIZE - 1, color=INK)


def _draw_signal(ax: Axes, table: pd.DataFrame) -> None:
    quantiles = np.maximum(table[list(QUANTILES)].to_numpy(dtype=float), 1e-3)
    for row, (low, first, median, third, high) in enumerate(quantiles):
        ax.plot([low, high], [row, row], color=SKY, linewidth=1.6, solid_capstyle="round")
        ax.plot([first, third], [row, row], color=SKY, linewidth=9, solid_capstyle="butt")
        ax.plot([median], [row], marker="|", markersize=10, markeredgewidth=2.2, color=BLUE)
    ax.set_xscale("log")
    ax.axvline(1.0, color=INK, linewidth=1.1, linestyle=DASHED)


def _draw_std(ax: Axes, table: pd.DataFrame) -> None:
    values = table["std_over_prior"].to_numpy(dtype=float)
    known = np.isfinite(values)
    ax.plot(values[known], np.flatnonzero(known), linestyle="none", marker="o", markersize=7, color=GREEN)
    ax.set_xscale("log")
    ax.axvline(1.0, color=INK, linewidth=1.1, linestyle=DASHED)
    lowest = float(values[known].min()) if known.any() else 1.0
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_xlim(min(0.05, 0.5 * lowest), max(2.0, 2.0 * float(np.max(values[known], initial=1.0))))


def _draw_pruned(ax: Axes, table: pd.DataFrame) -> None:
    rows = np.arange(len(table))
    bars = (
        ("pruned_units", "Outputs, by incoming weights", VERMILION, -0.17),
        ("ignored_inputs", "Inputs, by outgoing weights", ORANGE, 0.17),
    )
    for column, label, color, shift in bars:
        values = table[column].to_numpy(dtype=float)
        ax.barh(rows + shift, np.nan_to_num(values), height=0.32, color=color, label=label)
        for row, value in zip(rows, values, strict=True):
            text = " -" if np.isnan(value) else f" {value:.0%}"
            ax.text(np.nan_to_num(value), row + shift, text, va="center", fontsize=TICK_SIZE - 2, color=INK)
    ax.set_xlim(0, 1.18)
    ax.set_xticks([0, 0.5, 1])
