"""Functions that return a matplotlib `Figure`: data, training, predictions, their calibration and their ranking.

Every function takes tensors (on any device, with or without gradient) or numpy arrays, leaves them as they
are, changes no global state of matplotlib, and returns a figure that pyplot does not know: there is nothing
to close. Notebooks display it as the last value of a cell; `figure.savefig("name.png")` writes it, and
`figure.axes` are there to adjust.
"""

from lightning_vi.plots.calibration import plot_calibration
from lightning_vi.plots.classification import plot_classification_2d
from lightning_vi.plots.detection import plot_ood_scores
from lightning_vi.plots.objective import plot_objective
from lightning_vi.plots.predictions import plot_predictions_regression
from lightning_vi.plots.reliability import plot_reliability_diagram
from lightning_vi.plots.selective import plot_risk_coverage
from lightning_vi.plots.toy import plot_toy_regression_data
from lightning_vi.plots.training import plot_training_metrics

__all__ = [
    "plot_calibration",
    "plot_classification_2d",
    "plot_objective",
    "plot_ood_scores",
    "plot_predictions_regression",
    "plot_reliability_diagram",
    "plot_risk_coverage",
    "plot_toy_regression_data",
    "plot_training_metrics",
]
