"""What abstaining from the most uncertain data saves."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.functional.selective import area_under_risk_coverage, risk_coverage_curve
from lightning_vi.plots._arrays import Array, Floats, as_vector
from lightning_vi.plots._style import DASHED, IDEAL, class_colors, legend_below, new_figure, style_axes

MAX_POINTS = 2000
SETTLED = 0.1
LONGEST_IN_TWO_COLUMNS = 38


def plot_risk_coverage(
    uncertainty: Array | Mapping[str, Array],
    loss: Array | Mapping[str, Array],
    *,
    title: str | None = None,
    ylabel: str = "risk (mean loss of the data kept)",
) -> Figure:
    r"""Shows the mean loss of the data that are kept where the most uncertain ones are left out.

    A useful uncertainty gives a curve that falls towards small coverages. At full coverage every curve ends at the
    mean of all losses. Dashed is the best order there is, that of the losses themselves. In the legend is each
    curve's area (AURC) of Geifman et al. (2019, arXiv:1805.08206), the mean of the risks at all N coverages; lower is
    better.

    The mean of very few losses is erratic: a curve may leave the panel where less than a tenth of the data is kept.

    Args:
        uncertainty: larger is less certain, [N] or [N, 1]; or several of them by name, one curve each.
        loss: what each prediction costs, [N] or [N, 1], shared by all curves; or one for each curve, by the same
            names, such as those of several methods: each then has its own best order in its own colour.
        title: heading of the figure.
        ylabel: the label of the risk, with its unit.

    Returns:
        A figure of one panel, unknown to pyplot; notebooks display it, `savefig` writes it.

    Raises:
        ValueError: if an array has another shape or is not finite, there is no curve, or the names of `loss` are not
            those of `uncertainty`.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_risk_coverage
        >>> figure = plot_risk_coverage({"entropy": torch.tensor([0.1, 0.9, 0.5])}, torch.tensor([0.0, 1.0, 0.0]))
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['entropy, AURC = 0.111', 'Best order, AURC = 0.111']
    """
    scores = uncertainty if isinstance(uncertainty, Mapping) else {"": uncertainty}
    if not scores:
        raise ValueError("uncertainty must have at least one curve, got none")
    if isinstance(loss, Mapping) and loss.keys() != scores.keys():
        raise ValueError(f"loss must have the names of uncertainty, {list(scores)}, got {list(loss)}")

    figure = new_figure(6.0, 4.4, title)
    ax = figure.subplots()
    tops: list[float] = []
    colors = class_colors(len(scores))
    for color, (name, values) in zip(colors, scores.items(), strict=True):
        ranked, losses = _as_pair(values, loss[name] if isinstance(loss, Mapping) else loss, name)
        tops.append(_draw_curve(ax, ranked, losses, label=name, color=color))
        if isinstance(loss, Mapping):
            _draw_curve(ax, losses, losses, label=f"{name}, best order", color=color, dashed=True)
    if not isinstance(loss, Mapping):
        _draw_curve(ax, losses, losses, label="Best order", color=IDEAL, dashed=True)
    ax.set_xlim(0, 1)
    if max(tops) > 0:
        ax.set_ylim(-0.02 * max(tops), 1.1 * max(tops))
    style_axes(ax, title="Risk and coverage", xlabel="coverage (share of the data kept)", ylabel=ylabel)
    longest = max(len(label) for label in ax.get_legend_handles_labels()[1])
    legend_below(figure, ax, columns=2 if longest <= LONGEST_IN_TWO_COLUMNS else 1)
    return figure


def _as_pair(uncertainty: Array, loss: Array, name: str) -> tuple[Floats, Floats]:
    of_curve = f" of {name}" if name else ""
    ranked = as_vector(uncertainty, f"uncertainty{of_curve}")
    return ranked, as_vector(loss, "loss", length=len(ranked), like=f"uncertainty{of_curve}")


def _draw_curve(ax: Axes, uncertainty: Floats, loss: Floats, *, label: str, color: str, dashed: bool = False) -> float:
    """Draws a curve and returns the largest risk where more than a few data are kept."""
    scores, losses = torch.from_numpy(uncertainty), torch.from_numpy(loss)
    area = float(area_under_risk_coverage(scores, losses))
    coverage, risk = (values.numpy() for values in risk_coverage_curve(scores, losses))
    shown = np.unique(np.linspace(0, len(risk) - 1, min(len(risk), MAX_POINTS)).round().astype(np.int64))
    ax.plot(
        coverage[shown],
        risk[shown],
        color=color,
        linewidth=1.4 if dashed else 2,
        linestyle=DASHED if dashed else "-",
        marker="o" if len(shown) == 1 else "",
        label=f"{label}, AURC = {area:.3g}" if label else f"AURC = {area:.3g}",
    )
    return float(risk[coverage >= SETTLED].max())
