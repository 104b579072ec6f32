"""Figures of the demonstration."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from lightning_vi.datamodules import ArrayDataModule, ToyHeteroscedasticDataModule
from lightning_vi.errors import InputTypeError
from lightning_vi.methods import CalibratedMethod, Predictor
from lightning_vi.plots import (
    plot_calibration,
    plot_objective,
    plot_predictions_regression,
    plot_reliability_diagram,
)


@dataclass(frozen=True)
class FittedMethod:
    """A fitted method with its scores and predictions on the test data.

    Attributes:
        method: The method.
        data: The datamodule that it was fitted to.
        prediction: The output of `predict_step` for all test data.
        scores: Metrics on the test data by name, without a prefix.
        seconds: Duration of the fit.
        folder: Folder of its log, predictions and figures.
    """

    method: Predictor
    data: ArrayDataModule
    prediction: dict[str, Tensor]
    scores: dict[str, float]
    seconds: float
    folder: Path

    @property
    def name(self) -> str:
        """Class name of the method; for a calibration, preceded by that of the calibrated method."""
        if isinstance(self.method, CalibratedMethod):
            return f"{type(self.method.method).__name__} + {type(self.method).__name__}"
        return type(self.method).__name__

    @property
    def label(self) -> str:
        """Name in a table, where a calibration is listed below the calibrated method."""
        return f"+ {type(self.method).__name__}" if isinstance(self.method, CalibratedMethod) else self.name


def regression_figures(fitted: FittedMethod, *, ylabel: str = "y", x: Tensor | None = None) -> dict[str, Figure]:
    """Draws calibration on the test data and the training objective by epoch.

    Args:
        fitted: The method.
        ylabel: Label of the target.
        x: The test inputs [N, 1], if the data have one input.

    Returns:
        The figures by name.
    """
    prediction = fitted.prediction
    return {
        "calibration": plot_calibration(
            prediction["pred"], prediction["pred_uct"], fitted.data.Y_test, x, title=fitted.name, ylabel=ylabel
        ),
        **_objective(fitted),
    }


def curve_figures(fitted: FittedMethod) -> dict[str, Figure]:
    """Draws the predictive distribution over the input, and `regression_figures`.

    Args:
        fitted: A method fitted to the toy problem.

    Returns:
        The figures by name.

    Raises:
        TypeError: If the data are not those of the toy problem.
    """
    data = fitted.data
    if not isinstance(data, ToyHeteroscedasticDataModule):
        raise InputTypeError(f"fitted.data must be a ToyHeteroscedasticDataModule, got {type(data).__name__}")
    grid = fitted.method.predict_step(data.X_gtext)
    curve = plot_predictions_regression(
        data.X_train,
        data.Y_train,
        data.X_gtext,
        data.Y_gtext,
        grid["pred"],
        grid["pred_uct"],
        epistemic=grid["epistemic_uct"],
        aleatoric=grid["aleatoric_uct"],
        title=fitted.name,
    )
    return {"predictions": curve, **regression_figures(fitted, x=data.X_test)}


def classifier_figures(fitted: FittedMethod) -> dict[str, Figure]:
    """Draws the reliability diagram of the test data and the training objective by epoch.

    Args:
        fitted: The method.

    Returns:
        The figures by name.
    """
    return {
        "reliability": plot_reliability_diagram(fitted.prediction["pred"], fitted.data.Y_test, title=fitted.name),
        **_objective(fitted),
    }


def _objective(fitted: FittedMethod) -> dict[str, Figure]:
    """Draws the training objective; empty for a calibration, which has none."""
    if isinstance(fitted.method, CalibratedMethod):
        return {}
    return {"objective": plot_objective(fitted.folder, title=fitted.name)}
