"""Every method in every precision of the Trainer, and checkpoints of one precision in a method of another."""

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer
from methods.method_cases import METHODS, PROBLEMS, Case
from torch import Tensor, nn

from lightning_vi import SWA, SWAG, Deterministic, LowRankVI
from lightning_vi.backbones import MLP
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Gaussian

PRECISIONS: dict[Any, float] = {"64-true": 0.01, "bf16-mixed": 0.05, "16-mixed": 0.05, "bf16-true": 0.05}
"""Largest difference of a prediction from that in 32-true, in units of the largest predictive std."""
OTHER_NOISE = {"IVON": 1.0, "MeanFieldVI, flipout": 1.0, "SGHMC": 0.3}  # their first steps are long
"""The same where training draws other numbers; 0.3 by default."""
QUICK = ("LowRankVI", "LatentVariableVI", "VBLL, low rank", "SWAG", "LastLayerVI", "Deterministic")
X = normal(24, 3)


def cases() -> list[Any]:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.thorough) for name in METHODS]


def problem_of(name: str) -> Case:
    return Case(name, next(problem for problem in PROBLEMS if problem in METHODS[name].problems))


def trained(name: str, precision: Any) -> tuple[Tensor, Tensor, dict[str, float]]:
    case = problem_of(name)
    torch.manual_seed(0)
    method = case.method.make(case.backbone(), case.problem.likelihood())
    data = loader(*case.problem.data())
    trainer = quiet_trainer(precision=precision, max_epochs=2)
    trainer.fit(method, data)
    scores = trainer.test(method, data, verbose=False)[0]
    predictions = trainer.predict(method, data)
    mean, spread = (torch.cat([p[key] for p in predictions]).double() for key in ("pred", "pred_uct"))  # type: ignore[union-attr, index, call-overload]
    return mean, spread, dict(scores)


@pytest.mark.filterwarnings("ignore:.*16.*is not supported:UserWarning")
@pytest.mark.parametrize("name", cases())
def test_every_precision_is_right_or_refused(name: str, tally: Callable[..., None]) -> None:
    mean, spread, scores = trained(name, "32-true")
    for precision, tolerance in PRECISIONS.items():
        found = trained(name, precision)
        assert all(map(math.isfinite, found[2].values())), precision
        assert found[0].isfinite().all()
        assert found[1].isfinite().all()
        usual = 0.3 if METHODS[name].num_functions == math.inf else tolerance
        limit = OTHER_NOISE.get(name, usual) * spread.max()
        assert (found[0] - mean).abs().max() <= limit, precision
        assert (found[1] - spread).abs().max() <= limit, precision
        assert abs(found[2]["test_nll"] - scores["test_nll"]) <= limit, precision
        tally("precision", f"{name}, {precision}", tried=1, right=1)
    with pytest.raises(InputValueError, match=r"precision='16-true' cannot train.*use precision='16-mixed'"):
        trained(name, "16-true")
    tally("precision", f"{name}, 16-true (refused)", tried=1, right=1)


def test_trained_methods_predict_in_half_precision() -> None:
    method = Deterministic(MLP(3, [8], 1), Gaussian())
    fit(method, loader(X, X[:, :1]))
    expected = method.predict(X).mean
    found = quiet_trainer(precision="16-true").predict(method, loader(X, X[:, :1]))
    assert found is not None
    mean = torch.cat([part["pred"] for part in found])  # type: ignore[index, call-overload]
    torch.testing.assert_close(mean.float(), expected, rtol=0.01, atol=0.01)


def saved(method: nn.Module) -> Any:
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("name", cases())
def test_checkpoints_load_in_another_precision(name: str, tally: Callable[..., None]) -> None:
    case = problem_of(name)
    source = case.build()
    x = case.problem.data()[0]
    for own, other in ((torch.float64, torch.float32), (torch.float32, torch.float64)):
        source = source.to(own)
        target = case.method.make(case.backbone(), case.problem.likelihood()).to(other)
        target.load_state_dict(saved(source))
        expected, found = source.predict(x), target.predict(x)
        assert found.mean.dtype == other
        torch.testing.assert_close(found.mean.double(), expected.mean.double(), rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(found.total_var.double(), expected.total_var.double(), rtol=1e-3, atol=1e-3)
    tally("precision", f"{name}, checkpoints", tried=2, right=2)


@pytest.mark.parametrize("make", [SWA, SWAG])
def test_averages_of_snapshots_are_not_rounded(make: type[SWA]) -> None:
    """The mean of 1 and 1 + 2^-7, neighbors in bfloat16, lies between them."""
    method = make(nn.Linear(1, 1, bias=False), Gaussian(0.5)).bfloat16()
    for weight in (1.0, 1.0078125):
        nn.init.constant_(method.backbone.weight, weight)  # type: ignore[arg-type]
        method.collect()
    assert method.weight_mean.dtype == torch.float32
    assert method.weight_mean.item() == 1.00390625
    copied = make(nn.Linear(1, 1, bias=False), Gaussian(0.5))
    copied.load_state_dict(saved(method))
    assert copied.weight_mean.item() == 1.00390625
    assert copied.half().float().weight_mean.item() == 1.00390625
    if isinstance(method, SWAG):
        assert method.weight_variance.item() == 0.00390625**2
    assert method.predict(torch.ones(2, 1)).mean.isfinite().all()


def test_low_rank_divergence_does_not_round() -> None:
    method = LowRankVI(MLP(3, [4], 1), Gaussian(), rank=2).bfloat16()
    rounded = method.engine.kl()
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, method.float().engine.kl(), rtol=2e-3, atol=1e-3)
