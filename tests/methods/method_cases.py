"""Every method and every likelihood, each on a small problem; a new method adds one line to METHODS."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randomise_posteriors
from torch import Tensor, nn

from lightning_vi import (
    IVON,
    SNGP,
    SWA,
    SWAG,
    VBLL,
    AlphaDivergenceVI,
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
)
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import (
    Bernoulli,
    Categorical,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    NegativeBinomial,
    Poisson,
    Quantiles,
    StudentT,
)
from lightning_vi.methods import UQMethod
from lightning_vi.methods.fitted import FittedMethod
from lightning_vi.methods.weight_averaging import WeightAveragingMethod

TRAIN, TEST = 3, 7  # numbers of samples
MEMBERS = 4
ROWS = 12


class ImageNet(nn.Module):
    """A network that is no nn.Sequential, with a convolution as its head: [B, 2, 4, 4] to [B, C, 4, 4]."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
        self.head = nn.Conv2d(4, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.tanh(self.stem(x)) + x.repeat(1, 2, 1, 1))
        return output


def normalised(num_inputs: int, num_outputs: int) -> nn.Module:
    """Batch normalisation and dropout, which behave in another way in training mode."""
    return nn.Sequential(
        nn.Linear(num_inputs, 6), nn.BatchNorm1d(6), nn.SiLU(), nn.Dropout(0.3), nn.Linear(6, num_outputs)
    )


def linear_in_its_weights(_: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear | nn.Conv2d)


def spatial_labels(*shape: int) -> Callable[[], Tensor]:
    return lambda: torch.randint(0, 3, shape)


