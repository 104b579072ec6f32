"""What the demonstration fits, and how.

Sizes and learning rates were chosen so that every method fits these data well: the tables demonstrate, they are no
benchmark.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from matplotlib.figure import Figure

from lightning_vi.datamodules import (
    ArrayDataModule,
    DiabetesDataModule,
    DigitsDataModule,
    ToyHeteroscedasticDataModule,
)
from lightning_vi.demo.figures import FittedMethod, classifier_figures, curve_figures, regression_figures
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood
from lightning_vi.methods import Deterministic, LastLayerVI, MeanFieldVI, MeanVarianceEstimation, UQMethod


@dataclass(frozen=True)
class Fit:
    """One method with one likelihood.

    Attributes:
        method: The method's class.
        likelihood: Makes the likelihood.
        options: The method's own arguments.
    """

    method: type[UQMethod]
    likelihood: Callable[[], Likelihood]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """A data set, the network for it and the methods that are compared on it, all trained alike.

    Attributes:
        name: The name of its folder.
        title: The heading of its table.
        data: Makes the datamodule.
        n_hidden: Widths of the network's hidden layers.
        learning_rate: Adam's.
        epochs: How long every method is trained.
        fits: The methods.
        scores: The columns of the table: a metric's name and its heading.
        figures: Draws the figures of one method; their names are file names.
        note: What stands below the table.
    """

    name: str
    title: str
    data: Callable[[], ArrayDataModule]
    n_hidden: tuple[int, ...]
    learning_rate: float
    epochs: int
    fits: tuple[Fit, ...]
    scores: Mapping[str, str]
    figures: Callable[[FittedMethod], Mapping[str, Figure]]
    note: str | None = None

    def shortened(self, epochs: int) -> "Problem":
        """The same problem with at most one epoch of burn-in.

        Args:
            epochs: How long every method is trained.

        Returns:
            A copy.
        """
        fits = (
            replace(fit, options={**fit.options, "burnin_epochs": 1}) if "burnin_epochs" in fit.options else fit
            for fit in self.fits
        )
        return replace(self, epochs=epochs, fits=tuple(fits))


REGRESSION_SCORES = {"rmse": "RMSE", "nll": "NLL", "crps": "CRPS", "coverage": "Coverage (95%)"}
CLASSIFICATION_SCORES = {"accuracy": "Accuracy", "nll": "NLL", "brier": "Brier", "ece": "ECE"}

TOY_VI = {"num_mc_samples_train": 10, "num_mc_samples_test": 25, "burnin_epochs": 20}
DIABETES_VI = {"num_mc_samples_train": 10, "num_mc_samples_test": 50, "burnin_epochs": 10}
DIGITS_VI = {"num_mc_samples_train": 4, "num_mc_samples_test": 50, "burnin_epochs": 10}

PROBLEMS = (
    Problem(
        name="toy",
        title="Toy regression: noise that depends on the input, gaps in the data",
        data=partial(ToyHeteroscedasticDataModule, batch_size=32, n_points=500),
        n_hidden=(50, 50),
        learning_rate=3e-3,
        epochs=150,
        fits=(
            Fit(LastLayerVI, HeteroscedasticGaussian, TOY_VI),
            Fit(MeanFieldVI, HeteroscedasticGaussian, TOY_VI),
            Fit(Deterministic, Gaussian),
            Fit(MeanVarianceEstimation, HeteroscedasticGaussian, {"burnin_epochs": 20}),
        ),
        scores=REGRESSION_SCORES,
        figures=curve_figures,
        note="Deterministic learns one noise level, the others predict one for each input.",
    ),
    Problem(
        name="diabetes",
        title="Diabetes: progression after one year, ten measurements of 442 patients",
        data=partial(DiabetesDataModule, batch_size=32),
        n_hidden=(20,),
        learning_rate=2e-3,
        epochs=100,
        fits=(
            Fit(LastLayerVI, Gaussian, DIABETES_VI),
            Fit(MeanFieldVI, Gaussian, DIABETES_VI),
            Fit(Deterministic, Gaussian),
            Fit(MeanVarianceEstimation, HeteroscedasticGaussian, {"burnin_epochs": 10}),
        ),
        scores=REGRESSION_SCORES,
        figures=partial(regression_figures, ylabel="progression score"),
        note="MeanVarianceEstimation predicts a noise level for each input, the others learn one.",
    ),
    Problem(
        name="digits",
        title="Digits: ten classes, 8 x 8 pixels",
        data=partial(DigitsDataModule, batch_size=64),
        n_hidden=(64,),
        learning_rate=1e-2,
        epochs=100,
        fits=(
            Fit(LastLayerVI, partial(Categorical, num_classes=10), DIGITS_VI),
            Fit(MeanFieldVI, partial(Categorical, num_classes=10), DIGITS_VI),
            Fit(Deterministic, partial(Categorical, num_classes=10)),
        ),
        scores=CLASSIFICATION_SCORES,
        figures=classifier_figures,
    ),
)
