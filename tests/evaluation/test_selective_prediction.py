"""Selective prediction: values from predictions by hand, side effects and errors."""

import os
import socket
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import copy_of_state, end_process_group, loader, normal, quiet_trainer, randomize_posteriors, same_state
from torch import Tensor, multiprocessing, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_vi import Deterministic, MeanFieldVI
from lightning_vi.backbones import MLP
from lightning_vi.evaluation import selective_prediction
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood
from lightning_vi.methods import UQMethod

ROWS = 30


def mean_field(backbone: nn.Module, likelihood: Likelihood) -> MeanFieldVI:
    torch.manual_seed(1)
    method = MeanFieldVI(backbone, likelihood, num_mc_samples_test=7)
    randomize_posteriors(method.backbone)
    return method.train()


def classifier() -> tuple[UQMethod, Tensor, Tensor]:
    return mean_field(MLP(2, [5], 3), Categorical(3)), normal(ROWS, 2), torch.arange(ROWS) % 3


def regression() -> tuple[UQMethod, Tensor, Tensor]:
    return mean_field(MLP(2, [5], 4), HeteroscedasticGaussian(2)), normal(ROWS, 2), normal(ROWS, 2)


def on_positions() -> tuple[UQMethod, Tensor, Tensor]:
    """Regression with several targets at each of four positions."""
    return mean_field(MLP(3, [5], 2), Gaussian([0.1, 2.0], 2)), normal(ROWS, 4, 3), normal(ROWS, 4, 2)


def on_pixels() -> tuple[UQMethod, Tensor, Tensor]:
    likelihood = Categorical(3)
    return mean_field(nn.Conv2d(2, 3, 1), likelihood), normal(ROWS, 2, 4, 4), torch.randint(0, 3, (ROWS, 4, 4))


PROBLEMS = {"classes": classifier, "regression": regression, "positions": on_positions, "pixels": on_pixels}


def risks(uncertainty: np.ndarray, loss: np.ndarray) -> np.ndarray:
    assert len(np.unique(uncertainty)) == len(uncertainty)
    order = np.argsort(uncertainty)
    return np.array([loss[order[:count]].mean() for count in range(1, len(loss) + 1)])


