"""Calibration curves of several predictions on one axis, such as before and after a calibration."""

from collections.abc import Mapping

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.intervals import wilson_interval
from lightning_vi.functional.scoring import expected_calibration_error, top_label, top_label_bins
from lightning_vi.plots._arrays import Array, Floats
from lightning_vi.plots._predictions import PredictionLike, as_rows, classification, is_classification, regression
from lightning_vi.plots._style import DASHED, INK, class_colors, legend_below, new_figure, style_axes
from lightning_vi.plots.calibration import calibration_curve

MAX_LABEL_IN_TWO_COLUMNS = 34


def plot_calibration_curves(
    predictions: Mapping[str, PredictionLike],
    target: Array,
    n_bins: int = 15,
    *,
    title: str | None = None,
) -> Figure:
    """Plots the calibration curves of several predictions of the same data, such as before and after a calibration.

    In regression, a curve is the observed over the predicted fraction of targets inside central Gaussian intervals, and
    the legend has the area between it and the diagonal; the targets of a datum are pooled. In classification, a curve
    is the accuracy over the confidence in bins of equal width, see `plot_reliability_diagram`, with 95% confidence
    intervals of Wilson, and the legend has the expected calibration error. Below the diagonal a method is
    overconfident.

    Args:
        predictions: a `Prediction`, a dictionary of `predict_step`, or a dictionary of arrays `pred` and, in
            regression, `pred_uct`, by the name of its curve; [N, D] or [B, ..., D], or [N, C] or [N, C, ...].
        target: observed targets, the shape of `pred`; or labels 0 to C - 1, [N] or [N, ...].
        n_bins: number of bins of the confidence; not used in regression.
        title: title of the figure.

    Returns:
        A figure with one panel.

    Raises:
        ValueError: if there is no prediction, the shape of an array is wrong, a value is not finite, a standard
            deviation is not positive, labels are not class labels, or `n_bins` is less than 1.
        TypeError: if `predictions` are not a dictionary of predictions.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_calibration_curves
        >>> target, mean = torch.randn(500, generator=torch.Generator().manual_seed(0)), torch.zeros(500)
        >>> before, after = ({"pred": mean, "pred_uct": torch.full((500,), std)} for std in (0.5, 1.0))
        >>> figure = plot_calibration_curves({"before": before, "after": after}, target)
        >>> [line.get_label() for line in figure.axes[0].lines]
        ['Ideal', 'before, area = 0.206', 'after, area = 0.008']
    """
    if n_bins < 1:
        raise InputValueError(f"n_bins must be at least 1, got {n_bins}")
    if not isinstance(predictions, Mapping):
        raise InputTypeError(
            f"predictions must be a dictionary of predictions by name, such as {{'before': prediction}}, "
            f"got {type(predictions).__name__}"
        )
    if not predictions:
        raise InputValueError("predictions must have at least one curve, got none")
    figure = new_figure(5.2, 5.2, title)
    ax = figure.subplots()
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1.2, linestyle=DASHED, label="Ideal")
    labels = ["", ""]
    for color, (name, prediction) in zip(class_colors(len(predictions)), predictions.items(), strict=True):
        argument = f"predictions[{name!r}]"
        if is_classification(prediction, target, argument):
            _draw_reliability(ax, *classification(prediction, target, argument), n_bins, name, color)
            labels = ["confidence", "accuracy"]
        else:
            arrays = regression(prediction, argument)
            observed = as_rows(target, "target", shape=arrays.mean.shape, like=f"pred of {argument}")
            std = arrays.require_std()
            predicted, shares, area = calibration_curve(arrays.mean.ravel(), std.ravel(), observed.ravel())
            ax.plot(predicted, shares, color=color, linewidth=2, label=f"{name}, area = {area:.3f}")
            labels = ["predicted share in interval", "observed share in interval"]
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.set_aspect("equal")
    style_axes(ax, title="Calibration", xlabel=labels[0], ylabel=labels[1])
    longest = max(len(label) for label in ax.get_legend_handles_labels()[1])
    legend_below(figure, ax, columns=2 if longest <= MAX_LABEL_IN_TWO_COLUMNS else 1)
    return figure


def _draw_reliability(ax: Axes, probs: Floats, labels: np.ndarray, n_bins: int, name: str, color: str) -> None:
    confidence, correct = top_label(torch.from_numpy(probs), torch.from_numpy(labels))
    bins = top_label_bins(confidence, correct, n_bins)
    count, confidence_sum, correct_sum = bins[:, bins[0] > 0]
    accuracy = (correct_sum / count).numpy()
    low, high = (ends.numpy() for ends in wilson_interval(correct_sum, count))
    ax.errorbar(
        (confidence_sum / count).numpy(),
        accuracy,
        np.maximum([accuracy - low, high - accuracy], 0),
        fmt="o-",
        markersize=4,
        linewidth=1.8,
        elinewidth=0.9,
        capsize=2,
        color=color,
        label=f"{name}, ECE = {float(expected_calibration_error(bins)):.3f}",
    )
