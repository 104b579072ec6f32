"""Plots of data, training curves, predictions, calibration and uncertainty rankings.

Every function takes tensors (on any device, with or without gradient) or NumPy arrays, does not modify them, and
returns a matplotlib `Figure`. An argument `prediction` is a `Prediction`, a dictionary of `predict_step`, or a
dictionary of arrays with its keys, such as `{"pred": mean, "pred_uct": std}`. In all shapes, N is the number of data
and C the number of classes.

Figures are not registered with pyplot, so they need not be closed, and no global state of matplotlib is changed.
Notebooks display a figure as the last value of a cell; `figure.savefig("name.png")` saves it, and `figure.axes` gives
access to its axes.
"""

from lightning_vi.plots.calibration import plot_calibration
from lightning_vi.plots.calibration_curves import plot_calibration_curves
from lightning_vi.plots.classification import plot_classification_2d
from lightning_vi.plots.comparison import plot_method_comparison
from lightning_vi.plots.detection import plot_ood_scores
from lightning_vi.plots.error import plot_error_uncertainty
from lightning_vi.plots.field import plot_field
from lightning_vi.plots.image_grid import plot_image_grid
from lightning_vi.plots.objective import plot_objective
from lightning_vi.plots.observed import plot_predicted_observed
from lightning_vi.plots.pit import plot_pit
from lightning_vi.plots.posterior import plot_posterior
from lightning_vi.plots.predictions import plot_predictions_regression
from lightning_vi.plots.reliability import plot_reliability_diagram
from lightning_vi.plots.segmentation import plot_segmentation
from lightning_vi.plots.selective import plot_risk_coverage
from lightning_vi.plots.shift import plot_detection, plot_shift
from lightning_vi.plots.toy import plot_toy_regression_data
from lightning_vi.plots.training import plot_training_metrics

__all__ = [
    "plot_calibration",
    "plot_calibration_curves",
    "plot_classification_2d",
    "plot_detection",
    "plot_error_uncertainty",
    "plot_field",
    "plot_image_grid",
    "plot_method_comparison",
    "plot_objective",
    "plot_ood_scores",
    "plot_pit",
    "plot_posterior",
    "plot_predicted_observed",
    "plot_predictions_regression",
    "plot_reliability_diagram",
    "plot_risk_coverage",
    "plot_segmentation",
    "plot_shift",
    "plot_toy_regression_data",
    "plot_training_metrics",
]