def by_hand(method: UQMethod, x: Tensor, y: Tensor, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the uncertainty and the loss of each datum."""
    prediction = {name: value.double().numpy() for name, value in method.predict_step(x).items()}
    uncertainty, loss = [], []
    for row in range(len(x)):
        uct, mean = prediction[key][row], prediction["pred"][row]
        if method.likelihood.task == "classification":
            uncertainty.append(np.mean(uct))
            loss.append(np.mean(mean.argmax(0) != y[row].numpy()))
        else:
            uncertainty.append(np.sqrt(np.mean(uct**2)))
            loss.append(np.mean((mean - y[row].double().numpy()) ** 2))
    return np.array(uncertainty), np.array(loss)


@pytest.fixture(params=[None, quiet_trainer], ids=["without a trainer", "with a trainer"])
def trainer(request: pytest.FixtureRequest) -> Any:
    return request.param and request.param()


@pytest.mark.parametrize(("problem", "key"), list(zip(PROBLEMS, 2 * ["pred_uct", "epistemic_uct"], strict=True)))
def test_equals_predictions_by_hand(problem: str, key: str, trainer: Any) -> None:
    method, x, y = PROBLEMS[problem]()
    uncertainty, loss = by_hand(method, x, y, key)
    result = selective_prediction(method, loader(x, y, batch_size=7), score=key, trainer=trainer)
    np.testing.assert_allclose(result.uncertainty, uncertainty, rtol=1e-4)
    np.testing.assert_allclose(result.loss, loss, rtol=1e-4)
    np.testing.assert_allclose(result.coverage, np.arange(1, ROWS + 1) / ROWS, rtol=1e-6)
    expected = risks(uncertainty, loss)
    np.testing.assert_allclose(result.risk, expected, rtol=1e-4)
    assert result.aurc == pytest.approx(expected.mean(), rel=1e-4)
    assert result.excess_aurc == pytest.approx(
        expected.mean() - np.mean(np.cumsum(np.sort(loss)) / np.arange(1, ROWS + 1)), rel=1e-3
    )
    generalized = np.concatenate([[0.0], expected * np.arange(1, ROWS + 1) / ROWS])
    assert result.augrc == pytest.approx(np.trapezoid(generalized, dx=1 / ROWS), rel=1e-4)
    assert result.coverage_at(float(expected[14]) * (1 + 1e-3)) >= 15 / ROWS
    assert result.risk_at(1.0) == pytest.approx(loss.mean(), rel=1e-4)
    assert result.risk_at(0.5) == pytest.approx(expected[14], rel=1e-4)
    assert result.risk_at(0.51) == pytest.approx(expected[15], rel=1e-4)
    assert not any(tensor.is_inference() for tensor in (result.uncertainty, result.loss, result.risk))


@pytest.mark.parametrize(
    "batches",
    [
        lambda x, y: [(x, y)],
        lambda x, y: [[x[:4], y[:4]], [x[4:], y[4:]]],
        lambda x, y: [{"input": x[:9], "target": y[:9], "weight": y[:9]}, {"input": x[9:], "target": y[9:]}],
        lambda x, y: [(x[:9], y[:9]), (x[9:9], y[9:9]), (x[9:], y[9:])],
        lambda x, y: DataLoader(TensorDataset(x, y), batch_size=11),
        lambda x, y: ((x[start : start + 7], y[start : start + 7]) for start in range(0, ROWS, 7)),
    ],
    ids=["tuple", "lists", "dictionaries", "one without rows", "dataloader", "generator"],
)
def test_forms_of_batches(batches: Callable[[Tensor, Tensor], Any], trainer: Any) -> None:
    method, x, y = classifier()
    expected = selective_prediction(method, loader(x, y, batch_size=ROWS))
    result = selective_prediction(method, batches(x, y), trainer=trainer)
    assert result.aurc == pytest.approx(expected.aurc, rel=1e-5)
    torch.testing.assert_close(result.loss, expected.loss)


def test_losses_of_shuffled_rows_belong_to_their_uncertainties(trainer: Any) -> None:
    method, x, y = regression()
    expected = selective_prediction(method, loader(x, y))
    result = selective_prediction(method, loader(x, y, shuffle=True), trainer=trainer)
    assert not torch.equal(result.loss, expected.loss)
    assert result.aurc == pytest.approx(expected.aurc, rel=1e-5)


def test_score_and_loss_can_be_functions() -> None:
    method, x, y = classifier()
    probs = method.predict_step(x)["pred"]
    result = selective_prediction(
        method,
        loader(x, y),
        score=lambda prediction: 1 - prediction["pred"].max(1).values,
        loss=lambda prediction, target: -prediction["pred"][torch.arange(len(target)), target].log(),
    )
    torch.testing.assert_close(result.uncertainty, 1 - probs.amax(1))
    torch.testing.assert_close(result.loss, nn.functional.nll_loss(probs.log(), y, reduction="none"))


class WithExtraKeys(MeanFieldVI):
    """Method that predicts more keys than required."""

    extra: Any = None

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> dict[str, Tensor]:
        prediction = super().predict_step(batch, batch_idx, dataloader_idx)
        return prediction | {"interval": self.extra(prediction), "note": "fine"}


def test_extra_keys_can_be_scores() -> None:
    method = WithExtraKeys(MLP(2, [5], 2), Gaussian(0.1, 2))
    method.extra = lambda prediction: torch.stack([prediction["pred"], prediction["pred"] + 1], dim=-1)
    x = normal(ROWS, 2)
    result = selective_prediction(method, loader(x, normal(ROWS, 2)), score="interval")
    torch.testing.assert_close(result.uncertainty, method.predict_step(x)["pred"].mean(1) + 0.5)
    with pytest.raises(ValueError, match=r"score 'note' must be a tensor with one row per datum, got a str"):
        selective_prediction(method, loader(x, normal(ROWS, 2)), score="note")
    method.extra = lambda prediction: prediction["pred"].mean()
    with pytest.raises(ValueError, match=r"score 'interval' must be a tensor with one row per datum, got shape \[\]"):
        selective_prediction(method, loader(x, normal(ROWS, 2)), score="interval")


def test_constant_score_has_the_mean_loss_and_optimal_ranking_has_no_excess() -> None:
    method = Deterministic(MLP(2, [5], 1), Gaussian(noise_std=0.3))
    x, y = normal(ROWS, 2), normal(ROWS, 1)
    constant = selective_prediction(method, loader(x, y))
    torch.testing.assert_close(constant.risk, constant.loss.double().mean().expand(ROWS))
    losses = iter(constant.loss.split(8))
    optimal = selective_prediction(method, loader(x, y), score=lambda _: next(losses))
    assert optimal.excess_aurc == 0
    assert optimal.aurc < constant.aurc


def test_repr_has_the_metrics_only() -> None:
    method, x, y = classifier()
    assert str(selective_prediction(method, loader(x, y))).count(",") == 2


class TestSideEffects:
    @pytest.fixture(params=[False, True], ids=["success", "failure"])
    def arguments(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        return {"score": "no such key"} if request.param else {}

    def test_method_trainer_and_random_state_are_restored(self, arguments: dict[str, Any], trainer: Any) -> None:
        method = mean_field(nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)), Categorical(3))
        method.backbone[1].eval()
        earlier = quiet_trainer()
        method.trainer = earlier
        weights, modes = copy_of_state(method), [module.training for module in method.modules()]
        callbacks = list(trainer.callbacks) if trainer else None
        state, gradients = torch.get_rng_state(), torch.is_grad_enabled()
        try:
            selective_prediction(
                method, loader(normal(ROWS, 2), torch.arange(ROWS) % 3, shuffle=True), trainer=trainer, **arguments
            )
        except ValueError:
            assert arguments
        assert same_state(copy_of_state(method), weights)
        assert [module.training for module in method.modules()] == modes
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.is_grad_enabled() == gradients
        assert method.trainer is earlier
        if trainer:
            assert trainer.callbacks == callbacks

    def test_repeated_calls_agree(self, trainer: Any) -> None:
        method, x, y = classifier()
        first, second = (selective_prediction(method, loader(x, y, shuffle=True), trainer=trainer) for _ in range(2))
        assert torch.equal(first.uncertainty, second.uncertainty)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"score": "entropy"},
            ValueError,
            r"score must be one of the keys \['aleatoric_uct', 'epistemic_uct', 'pred', 'pred_uct', 'probs_var'\] of "
            r"predict_step's dictionary, or a function, got 'entropy'",
        ),
        ({"score": 3}, TypeError, "score must be a key of predict_step's dictionary or a function, got 3"),
        ({"loss": "zero_one"}, TypeError, "loss must be a function of .*, got 'zero_one'"),
        ({"score": lambda p: p["pred"]}, ValueError,
         r"score must return one number per datum, shape \[8\], got shape \[8, 3\]"),
        ({"score": lambda p: 0.5}, ValueError, r"score must return one number per datum, .*got a float"),
        ({"loss": lambda p, y: y.sum()}, ValueError,
         r"loss must return one number per datum, shape \[8\], got shape \[\]"),
        ({"score": lambda p: p["pred_uct"] / 0 - p["pred_uct"] / 0}, ValueError,
         "score is NaN for 30 of the 30 data of dataloader"),
        ({"loss": lambda p, y: torch.where(y == 1, torch.nan, y)}, ValueError, "loss is NaN for 10 of the 30 data"),
        ({"dataloader": [normal(4, 2)]}, TypeError, "selective prediction needs targets"),
        ({"dataloader": normal(4, 2)}, TypeError, "dataloader must be a dataloader, such as .*, got a Tensor"),
        ({"dataloader": (normal(4, 2), normal(4))}, TypeError, "dataloader must be a dataloader, .*, got a tuple"),
        ({"dataloader": None}, TypeError, "dataloader must be a dataloader, .*, got a NoneType"),
        ({"dataloader": [(normal(4, 2), torch.zeros(4, 1).long())]}, ValueError, r"target must have shape \[4\]"),
        ({"dataloader": [(normal(4, 2), torch.zeros(4))]}, TypeError, "target must hold integer class indices"),
        ({"dataloader": [(normal(4, 2), torch.full((4,), 3))]}, ValueError, "labels must lie between 0 and 2"),
        ({"method": nn.Linear(2, 3)}, TypeError, "method must be a Predictor, got a Linear"),
    ],
)  # fmt: skip
def test_errors(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    method, x, y = classifier()
    with pytest.raises(error, match=message):
        selective_prediction(**{"method": method, "dataloader": loader(x, y)} | arguments)


def test_no_data(trainer: Any) -> None:
    for empty in ([], loader(torch.zeros(0, 2), torch.zeros(0))):
        with pytest.raises(ValueError, match=r"dataloader has no data$"):
            selective_prediction(classifier()[0], empty, trainer=trainer)


def test_errors_of_regression() -> None:
    method, x, y = regression()
    with pytest.raises(ValueError, match=r"the targets must have the shape of pred \[30, 2\], got \[30\]"):
        selective_prediction(method, [(x, y[:, 0])])
    y[3, 1] = torch.nan
    with pytest.raises(ValueError, match="the targets have NaN or infinite values"):
        selective_prediction(method, [(x, y)])
    with torch.no_grad():
        next(p for p in method.backbone.parameters()).fill_(torch.nan)
    with pytest.raises(ValueError, match=r"score 'pred_uct' is NaN for 30 of the 30 data of dataloader"):
        selective_prediction(method, [(x, normal(ROWS, 2))])


@pytest.mark.parametrize("coverage", [0.0, 1.5])
def test_coverage_must_lie_between_0_and_1(coverage: float) -> None:
    method, x, y = classifier()
    with pytest.raises(ValueError, match="coverage must be above 0 and at most 1, got "):
        selective_prediction(method, loader(x, y)).risk_at(coverage)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    method, x, y = classifier()
    expected = selective_prediction(method, loader(x, y), score="pred_uct")
    result = selective_prediction(method.to(dtype), loader(x.to(dtype), y))
    assert result.uncertainty.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-4 if dtype == torch.float64 else 0.1
    torch.testing.assert_close(result.uncertainty.float(), expected.uncertainty, rtol=tolerance, atol=tolerance)


def _compare_on_rank(rank: int, port: int) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
    method, data = regression()[0], loader(normal(23, 2), normal(23, 2), batch_size=4)
    alone = selective_prediction(method, data, score="epistemic_uct")
    trainer = quiet_trainer(devices=2, strategy="ddp")
    together = selective_prediction(method, data, score="epistemic_uct", trainer=trainer)
    assert trainer.world_size == 2
    assert len(together.loss) == 23
    torch.testing.assert_close(together.loss.sort().values, alone.loss.sort().values)
    assert together.aurc == pytest.approx(alone.aurc, rel=1e-5)
    end_process_group()


@pytest.mark.thorough
def test_every_rank_gets_the_data_of_all_ranks() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.start_processes(_compare_on_rank, (port,), nprocs=2, start_method="spawn")


def test_spawning_trainers_are_rejected() -> None:
    method, x, y = classifier()
    trainer = quiet_trainer(devices=2, strategy="ddp_spawn")
    with pytest.raises(ValueError, match="trainer must not spawn processes, which return no results; use"):
        selective_prediction(method, loader(x, y), trainer=trainer)
