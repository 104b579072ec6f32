"""Every method and every likelihood, each on a small problem. A new method adds one entry to METHODS."""

import math
import random
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from helpers import randomize_posteriors
from torch import Tensor, nn

from lightning_vi import (
    IVON,
    SGHMC,
    SNGP,
    SWA,
    SWAG,
    VBLL,
    AlphaDivergenceVI,
    DeepEnsemble,
    Deterministic,
    FullRankVI,
    FunctionSpaceVI,
    Laplace,
    LastLayerVI,
    LatentVariableVI,
    LowRankVI,
    LowRankWeightsVI,
    MCDropout,
    MeanFieldVI,
    MeanVarianceEstimation,
    QuantileRegression,
    RadialVI,
    RankOneVI,
    methods,
)
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import (
    Bernoulli,
    Categorical,
    ChannelsFirst,
    Gaussian,
    HeteroscedasticGaussian,
    Likelihood,
    MultiLabel,
    NegativeBinomial,
    Ordinal,
    Poisson,
    Quantiles,
    StudentT,
)
from lightning_vi.methods import UQMethod, VariationalMethod

TRAIN, TEST = 3, 7  # numbers of samples
MEMBERS = 4
ROWS = 12


class ImageNet(nn.Module):
    """A convolutional network with a skip connection, from [B, 2, 4, 4] to [B, C, 4, 4]."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
        self.head = nn.Conv2d(4, num_outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.tanh(self.stem(x)) + x.repeat(1, 2, 1, 1))
        return output


def smooth(num_inputs: int, num_outputs: int) -> nn.Module:
    """A network without ReLUs, which are constant where all units are inactive."""
    return MLP(num_inputs, [5], num_outputs, activation_fn=nn.Tanh())


def normalized(num_inputs: int, num_outputs: int) -> nn.Module:
    """A network with batch normalization and dropout, which depend on the mode."""
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
    "Gaussian, learned": Problem(partial(smooth, 3, 1), Gaussian, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "Gaussian, given, 2 targets": Problem(
        partial(smooth, 3, 2), partial(Gaussian, [0.3, 1.7], 2), (ROWS, 3), lambda: torch.randn(ROWS, 2)
    ),
    "Gaussian, [B, 4, D]": Problem(
        partial(smooth, 3, 2), partial(Gaussian, 0.3, 2), (ROWS, 4, 3), lambda: torch.randn(ROWS, 4, 2)
    ),
    "heteroscedastic": Problem(
        partial(normalized, 3, 2), HeteroscedasticGaussian, (ROWS, 3), lambda: torch.randn(ROWS, 1)
    ),
    "heteroscedastic, [B, 4, D]": Problem(
        partial(smooth, 3, 4), partial(HeteroscedasticGaussian, 2), (ROWS, 4, 3), lambda: torch.randn(ROWS, 4, 2)
    ),
    "heteroscedastic, [B, D, H, W]": Problem(
        partial(ImageNet, 4),
        lambda: ChannelsFirst(HeteroscedasticGaussian(2)),
        (ROWS, 2, 4, 4),
        lambda: torch.randn(ROWS, 2, 4, 4),
    ),
    "Student's t": Problem(partial(smooth, 3, 1), StudentT, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "Poisson": Problem(
        partial(smooth, 3, 1),
        partial(Poisson, link="softplus"),
        (ROWS, 3),
        lambda: torch.randint(0, 9, (ROWS, 1)).float(),
    ),
    "negative binomial, [B, 4, D]": Problem(
        partial(smooth, 3, 2),
        partial(NegativeBinomial, num_targets=2, link="softplus"),
        (ROWS, 4, 3),
        lambda: torch.randint(0, 9, (ROWS, 4, 2)).float(),
    ),
    "quantiles": Problem(partial(smooth, 3, 3), Quantiles, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "quantiles, [B, 4, D]": Problem(
        partial(smooth, 3, 8),
        partial(Quantiles, (0.1, 0.3, 0.5, 0.8), 2),
        (ROWS, 4, 3),
        lambda: torch.randn(ROWS, 4, 2),
    ),
    "categorical": Problem(
        partial(smooth, 3, 3), partial(Categorical, 3), (ROWS, 3), lambda: torch.randint(0, 3, (ROWS,))
    ),
    "Bernoulli": Problem(partial(normalized, 3, 1), Bernoulli, (ROWS, 3), lambda: torch.randint(0, 2, (ROWS,))),
    "multi-label": Problem(
        partial(smooth, 3, 4), partial(MultiLabel, 4), (ROWS, 3), lambda: torch.randint(0, 2, (ROWS, 4))
    ),
    "ordinal": Problem(partial(smooth, 3, 1), partial(Ordinal, 4), (ROWS, 3), lambda: torch.randint(0, 4, (ROWS,))),
    "categorical, [B, C, H, W]": Problem(
        partial(ImageNet, 3), partial(Categorical, 3), (ROWS, 2, 4, 4), spatial_labels(ROWS, 4, 4)
    ),
    "categorical, [B, H, W, F]": Problem(
        partial(smooth, 3, 3), partial(Categorical, 3, class_dim=-1), (ROWS, 2, 4, 3), spatial_labels(ROWS, 2, 4)
    ),
}

ANY = frozenset(PROBLEMS) - {"quantiles", "quantiles, [B, 4, D]"}
FLAT = frozenset(
    {
        *("Gaussian, learned", "Gaussian, given, 2 targets", "heteroscedastic", "Student's t", "Poisson"),
        *("categorical", "Bernoulli", "multi-label", "ordinal"),
    }
)
WITH_LINEAR_HEAD = frozenset(PROBLEMS) - {"categorical, [B, C, H, W]", "heteroscedastic, [B, D, H, W]"}


@dataclass(frozen=True)
class Method:
    """One method and the facts that its tests rely on.

    Attributes:
        make: Builds the method from a backbone and a likelihood.
        problems: Names of the problems that it takes.
        is_point: Whether its epistemic uncertainty is zero.
        has_kl: Whether `elbo` returns a divergence.
        logs_kl: Whether a fit logs it.
        loss_is_elbo: Whether its loss is ``nll + kl / num_data``.
        is_exact: Whether its prediction has a closed form under Gaussian noise.
        num_functions: How many different networks can be sampled.
        additional_keys: Keys of a prediction beside those of every method.
    """

    make: Callable[..., UQMethod]
    problems: Collection[str] = ANY
    is_point: bool = False
    has_kl: bool = True
    logs_kl: bool = True
    loss_is_elbo: bool = True
    is_exact: bool = False
    num_functions: float = math.inf
    additional_keys: frozenset[str] = field(default_factory=frozenset)


def point(make: Callable[..., UQMethod], problems: Collection[str] = ANY, **facts: Any) -> Method:
    """A method without epistemic uncertainty."""
    return Method(make, problems, is_point=True, has_kl=False, logs_kl=False, num_functions=1, **facts)


def sampled(make: Callable[..., UQMethod], **options: Any) -> Method:
    """A variational method whose loss and predictions are estimated from samples."""
    return Method(partial(make, num_mc_samples_train=TRAIN, num_mc_samples_test=TEST, **options))


def without_kl(make: Callable[..., UQMethod], **options: Any) -> Method:
    """A method that samples for predictions alone."""
    return Method(partial(make, num_mc_samples_test=TEST, **options), has_kl=False, logs_kl=False)


METHODS = {
    "Deterministic": point(Deterministic),
    "MeanVarianceEstimation": point(
        MeanVarianceEstimation, {name for name in PROBLEMS if name.startswith("heteroscedastic")}
    ),
    "QuantileRegression": point(
        QuantileRegression,
        PROBLEMS.keys() - ANY,
        loss_is_elbo=False,
        additional_keys=frozenset({"lower", "upper"}),
    ),
    "MeanFieldVI": sampled(MeanFieldVI),
    "MeanFieldVI, reparameterization": sampled(MeanFieldVI, estimator="reparameterization"),
    "MeanFieldVI, flipout": sampled(MeanFieldVI, estimator="flipout", stochastic_module_names=[linear_in_its_weights]),
    "MeanFieldVI, antithetic": sampled(MeanFieldVI, antithetic=True),
    "LowRankVI": sampled(LowRankVI, rank=2),
    "LowRankWeightsVI": sampled(LowRankWeightsVI, rank=1),
    "FullRankVI": sampled(FullRankVI),
    "RadialVI": sampled(RadialVI),
    "RankOneVI": sampled(RankOneVI, num_components=2),
    "LatentVariableVI": replace(sampled(LatentVariableVI, num_latent_samples_test=4), problems=FLAT),
    "IVON": sampled(IVON),
    "AlphaDivergenceVI": replace(sampled(AlphaDivergenceVI), loss_is_elbo=False),
    "FunctionSpaceVI": Method(
        partial(FunctionSpaceVI, num_context=8, num_frequencies=16, num_mc_samples_test=TEST), is_exact=True
    ),
    "VBLL": Method(partial(VBLL, num_mc_samples_test=TEST), WITH_LINEAR_HEAD, is_exact=True),
    "VBLL, low rank": Method(
        partial(VBLL, parameterization="low_rank", num_mc_samples_test=TEST), WITH_LINEAR_HEAD, is_exact=True
    ),
    "Laplace": replace(without_kl(Laplace), is_exact=True),
    "Laplace, full": replace(without_kl(Laplace, structure="full", predictive="sampling"), is_exact=True),
    "Laplace, all layers": replace(
        without_kl(Laplace, structure="diagonal", stochastic_module_names=None), is_exact=True
    ),
    "DeepEnsemble": Method(
        partial(DeepEnsemble, num_members=MEMBERS),
        has_kl=False,
        logs_kl=False,
        loss_is_elbo=False,
        num_functions=MEMBERS,
    ),
    "SGHMC": Method(
        partial(SGHMC, num_chains=2, num_draws=MEMBERS, num_data=ROWS),
        has_kl=False,
        logs_kl=False,
        loss_is_elbo=False,
        num_functions=MEMBERS,
    ),
    "MCDropout": without_kl(MCDropout, dropout_p=0.3, dropout_module_names=[0]),
    "SNGP": Method(partial(SNGP, num_random_features=16, num_mc_samples_test=TEST), logs_kl=False, is_exact=True),
    "SWA": point(SWA),
    "SWAG": without_kl(SWAG),
    "SWAG, diagonal": without_kl(SWAG, max_rank=0),
    "LastLayerVI": replace(sampled(LastLayerVI), is_exact=True),
}
# A variational method without facts of its own needs no entry.
METHODS |= {
    kind.__name__: sampled(kind)
    for kind in (getattr(methods, name) for name in methods.__all__)
    if issubclass(kind, VariationalMethod) and kind is not VariationalMethod and kind.__name__ not in METHODS
}


@dataclass(frozen=True)
class Case:
    """One method on one problem."""

    method_name: str
    problem_name: str

    def __str__(self) -> str:
        return f"{self.method_name}-{self.problem_name}"

    @property
    def method(self) -> Method:
        return METHODS[self.method_name]

    @property
    def problem(self) -> Problem:
        return PROBLEMS[self.problem_name]

    @property
    def is_point(self) -> bool:
        return self.method.is_point

    @property
    def is_exact(self) -> bool:
        """Predictions have a closed form, and do not depend on the number of samples and the seed."""
        return self.method.is_exact and self.problem_name.startswith("Gaussian")

    @property
    def is_stochastic(self) -> bool:
        return self.method.num_functions == math.inf and not self.is_exact

    def backbone(self) -> nn.Module:
        return self.problem.backbone()

    def build(self, dtype: torch.dtype = torch.float32, **options: Any) -> UQMethod:
        """The method in training mode, with wide posteriors, fitted if it needs a fit."""
        method = self.method.make(self.backbone(), self.problem.likelihood(), **options).to(dtype)
        randomize_posteriors(method.backbone)
        if isinstance(method, SWA | SWAG | SGHMC):
            collect_snapshots(method)
        if hasattr(method, "fit_posterior"):
            method.fit_posterior([self.problem.data(dtype)])
        method.is_trained = True
        return method.train()


CASES = [Case(name, problem) for name, method in METHODS.items() for problem in PROBLEMS if problem in method.problems]


def chosen_by_default(cases: Collection[Case]) -> list[Case]:
    """A part of the cases that has each method on a problem of each kind, and each problem.

    Kinds are regression, classification, and closed forms under Gaussian noise where a method has one. Among several
    problems of one kind, the one that fewer methods have so far is chosen.
    """
    chosen: list[Case] = []
    uses: Counter[str] = Counter()
    for name in METHODS:
        own = [case for case in cases if case.method_name == name]
        kinds: dict[Any, list[Case]] = {}
        for case in own:
            kinds.setdefault((case.problem.is_regression, case.is_exact), []).append(case)
        rest = own if len(kinds) == 1 else []
        for candidates in (*kinds.values(), rest):
            open_candidates = [case for case in candidates if case not in chosen]
            if open_candidates:
                case = min(open_candidates, key=lambda case: uses[case.problem_name])
                chosen.append(case)
                uses[case.problem_name] += 1
    return chosen


DEFAULT = chosen_by_default(CASES)


def params(cases: Collection[Case], *, default: Collection[Case] = DEFAULT) -> list[Any]:
    """Parameters of a test: cases beyond the default ones are marked as thorough."""
    return [pytest.param(case, id=str(case), marks=() if case in default else pytest.mark.thorough) for case in cases]


each_case = pytest.mark.parametrize("case", params(CASES))
ONE_EACH = list({case.method_name: case for case in DEFAULT}.values())
each_method_once = pytest.mark.parametrize("case", params(CASES, default=ONE_EACH))
"""For what depends on the method, and hardly on the problem."""


def collect_snapshots(method: SWA | SWAG | SGHMC) -> None:
    """Collects three snapshots around the present weights."""
    for _ in range(3):
        with torch.no_grad():
            for parameter in method.backbone.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
        method.collect()


def weights_of_predictions(method: UQMethod) -> list[Tensor]:
    """The weights of the network that predicts, or their mean."""
    averaged = [method.weight_mean] if isinstance(method, SWA | SWAG) else []
    drawn = [method.draws] if isinstance(method, SGHMC) else []
    return [*averaged, *drawn, *method.backbone.parameters()]


def global_states() -> list[Any]:
    """The random states that a method must leave alone."""
    return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]  # noqa: NPY002


def modes(method: UQMethod) -> dict[str, bool]:
    return {name: module.training for name, module in method.named_modules()}


def fail_in_forward(method: UQMethod) -> Any:
    """Makes the first layer of the network raise."""

    def fail(*_: Any) -> None:
        raise RuntimeError("out of luck")

    first = next(module for module in method.modules() if isinstance(module, nn.Linear | nn.Conv2d))
    return first.register_forward_pre_hook(fail)