@dataclass(frozen=True)
class Problem:
    """A backbone, a likelihood, an input and a target."""

    backbone: Callable[[], nn.Module]
    likelihood: Callable[[], Likelihood]
    input_shape: tuple[int, ...]
    target: Callable[[], Tensor]

    def data(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        target = self.target()
        return torch.randn(self.input_shape, dtype=dtype), target.to(dtype) if target.is_floating_point() else target

    @property
    def is_regression(self) -> bool:
        return self.likelihood().task == "regression"


PROBLEMS = {
    "Gaussian, learned": Problem(partial(MLP, 3, [5], 1), Gaussian, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "Gaussian, given, 2 targets": Problem(
        partial(MLP, 3, [5], 2), partial(Gaussian, [0.3, 1.7], 2), (ROWS, 3), lambda: torch.randn(ROWS, 2)
    ),
    "Gaussian, [B, 4, D]": Problem(
        partial(MLP, 3, [5], 2), partial(Gaussian, 0.3, 2), (ROWS, 4, 3), lambda: torch.randn(ROWS, 4, 2)
    ),
    "heteroscedastic": Problem(
        partial(normalised, 3, 2), HeteroscedasticGaussian, (ROWS, 3), lambda: torch.randn(ROWS, 1)
    ),
    "heteroscedastic, [B, 4, D]": Problem(
        partial(MLP, 3, [5], 4), partial(HeteroscedasticGaussian, 2), (ROWS, 4, 3), lambda: torch.randn(ROWS, 4, 2)
    ),
    "Student's t": Problem(partial(MLP, 3, [5], 1), StudentT, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "Poisson": Problem(
        partial(MLP, 3, [5], 1),
        partial(Poisson, link="softplus"),
        (ROWS, 3),
        lambda: torch.randint(0, 9, (ROWS, 1)).float(),
    ),
    "negative binomial, [B, 4, D]": Problem(
        partial(MLP, 3, [5], 2),
        partial(NegativeBinomial, num_targets=2, link="softplus"),
        (ROWS, 4, 3),
        lambda: torch.randint(0, 9, (ROWS, 4, 2)).float(),
    ),
    "quantiles": Problem(partial(MLP, 3, [5], 3), Quantiles, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "quantiles, [B, 4, D]": Problem(
        partial(MLP, 3, [5], 8),
        partial(Quantiles, (0.1, 0.3, 0.5, 0.8), 2),
        (ROWS, 4, 3),
        lambda: torch.randn(ROWS, 4, 2),
    ),
    "categorical": Problem(
        partial(MLP, 3, [5], 3), partial(Categorical, 3), (ROWS, 3), lambda: torch.randint(0, 3, (ROWS,))
    ),
    "Bernoulli": Problem(partial(normalised, 3, 1), Bernoulli, (ROWS, 3), lambda: torch.randint(0, 2, (ROWS,))),
    "categorical, [B, C, H, W]": Problem(
        partial(ImageNet, 3), partial(Categorical, 3), (ROWS, 2, 4, 4), spatial_labels(ROWS, 4, 4)
    ),
    "categorical, [B, H, W, F]": Problem(
        partial(MLP, 3, [5], 3), partial(Categorical, 3, class_dim=-1), (ROWS, 2, 4, 3), spatial_labels(ROWS, 2, 4)
    ),
}

METHODS: dict[str, Callable[..., UQMethod]] = {
    "Deterministic": Deterministic,
    "MeanVarianceEstimation": MeanVarianceEstimation,
    "QuantileRegression": QuantileRegression,
    "MeanFieldVI": partial(MeanFieldVI, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST),
    "MeanFieldVI, reparameterization": partial(
        MeanFieldVI, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST, estimator="reparameterization"
    ),
    "MeanFieldVI, flipout": partial(
        MeanFieldVI,
        num_mc_samples_train=TRAIN,
        num_mc_samples_test=TEST,
        estimator="flipout",
        stochastic_module_names=[linear_in_its_weights],
    ),
    "MeanFieldVI, antithetic": partial(
        MeanFieldVI, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST, antithetic=True
    ),
    "LowRankVI": partial(LowRankVI, rank=2, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST),
    "FullRankVI": partial(FullRankVI, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST),
    "RadialVI": partial(RadialVI, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST),
    "RankOneVI": partial(RankOneVI, num_components=2, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST),
    "LatentVariableVI": partial(
        LatentVariableVI, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST, num_latent_samples_test=4
    ),
    "IVON": partial(IVON, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST),
    "AlphaDivergenceVI": partial(AlphaDivergenceVI, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST),
    "VBLL": partial(VBLL, num_mc_samples_test=TEST),
    "VBLL, low rank": partial(VBLL, parameterization="low_rank", num_mc_samples_test=TEST),
    "Laplace": partial(Laplace, num_mc_samples_test=TEST),
    "Laplace, full": partial(Laplace, structure="full", predictive="sampling", num_mc_samples_test=TEST),
    "Laplace, all layers": partial(
        Laplace, structure="diagonal", stochastic_module_names=None, num_mc_samples_test=TEST
    ),
    "DeepEnsemble": partial(DeepEnsemble, num_members=MEMBERS),
    "MCDropout": partial(MCDropout, dropout_p=0.3, dropout_module_names=[0], num_mc_samples_test=TEST),
    "SNGP": partial(SNGP, num_random_features=16, num_mc_samples_test=TEST),
    "SWA": SWA,
    "SWAG": partial(SWAG, num_mc_samples_test=TEST),
    "SWAG, diagonal": partial(SWAG, max_rank=0, num_mc_samples_test=TEST),
    "LastLayerVI": partial(LastLayerVI, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST),
}

QUANTILES = {"quantiles", "quantiles, [B, 4, D]"}
WITH_LINEAR_HEAD = PROBLEMS.keys() - {"categorical, [B, C, H, W]"}
ONLY = {
    "MeanVarianceEstimation": {"heteroscedastic", "heteroscedastic, [B, 4, D]"},
    "QuantileRegression": QUANTILES,
    "VBLL": WITH_LINEAR_HEAD,
    "VBLL, low rank": WITH_LINEAR_HEAD,
    "LatentVariableVI": {
        *("Gaussian, learned", "Gaussian, given, 2 targets", "heteroscedastic", "Student's t", "Poisson"),
        *("categorical", "Bernoulli"),
    },
}
"""The problems of a method that does not take every likelihood."""

POINT = {"Deterministic", "MeanVarianceEstimation", "QuantileRegression", "SWA"}
"""Methods without epistemic uncertainty."""

NO_KL = POINT | {
    *("DeepEnsemble", "MCDropout", "Laplace", "Laplace, full", "Laplace, all layers", "SWAG", "SWAG, diagonal"),
}
"""Methods without a divergence in their loss."""

PENALISED = {"SNGP"}
"""Methods with a prior's penalty in place of a divergence, which is not logged."""

EXACT = ("LastLayerVI", "VBLL", "Laplace", "SNGP")
"""Methods with a closed form for Gaussian noise."""

NO_ELBO = {"AlphaDivergenceVI", "DeepEnsemble", "QuantileRegression"}
"""Methods whose loss is no negative evidence lower bound, and has an oracle of its own."""

WITH_INTERVALS = {"QuantileRegression"}
"""Methods whose predictions have ends of an interval."""

PAIRS = [(m, p) for m in METHODS for p in PROBLEMS if p in ONLY.get(m, PROBLEMS.keys() - QUANTILES)]


@dataclass(frozen=True)
class Case:
    """One method on one problem."""

    method_name: str
    problem_name: str

    @property
    def problem(self) -> Problem:
        return PROBLEMS[self.problem_name]

    @property
    def is_point(self) -> bool:
        return self.method_name in POINT

    @property
    def additions(self) -> set[str]:
        """Keys of a prediction beside those that all methods have."""
        return {"lower", "upper"} if self.method_name in WITH_INTERVALS else set()

    @property
    def has_kl(self) -> bool:
        return self.method_name not in NO_KL

    @property
    def logs_kl(self) -> bool:
        return self.has_kl and self.method_name not in PENALISED

    @property
    def has_elbo(self) -> bool:
        return self.method_name not in NO_ELBO

    @property
    def is_exact(self) -> bool:
        """Whether the predictive has a closed form, in which the number of samples and the seed play no part."""
        return self.method_name.startswith(EXACT) and self.problem_name.startswith("Gaussian")

    @property
    def num_functions(self) -> float:
        """How many different networks can be sampled."""
        return {"DeepEnsemble": MEMBERS}.get(self.method_name, 1 if self.is_point else math.inf)

    @property
    def is_stochastic(self) -> bool:
        return self.num_functions == math.inf and not self.is_exact

    def backbone(self) -> nn.Module:
        """The problem's network, with a further input where the method needs one."""
        network = self.problem.backbone()
        if self.method_name == "LatentVariableVI":
            first: Any = network[0]  # type: ignore[index]
            network[0] = nn.Linear(first.in_features + 1, first.out_features)  # type: ignore[operator]
        return network

    def build(self, dtype: torch.dtype = torch.float32, **options: Any) -> UQMethod:
        """The method with posteriors wide enough to see, fitted where it has to be, in training mode."""
        method = METHODS[self.method_name](self.backbone(), self.problem.likelihood(), **options).to(dtype)
        randomise_posteriors(method.backbone)
        if isinstance(method, WeightAveragingMethod):
            collect_snapshots(method)
        if isinstance(method, FittedMethod):
            method.fit_posterior([self.problem.data(dtype)])
        return method.train()


each_case = pytest.mark.parametrize("case", [Case(*pair) for pair in PAIRS], ids=["-".join(pair) for pair in PAIRS])


def collect_snapshots(method: WeightAveragingMethod) -> None:
    """Three of them, around where the weights are."""
    for _ in range(3):
        with torch.no_grad():
            for parameter in method.backbone.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        method.collect()


def weights_of_predictions(method: UQMethod) -> list[Tensor]:
    """What the network predicts with, or the middle of it."""
    averaged = [method.weight_mean] if isinstance(method, WeightAveragingMethod) else []
    return [*averaged, *method.backbone.parameters()]


def global_states() -> list[Any]:
    """The random states that a method must leave alone."""
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002


def modes(method: UQMethod) -> dict[str, bool]:
    return {name: module.training for name, module in method.named_modules()}


def fail_in_forward(method: UQMethod) -> Any:
    """Makes the first layer of the network raise."""

    def fail(*_: Any) -> None:
        raise RuntimeError("out of luck")

    first = next(module for module in method.backbone.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return first.register_forward_pre_hook(fail)
