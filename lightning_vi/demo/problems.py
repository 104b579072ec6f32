"""Data sets and methods of the demonstration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from lightning_vi.compare.entries import method_names
from lightning_vi.datamodules import (
    ArrayDataModule,
    DiabetesDataModule,
    DigitsDataModule,
    ToyHeteroscedasticDataModule,
)
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood

HEADLINES = ("Deterministic", "DeepEnsemble", "MCDropout", "Laplace", "LastLayerVI", "VBLL", "MeanFieldVI")
REGRESSION_ONLY = ("MeanVarianceEstimation", "QuantileRegression")


@dataclass(frozen=True)
class Problem:
    """A data set, a network and a budget.

    Attributes:
        name: Name of the output folder.
        title: Title of the table.
        data: Constructor of the datamodule.
        n_hidden: Widths of the network's hidden layers.
        likelihood: The likelihood.
        max_epochs: Number of training epochs.
        scores: Columns of the table, from the name of a metric to its heading.
        calibrated: Further methods, with a calibration.
        options: Options of single methods.
    """

    name: str
    title: str
    data: Callable[[], ArrayDataModule]
    n_hidden: tuple[int, ...]
    likelihood: Likelihood
    max_epochs: int
    scores: Mapping[str, str]
    calibrated: tuple[str, ...]
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def methods(self, *, every: bool) -> list[str]:
        """Returns the names of the methods.

        Args:
            every: Whether all methods take part that the data allow, or only the headline methods.

        Returns:
            The names.
        """
        skipped = REGRESSION_ONLY if self.likelihood.task == "classification" else ()
        names = [name for name in method_names() if name not in skipped] if every else list(HEADLINES)
        return [*names, *self.calibrated]


REGRESSION_SCORES = {"rmse": "RMSE", "nll": "NLL", "crps": "CRPS", "coverage": "Coverage (95%)"}
CLASSIFICATION_SCORES = {"accuracy": "Accuracy", "nll": "NLL", "brier": "Brier", "ece": "ECE"}

PROBLEMS = (
    Problem(
        name="toy",
        title="Toy regression: noise that depends on the input, gaps in the data",
        data=partial(ToyHeteroscedasticDataModule, batch_size=32, n_points=500),
        n_hidden=(50, 50),
        likelihood=HeteroscedasticGaussian(),
        max_epochs=150,
        scores=REGRESSION_SCORES,
        calibrated=("Deterministic + VarianceScaling",),
    ),
    Problem(
        name="diabetes",
        title="Diabetes: progression after one year, ten measurements of 442 patients",
        data=partial(DiabetesDataModule, batch_size=32),
        n_hidden=(20,),
        likelihood=Gaussian(),
        max_epochs=100,
        scores=REGRESSION_SCORES,
        calibrated=("Deterministic + VarianceScaling",),
    ),
    Problem(
        name="digits",
        title="Digits: ten classes, 8 x 8 pixels",
        data=partial(DigitsDataModule, batch_size=64),
        n_hidden=(64,),
        likelihood=Categorical(10),
        max_epochs=50,
        scores=CLASSIFICATION_SCORES,
        calibrated=("Deterministic + TemperatureScaling",),
    ),
)
