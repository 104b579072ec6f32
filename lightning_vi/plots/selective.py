"""Risk-coverage curves of selective prediction."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.selective import area_under_risk_coverage, risk_coverage_curve
from lightning_vi.plots._arrays import Array, Floats, as_vector
from lightning_vi.plots._style import DASHED, IDEAL, class_colors, legend_below, new_figure, style_axes

MAX_POINTS = 2000
MIN_COVERAGE_IN_VIEW = 0.1
MAX_LABEL_IN_TWO_COLUMNS = 38


@runtime_checkable
class SelectiveResult(Protocol):
    """Interface of a `SelectivePrediction`, as far as the plot needs it."""

    @property
    def uncertainty(self) -> Tensor:
        """Score of each datum."""
        ...

    @property
    def loss(self) -> Tensor:
        """Loss of each datum."""
        ...

    @property
    def loss_name(self) -> str:
        """Name of the loss."""
        ...


def plot_risk_coverage(
    uncertainty: Array | SelectiveResult | Mapping[str, Array | SelectiveResult],
    loss: Array | Mapping[str, Array] | None = None,
    *,
    loss_name: str | None = None,
    title: str | None = None,
    ylabel: str | None = None,
) -> Figure:
    """Plots risk-coverage curves: the mean loss of the most certain data at each coverage.

    If the uncertainty is useful, the risk decreases with decreasing coverage. At full coverage, the risk is the mean of
    all losses. Dashed curves show the optimal ranking, by the losses themselves. The legend shows the area under each
    curve (AURC) of Geifman et al. (2019, arXiv:1805.08206), the mean of the risks at all N coverages; lower is better.

    The mean of very few losses is noisy: below a coverage of 0.1, curves may leave the panel.

    Args:
        uncertainty: uncertainty of each prediction, larger values are less certain, [N] or [N, 1]; or a dictionary with
            one curve per name; or a result of `lightning_vi.evaluation.selective_prediction`, or a dictionary of them,
            which have their losses.
        loss: loss of each prediction, shared by all curves, [N] or [N, 1]; or a dictionary with the same names, such as
            the losses of several methods: the optimal ranking of each is then drawn in the color of its curve. None
            with results.
        loss_name: name of the loss in the label of the risk, such as "squared error [m²]". None: the name that results
            have, or "loss".
        title: title of the figure.
        ylabel: label of the risk, in place of the one with `loss_name`.

    Returns:
        A figure with one panel.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, there is no curve, or the names of `loss`
            are not those of `uncertainty`.
        TypeError: if `loss` is missing, or given with results.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_risk_coverage
        >>> figure = plot_risk_coverage({"entropy": torch.tensor([0.1, 0.9, 0.5])}, torch.tensor([0.0, 1.0, 0.0]))
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['entropy, AURC = 0.111', 'Best order, AURC = 0.111']
    """
    curves, losses_of, found_name = _curves(uncertainty, loss)
    name_of_loss = loss_name or found_name
    own_losses = isinstance(losses_of, Mapping)

    figure = new_figure(6.0, 4.4, title)
    ax = figure.subplots()
    largest: list[float] = []
    colors = class_colors(len(curves))
    for color, (name, values) in zip(colors, curves.items(), strict=True):
        scores, losses = _as_pair(values, losses_of[name] if isinstance(losses_of, Mapping) else losses_of, name)
        largest.append(_draw_curve(ax, scores, losses, label=name, color=color))
        if own_losses:
            _draw_curve(ax, losses, losses, label=f"{name}, best order", color=color, dashed=True)
    if not own_losses:
        _draw_curve(ax, losses, losses, label="Best order", color=IDEAL, dashed=True)
    ax.set_xlim(0, 1)
    if (top := max(largest)) > 0:
        ax.set_ylim(-0.02 * top, 1.1 * top)
    risk = ylabel or f"risk (mean {name_of_loss} of the data kept)"
    style_axes(ax, title="Risk and coverage", xlabel="coverage (share of the data kept)", ylabel=risk)
    longest = max(len(label) for label in ax.get_legend_handles_labels()[1])
    legend_below(figure, ax, columns=2 if longest <= MAX_LABEL_IN_TWO_COLUMNS else 1)
    return figure


def _curves(
    uncertainty: Array | SelectiveResult | Mapping[str, Array | SelectiveResult],
    loss: Array | Mapping[str, Array] | None,
) -> tuple[dict[str, Array], Array | Mapping[str, Array], str]:
    """Returns scores by name, the losses that they share or those of each name, and the name of the loss."""
    given = uncertainty if isinstance(uncertainty, Mapping) else {"": uncertainty}
    if not given:
        raise InputValueError("uncertainty must have at least one curve, got none")
    results = {name: each for name, each in given.items() if isinstance(each, SelectiveResult)}
    curves = {name: each for name, each in given.items() if not isinstance(each, SelectiveResult)}
    if not results:
        if loss is None:
            raise InputTypeError("loss must be given: the loss of each prediction, such as 0 or 1 or a squared error")
        if isinstance(loss, Mapping) and loss.keys() != curves.keys():
            raise InputValueError(f"loss must have the names of uncertainty, {list(curves)}, got {list(loss)}")
        return curves, loss, "loss"
    if loss is not None or curves:
        raise InputTypeError(
            "results of selective_prediction have their losses: they need no loss, and cannot be mixed with arrays"
        )
    scores: dict[str, Array] = {name: each.uncertainty for name, each in results.items()}
    losses: dict[str, Array] = {name: each.loss for name, each in results.items()}
    names = ", ".join(dict.fromkeys(each.loss_name for each in results.values()))
    return scores, losses if isinstance(uncertainty, Mapping) else losses[""], names


def _as_pair(uncertainty: Array, loss: Array, name: str) -> tuple[Floats, Floats]:
    argument = f"uncertainty of {name}" if name else "uncertainty"
    scores = as_vector(uncertainty, argument)
    return scores, as_vector(loss, "loss", length=len(scores), like=argument)


def _draw_curve(ax: Axes, uncertainty: Floats, loss: Floats, *, label: str, color: str, dashed: bool = False) -> float:
    """Draws a curve and returns its largest risk, except at small coverages."""
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
    return float(risk[coverage >= MIN_COVERAGE_IN_VIEW].max())
