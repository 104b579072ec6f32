"""The figures of the demonstration."""

from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure
from torch import Tensor

from lightning_vi.datamodules import ArrayDataModule, ToyHeteroscedasticDataModule
from lightning_vi.methods import CalibratedMethod, UQMethod
from lightning_vi.plots import (
    plot_calibration,
    plot_objective,
    plot_predictions_regression,
    plot_reliability_diagram,
)


@dataclass(frozen=True)
class FittedMethod:
    """A method that has been fitted, scored and asked for predictions.

    Attributes:
        method: The method.
        data: What it was fitted to.
        prediction: What `predict_step` says about all test data.
        scores: Metrics on the test data by their names, without a prefix.
        seconds: How long the fit took.
        folder: Where its log, predictions and figures are.
    """

    method: UQMethod
    data: ArrayDataModule
    prediction: dict[str, Tensor]
    scores: dict[str, float]
    seconds: float
    folder: Path

    @property
    def name(self) -> str:
        """The method's name, with that of the method that it calibrates."""
        if isinstance(self.method, CalibratedMethod):
            return f"{type(self.method.method).__name__} + {type(self.method).__name__}"
        return type(self.method).__name__

    @property
    def label(self) -> str:
        """The name in a table, where what calibrates a method stands right below it."""
        return f"+ {type(self.method).__name__}" if isinstance(self.method, CalibratedMethod) else self.name


def regression_figures(fitted: FittedMethod, *, ylabel: str = "y", x: Tensor | None = None) -> dict[str, Figure]:
    """Calibration on the test data, and the objective over the epochs of training.

    Args:
        fitted: The method.
        ylabel: Label of the target.
        x: The one input [N, 1] of the test data, if there is no more than one.

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
    """The predictive distribution over the one input, besides `regression_figures`.

    Args:
        fitted: A method that was fitted to the toy problem.

    Returns:
        The figures by name.

    Raises:
        TypeError: If the data are not the toy problem's.
    """
    data = fitted.data
    if not isinstance(data, ToyHeteroscedasticDataModule):
        raise TypeError(f"fitted.data must be a ToyHeteroscedasticDataModule, got {type(data).__name__}")
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
    """The reliability diagram on the test data, and the objective over the epochs of training.

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
    """Nothing for what was calibrated and not trained."""
    if isinstance(fitted.method, CalibratedMethod):
        return {}
    return {"objective": plot_objective(fitted.folder, title=fitted.name)}
