"""Data sets and methods of the demonstration.

A method takes part if it is listed here. Network sizes and learning rates were chosen so that all methods fit these
data well; the tables are no benchmark.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from matplotlib.figure import Figure

from lightning_vi.datamodules import (
    ArrayDataModule,
    DiabetesDataModule,
    DigitsDataModule,
    ToyHeteroscedasticDataModule,
)
from lightning_vi.demo.figures import FittedMethod, classifier_figures, curve_figures, regression_figures
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood, Quantiles
from lightning_vi.methods import (
    IVON,
    SNGP,
    SWA,
    SWAG,
    VBLL,
    AlphaDivergenceVI,
    CalibratedMethod,
    DeepEnsemble,
    Deterministic,
    FullRankVI,
    Laplace,
    LastLayerVI,
    LatentVariableVI,
    LowRankVI,
    MCDropout,
    MeanFieldVI,
    MeanVarianceEstimation,
    QuantileRegression,
    RadialVI,
    RankOneVI,
    TemperatureScaling,
    UQMethod,
    VarianceScaling,
)


@dataclass(frozen=True)
class Fit:
    """One method with one likelihood.

    Attributes:
        method: The method's class.
        likelihood: Constructor of the likelihood.
        options: Further arguments of the method.
        own_optimizer: True for a method that takes no `optimizer`.
        calibrations: Classes of calibrations of the fitted method; each is a row of the table.
    """

    method: type[UQMethod]
    likelihood: Callable[[], Likelihood]
    options: Mapping[str, Any] = field(default_factory=dict)
    own_optimizer: bool = False
    calibrations: tuple[type[CalibratedMethod], ...] = ()


@dataclass(frozen=True)
class Problem:
    """A data set, a network and the methods that are compared on them, all with the same training.

    Attributes:
        name: Name of the output folder.
        title: Title of the table.
        data: Constructor of the datamodule.
        n_hidden: Widths of the network's hidden layers.
        learning_rate: Learning rate of Adam.
        epochs: Number of training epochs.
        fits: The methods.
        scores: Columns of the table, from the name of a metric to its heading.
        figures: Function that draws the figures of one method, by file name.
        note: Caption of the table.
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
        """Returns the same problem with fewer epochs, at most one of them burn-in.

        Args:
            epochs: Number of training epochs.

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

DROPOUT = {"dropout_p": 0.05, "dropout_module_names": [torch.nn.ReLU]}


def variational(
    likelihood: Callable[[], Likelihood],
    samples_train: int,
    samples_test: int,
    burnin_epochs: int,
) -> tuple[Fit, ...]:
    """Variants of variational inference.

    Args:
        likelihood: Constructor of the likelihood.
        samples_train: Number of samples per training step, for methods that draw several.
        samples_test: Number of samples for prediction.
        burnin_epochs: Number of burn-in epochs.

    Returns:
        One fit per method.
    """
    base: dict[str, Any] = {"num_mc_samples_test": samples_test, "burnin_epochs": burnin_epochs}
    sampled = base | {"num_mc_samples_train": samples_train}
    return (
        Fit(LastLayerVI, likelihood, sampled),
        Fit(VBLL, likelihood, base),
        Fit(RankOneVI, likelihood, sampled),
        Fit(MeanFieldVI, likelihood, sampled),
        Fit(LowRankVI, likelihood, sampled),
        Fit(FullRankVI, likelihood, sampled | {"stochastic_module_names": [-1]}),
        Fit(RadialVI, likelihood, sampled),
        Fit(AlphaDivergenceVI, likelihood, sampled),
        Fit(LatentVariableVI, likelihood, sampled),
        Fit(IVON, likelihood, base, own_optimizer=True),
    )


def baselines(
    likelihood: Callable[[], Likelihood],
    samples_test: int,
    burnin_epochs: int,
    laplace: Mapping[str, Any] | None = None,
    sngp: Mapping[str, Any] | None = None,
) -> tuple[Fit, ...]:
    """Baselines for any likelihood, without `Deterministic`.

    Args:
        likelihood: Constructor of the likelihood.
        samples_test: Number of samples for prediction.
        burnin_epochs: Number of burn-in epochs.
        laplace: Further options of `Laplace`.
        sngp: Further options of `SNGP`, such as scales that depend on the data.

    Returns:
        One fit per method.
    """
    base: dict[str, Any] = {"burnin_epochs": burnin_epochs}
    sampled = base | {"num_mc_samples_test": samples_test}
    return (
        Fit(DeepEnsemble, likelihood, base | {"num_members": 5}),
        Fit(MCDropout, likelihood, sampled | DROPOUT),
        Fit(SWA, likelihood, base),
        Fit(SWAG, likelihood, sampled),
        Fit(Laplace, likelihood, sampled | dict(laplace or {})),
        Fit(SNGP, likelihood, sampled | dict(sngp or {})),
    )


mean_variance = partial(Fit, MeanVarianceEstimation, HeteroscedasticGaussian, calibrations=(VarianceScaling,))
categorical = partial(Categorical, num_classes=10)

PROBLEMS = (
    Problem(
        name="toy",
        title="Toy regression: noise that depends on the input, gaps in the data",
        data=partial(ToyHeteroscedasticDataModule, batch_size=32, n_points=500),
        n_hidden=(50, 50),
        learning_rate=3e-3,
        epochs=150,
        fits=(
            *variational(HeteroscedasticGaussian, samples_train=10, samples_test=25, burnin_epochs=20),
            Fit(Deterministic, Gaussian),
            mean_variance({"burnin_epochs": 20}),
            *baselines(HeteroscedasticGaussian, samples_test=25, burnin_epochs=20),
            Fit(QuantileRegression, Quantiles),
        ),
        scores=REGRESSION_SCORES,
        figures=curve_figures,
        note="Deterministic learns one noise level, the others predict one for each input. FullRankVI has a posterior "
        "over the last layer only.",
    ),
    Problem(
        name="diabetes",
        title="Diabetes: progression after one year, ten measurements of 442 patients",
        data=partial(DiabetesDataModule, batch_size=32),
        n_hidden=(20,),
        learning_rate=2e-3,
        epochs=100,
        fits=(
            *variational(Gaussian, samples_train=10, samples_test=50, burnin_epochs=10),
            Fit(Deterministic, Gaussian),
            mean_variance({"burnin_epochs": 10}),
            *baselines(Gaussian, samples_test=50, burnin_epochs=10, sngp={"length_scale": 4.0}),
            Fit(QuantileRegression, Quantiles),
        ),
        scores=REGRESSION_SCORES,
        figures=partial(regression_figures, ylabel="progression score"),
        note="MeanVarianceEstimation and QuantileRegression predict a noise level for each input, the others learn "
        "one. FullRankVI has a posterior over the last layer only.",
    ),
    Problem(
        name="digits",
        title="Digits: ten classes, 8 x 8 pixels",
        data=partial(DigitsDataModule, batch_size=64),
        n_hidden=(64,),
        learning_rate=1e-2,
        epochs=100,
        fits=(
            *variational(categorical, samples_train=4, samples_test=50, burnin_epochs=10),
            Fit(Deterministic, categorical, calibrations=(TemperatureScaling,)),
            *baselines(
                categorical,
                samples_test=50,
                burnin_epochs=0,
                laplace={"prior_std": 0.3},
                sngp={"length_scale": 2.0, "spectral_norm_bound": 2.0, "prior_std": 3.0},
            ),
        ),
        scores=CLASSIFICATION_SCORES,
        figures=classifier_figures,
        note="FullRankVI has a posterior over the last layer only.",
    ),
)
