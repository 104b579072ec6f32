"""Predictions, scores and training steps of every method come back to the numbers on record.

`python tests/methods/test_reference_numbers.py` records them anew, after a change that is meant to move them.
"""

import json
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import LIGHTNING_WARNINGS, loader, quiet_trainer, randomize_posteriors
from torch import Tensor, nn

import lightning_vi as lv
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Poisson, Quantiles, StudentT

RECORD = Path(__file__).parents[1] / "data" / "reference_numbers.json"
ROWS, KEPT = 12, 4


class ImageNet(nn.Module):
    """A convolutional network that is not an nn.Sequential: [B, 2, 4, 4] to [B, 3, 4, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1, padding_mode="reflect")
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(torch.tanh(self.stem(x)) + x.repeat(1, 2, 1, 1))
        return output


def dropout_network(num_outputs: int) -> nn.Module:
    # No batch normalization: biases in front of it have gradients of rounding errors alone, which Adam makes steps of.
    return nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.SiLU(), nn.Dropout(0.3), nn.Linear(6, num_outputs))


PROBLEMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], tuple[int, ...], Callable[[], Tensor]]] = {
    "gaussian": (partial(MLP, 3, [5], 1), Gaussian, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "heteroscedastic": (partial(dropout_network, 2), HeteroscedasticGaussian, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "student_t": (partial(MLP, 3, [5], 1), StudentT, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "poisson": (
        partial(MLP, 3, [5], 1),
        partial(Poisson, link="softplus"),
        (ROWS, 3),
        lambda: torch.randint(0, 9, (ROWS, 1)).float(),
    ),
    "quantiles": (partial(MLP, 3, [5], 3), Quantiles, (ROWS, 3), lambda: torch.randn(ROWS, 1)),
    "categorical": (partial(MLP, 3, [5], 3), partial(Categorical, 3), (ROWS, 3), lambda: torch.randint(0, 3, (ROWS,))),
    "images": (ImageNet, partial(Categorical, 3), (ROWS, 2, 4, 4), lambda: torch.randint(0, 3, (ROWS, 4, 4))),
}
SAMPLES = {"num_mc_samples_train": 3, "num_mc_samples_test": 7}
METHODS: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "Deterministic": (lv.Deterministic, ("student_t", "categorical")),
    "MeanVarianceEstimation": (partial(lv.MeanVarianceEstimation, beta=0.5, burnin_epochs=1), ("heteroscedastic",)),
    "QuantileRegression": (lv.QuantileRegression, ("quantiles",)),
    "MCDropout": (
        partial(lv.MCDropout, dropout_p=0.3, dropout_module_names=[0], num_mc_samples_test=7),
        ("heteroscedastic", "images"),
    ),
    "MeanFieldVI": (
        partial(lv.MeanFieldVI, burnin_epochs=1, kl_warmup_epochs=2, **SAMPLES),
        ("heteroscedastic", "poisson", "images"),
    ),
    "LastLayerVI": (partial(lv.LastLayerVI, **SAMPLES), ("gaussian", "categorical")),
    "LowRankVI": (partial(lv.LowRankVI, rank=2, **SAMPLES), ("gaussian",)),
    "FullRankVI": (partial(lv.FullRankVI, **SAMPLES), ("student_t",)),
    "RadialVI": (partial(lv.RadialVI, **SAMPLES), ("heteroscedastic",)),
    "RankOneVI": (partial(lv.RankOneVI, num_components=2, **SAMPLES), ("categorical",)),
    "LatentVariableVI": (partial(lv.LatentVariableVI, num_latent_samples_test=4, **SAMPLES), ("gaussian",)),
    "AlphaDivergenceVI": (partial(lv.AlphaDivergenceVI, **SAMPLES), ("heteroscedastic",)),
    "IVON": (partial(lv.IVON, **SAMPLES), ("categorical",)),
    "VBLL": (partial(lv.VBLL, num_mc_samples_test=7), ("gaussian", "categorical")),
    "Laplace": (partial(lv.Laplace, num_mc_samples_test=7), ("gaussian", "images")),
    "SNGP": (partial(lv.SNGP, num_random_features=16, num_mc_samples_test=7), ("categorical",)),
    "SWA": (lv.SWA, ("heteroscedastic",)),
    "SWAG": (partial(lv.SWAG, num_mc_samples_test=7), ("heteroscedastic", "student_t")),
    "DeepEnsemble": (partial(lv.DeepEnsemble, num_members=4), ("heteroscedastic", "student_t", "categorical")),
}
CALIBRATIONS: dict[str, tuple[str, str, tuple[Callable[..., Any], ...]]] = {
    "SplitConformal of VarianceScaling": ("MeanFieldVI", "heteroscedastic", (lv.VarianceScaling, lv.SplitConformal)),
    "ConformalQuantileRegression of two VarianceScalings": (
        "SWAG",
        "student_t",
        (lv.VarianceScaling, lv.VarianceScaling, lv.ConformalQuantileRegression),
    ),
    "AdaptivePredictionSets of TemperatureScaling": (
        "LastLayerVI",
        "categorical",
        (lv.TemperatureScaling, partial(lv.AdaptivePredictionSets, coverage=0.6)),
    ),
    "TemperatureScaling of images": ("MeanFieldVI", "images", (lv.TemperatureScaling,)),
}
CASES = [
    *(f"{name}-{problem}" for name, (_, problems) in METHODS.items() for problem in problems),
    *CALIBRATIONS,
    "Ensemble",
]


def data(problem: str) -> tuple[Tensor, Tensor]:
    _, _, shape, target = PROBLEMS[problem]
    y = target()
    return torch.randn(shape), y


def build(name: str, problem: str) -> Any:
    torch.manual_seed(7)
    network: Any = PROBLEMS[problem][0]()
    method = METHODS[name][0](network, PROBLEMS[problem][1]())
    randomize_posteriors(method.backbone)
    if hasattr(method, "collect"):
        for _ in range(3):
            with torch.no_grad():
                for parameter in [*method.backbone.parameters(), *method.likelihood.parameters()]:
                    parameter.add_(0.3 * torch.randn_like(parameter))
            method.collect()
    if hasattr(method, "fit_posterior"):
        method.fit_posterior([data(problem)])
    method.is_trained = True
    return method


def predictor_of(case: str) -> tuple[Any, str]:
    if case == "Ensemble":
        members = [build("MeanFieldVI", "heteroscedastic"), build("SWAG", "heteroscedastic")]
        return lv.Ensemble(members), "heteroscedastic"
    if case in CALIBRATIONS:
        name, problem, wrappers = CALIBRATIONS[case]
        predictor = build(name, problem)
        for wrapper in wrappers:
            predictor = wrapper(predictor)
            predictor.calibrate([data(problem), data(problem)])
        return predictor, problem
    name, problem = case.split("-")
    return build(name, problem), problem


def predictions(predictor: Any, x: Tensor, y: Tensor) -> dict[str, list[float]]:
    """The first numbers of each key of a prediction, and the test scores."""
    result = {key: value.flatten()[:KEPT].tolist() for key, value in predictor.predict_step(x).items()}
    (scores,) = quiet_trainer().test(predictor, loader(x, y, batch_size=5), verbose=False)
    return result | {name: [score] for name, score in scores.items()}


def numbers(case: str) -> dict[str, list[float]]:
    """Predictions and scores of random weights; of methods also the objective, and the same after nine steps."""
    predictor, problem = predictor_of(case)
    torch.manual_seed(11)
    x, y = data(problem)
    result = predictions(predictor, x, y)
    if not hasattr(predictor, "elbo") or "-" not in case:
        return result
    result |= {f"elbo_{index}": [term.item()] for index, term in enumerate(predictor.elbo(x, y, num_data=50))}
    quiet_trainer(max_epochs=3).fit(predictor, loader(x, y, batch_size=5))
    return result | {f"fitted_{key}": values for key, values in predictions(predictor, x, y).items()}


@pytest.mark.parametrize("case", CASES)
def test_numbers_come_back(case: str) -> None:
    expected = json.loads(RECORD.read_text())[case]
    found = numbers(case)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, rel=1e-4, abs=1e-5), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    for message in (*LIGHTNING_WARNINGS, ".*"):
        warnings.filterwarnings("ignore", message)
    lines = [f"{json.dumps(case)}: {json.dumps(numbers(case))}" for case in CASES]
    RECORD.write_text("{\n" + ",\n".join(lines) + "\n}\n")
