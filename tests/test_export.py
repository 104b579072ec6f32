"""`torch.export` of predictions, for any number of rows."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from method_cases import METHODS, Case
from network_cases import EXAMPLES
from test_calibrated_contract import COVERAGE
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import (
    SWAG,
    VBLL,
    AdaptivePredictionSets,
    Ensemble,
    IsotonicScaling,
    Laplace,
    MCDropout,
    MeanFieldVI,
    Mondrian,
    QuantileRecalibration,
    SplitConformal,
    TemperatureScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.errors import NotFittedError
from lightning_vi.export import PredictionModule
from lightning_vi.likelihoods import Categorical, Gaussian
from lightning_vi.methods import Predictor

quiet = pytest.mark.filterwarnings("ignore")  # of the tracer about itself
NOT_EXPORTED = {"Laplace, all layers"}
DEFAULT = {
    *("QuantileRegression", "MeanFieldVI", "FullRankVI", "RankOneVI", "LatentVariableVI", "VBLL", "Laplace", "SNGP"),
    *("DeepEnsemble", "MCDropout", "SWA", "SWAG"),
}


def check_export(method: Predictor, x: Tensor, **options: Any) -> None:
    """A program exported at one number of rows predicts as the method does at another one."""
    module = PredictionModule(method, x, **options)
    program = torch.export.export(module, (x,), dynamic_shapes={"x": {0: torch.export.Dim("rows", min=2)}})
    new = torch.cat([x, 0.5 * x, x[:1] + 0.1])
    expected, found = method.predict(new, **options).as_dict(), program.module()(new)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=f"{name} differs")


def problem_of(name: str) -> str:
    """The first problem that a method takes: one with batch normalization and dropout for most."""
    return next(own for own in ("heteroscedastic", "categorical", "quantiles") if own in METHODS[name].problems)


@quiet
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in DEFAULT else pytest.mark.thorough)
        for name in METHODS
        if name not in NOT_EXPORTED
    ],
)
def test_exported_methods_predict_the_same(name: str) -> None:
    case = Case(name, problem_of(name))
    method = case.build()
    if isinstance(method, SWAG):
        assert method.norm_statistics.numel()
    check_export(method, case.problem.data()[0], num_samples=None if case.is_point else 3)


@quiet
@pytest.mark.thorough
@pytest.mark.parametrize("problem", ["Gaussian, learned", "Student's t", "categorical", "Bernoulli"])
@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOT_EXPORTED])
def test_exported_methods_predict_the_same_on_other_problems(name: str, problem: str) -> None:
    if problem in METHODS[name].problems:
        case = Case(name, problem)
        check_export(case.build(), case.problem.data()[0])


def scaled(kind: Callable[..., Any], problem: str) -> Predictor:
    case = Case("MeanFieldVI", problem)
    method: Predictor = kind(case.build())
    method.calibrate([case.problem.data()])  # type: ignore[attr-defined]
    return method


def grouped(method: Predictor, coverage: float) -> Predictor:
    return Mondrian(SplitConformal(method, coverage=coverage / 2), groups=lambda x: (x[:, 0] > 0).long(), num_groups=2)


def conformal(kind: Callable[..., Any], name: str, problem: str) -> Predictor:
    case = Case(name, problem)
    method: Predictor = kind(case.build(), coverage=COVERAGE)
    method.calibrate([case.problem.data()])  # type: ignore[attr-defined]
    return method


WRAPPERS: dict[str, Callable[[], Predictor]] = {
    "TemperatureScaling": lambda: scaled(TemperatureScaling, "categorical"),
    "IsotonicScaling": lambda: scaled(IsotonicScaling, "categorical"),
    "QuantileRecalibration": lambda: scaled(QuantileRecalibration, "heteroscedastic"),
    "Mondrian": lambda: conformal(grouped, "SWAG", "heteroscedastic"),
    "SplitConformal": lambda: conformal(SplitConformal, "SWAG", "Gaussian, learned"),
    "AdaptivePredictionSets": lambda: conformal(AdaptivePredictionSets, "VBLL", "categorical"),
    "Ensemble": lambda: Ensemble([Case(name, "Gaussian, learned").build() for name in ("SWAG", "VBLL", "MeanFieldVI")]),
}


@quiet
@pytest.mark.parametrize("name", WRAPPERS)
def test_exported_wrappers_predict_the_same(name: str) -> None:
    check_export(WRAPPERS[name](), torch.randn(5, 3), num_samples=6)


@quiet
def test_another_seed_and_number_of_samples_are_exported() -> None:
    check_export(MCDropout(MLP(3, [8], 1, dropout_p=0.3), Gaussian()), torch.randn(4, 3), num_samples=5, seed=3)


@quiet
def test_a_method_alone_is_exported_with_its_own_noise_or_refused() -> None:
    """Noise is a constant of the program; values that decide what runs are known to a `PredictionModule` alone."""

    class Alone(nn.Module):
        def __init__(self, method: Predictor) -> None:
            super().__init__()
            self.method = method

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return self.method.predict(x).as_dict()

    x = torch.randn(4, 3)
    for method in (VBLL(MLP(3, [8], 3), Categorical(3)), MeanFieldVI(MLP(3, [8], 1), Gaussian())):
        method.predict(x)
        nn.init.normal_(next(method.parameters()))  # draws kept from before are not used
        program = torch.export.export(Alone(method), (x,))
        assert_close(program.module()(x), method.predict(x).as_dict(), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"export lightning_vi\.export\.PredictionModule\(method, x\)"):
        torch.export.export(Alone(Case("SWAG", "categorical").build()), (x,))
    with pytest.raises(ValueError, match="where the network drops units"):
        torch.export.export(Alone(MCDropout(MLP(3, [8], 1, dropout_p=0.3), Gaussian())), (x,))


@quiet
def test_what_cannot_be_exported_is_refused() -> None:
    x = torch.randn(4, 3)
    with pytest.raises(NotFittedError):
        PredictionModule(Laplace(MLP(3, [8], 1), Gaussian()), x)
    module = PredictionModule(Case("Laplace, all layers", "categorical").build(), x)
    with pytest.raises(ValueError, match="Laplace of a linear last layer alone"):
        torch.export.export(module, (x,))
    for name in ("LSTM", "TransformerEncoder"):
        example = EXAMPLES[name]
        tokens: Any = example.make_input()
        method = MCDropout(example.make(), Gaussian(num_targets=2), dropout_p=0.2)
        with pytest.raises(ValueError, match=r"torch\.export takes the dropout of nn\.Dropout, .* but not"):
            torch.export.export(PredictionModule(method, tokens), (tokens,))


def test_releases_of_torch_that_cannot_export_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    method, x = MeanFieldVI(MLP(3, [8], 1), Gaussian()), torch.randn(4, 3)
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.8.1+cpu"))
    with pytest.raises(RuntimeError, match=r"needs torch 2\.9 or newer, .* but this is torch 2\.8\.1\+cpu; install"):
        PredictionModule(method, x)


def test_the_method_is_copied() -> None:
    method, x = MeanFieldVI(MLP(3, [8], 1), Gaussian()).train(), torch.randn(4, 3)
    module = PredictionModule(method, x)
    expected = method.predict(x).mean
    nn.init.normal_(next(method.parameters()))
    assert method.training
    assert all(parameter.requires_grad for parameter in method.parameters())
    assert_close(module(x)["pred"], expected)
