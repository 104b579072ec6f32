"""Contract of calibration methods, with several inner methods and likelihoods."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, loader, quiet_trainer, same_state
from lightning import LightningDataModule
from lightning.pytorch.callbacks import ModelCheckpoint
from method_cases import ROWS, Case, fail_in_forward, global_states, modes
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader

from lightning_vi import (
    CLEAR,
    AdaptiveConformal,
    AdaptivePredictionSets,
    ConformalQuantileRegression,
    ConformalRiskControl,
    DirichletScaling,
    IsotonicScaling,
    JointConformal,
    Laplace,
    LeastAmbiguousSets,
    NotFittedError,
    QuantileRecalibration,
    SplitConformal,
    TemperatureScaling,
    TopKSets,
    VarianceScaling,
    VectorScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import CalibrationDataModule, TwoMoonsDataModule
from lightning_vi.likelihoods import Categorical
from lightning_vi.methods import CalibratedMethod, Predictor

COVERAGE = 0.7  # twelve data are enough for a finite quantile
WRAPPERS: dict[str, Callable[..., CalibratedMethod]] = {
    "TemperatureScaling": TemperatureScaling,
    "VarianceScaling": VarianceScaling,
    "SplitConformal": partial(SplitConformal, coverage=COVERAGE),
    "SplitConformal, one width": partial(SplitConformal, coverage=COVERAGE, normalised=False),
    "ConformalQuantileRegression": partial(ConformalQuantileRegression, coverage=COVERAGE),
    "AdaptivePredictionSets": partial(AdaptivePredictionSets, coverage=COVERAGE),
    "AdaptivePredictionSets, RAPS": partial(AdaptivePredictionSets, coverage=COVERAGE, penalty=0.1, randomised=False),
    "VectorScaling": VectorScaling,
    "DirichletScaling": partial(DirichletScaling, off_diagonal_penalty=0.1),
    "IsotonicScaling": IsotonicScaling,
    "QuantileRecalibration": partial(QuantileRecalibration, num_bins=4),
    "CLEAR": partial(CLEAR, coverage=COVERAGE),
    "JointConformal": partial(JointConformal, coverage=0.6, kind="max"),
    "LeastAmbiguousSets": partial(LeastAmbiguousSets, coverage=COVERAGE),
    "TopKSets": partial(TopKSets, coverage=COVERAGE, randomised=True),
    "ConformalRiskControl": partial(ConformalRiskControl, risk=0.3),
    "AdaptiveConformal": partial(AdaptiveConformal, coverage=COVERAGE),
}
INTERVALS = {"SplitConformal", "ConformalQuantileRegression", "CLEAR", "JointConformal", "AdaptiveConformal"}
SETS = {"AdaptivePredictionSets", "LeastAmbiguousSets", "TopKSets", "ConformalRiskControl"}
MOVED = {"VectorScaling", "DirichletScaling", "IsotonicScaling", "QuantileRecalibration"}
"""Calibrations that change the mean or the order of the classes."""
PAIRS = {
    "TemperatureScaling": [("MeanFieldVI", "categorical, [B, C, H, W]"), ("Laplace", "categorical")],
    "VarianceScaling": [("MeanFieldVI", "Student's t"), ("LastLayerVI", "Gaussian, given, 2 targets")],
    "SplitConformal": [("MeanFieldVI", "heteroscedastic, [B, 4, D]")],
    "SplitConformal, one width": [("Deterministic", "heteroscedastic")],
    "ConformalQuantileRegression": [("QuantileRegression", "quantiles, [B, 4, D]"), ("MeanFieldVI", "Poisson")],
    "AdaptivePredictionSets": [("MeanFieldVI", "categorical, [B, C, H, W]")],
    "AdaptivePredictionSets, RAPS": [("MeanFieldVI", "Bernoulli")],
    "VectorScaling": [("MeanFieldVI", "categorical, [B, C, H, W]")],
    "DirichletScaling": [("Laplace", "categorical")],
    "IsotonicScaling": [("MeanFieldVI", "categorical")],
    "QuantileRecalibration": [
        ("MeanFieldVI", "heteroscedastic, [B, 4, D]"),
        ("LastLayerVI", "Gaussian, given, 2 targets"),
    ],
    "CLEAR": [("MeanFieldVI", "heteroscedastic, [B, 4, D]")],
    "JointConformal": [("LastLayerVI", "Gaussian, given, 2 targets")],
    "LeastAmbiguousSets": [("MeanFieldVI", "categorical")],
    "TopKSets": [("MeanFieldVI", "categorical, [B, C, H, W]")],
    "ConformalRiskControl": [("MeanFieldVI", "categorical, [B, C, H, W]")],
    "AdaptiveConformal": [("MeanFieldVI", "heteroscedastic, [B, 4, D]")],
}


@dataclass(frozen=True)
class Calibrated:
    """A wrapper around a method on a problem. `inner` is another wrapper in between."""

    wrapper: str
    base: Case
    inner: str | None = None

    @property
    def is_regression(self) -> bool:
        return self.base.problem.is_regression

    @property
    def additions(self) -> set[str]:
        """Keys that the wrapper adds to a prediction."""
        if self.name in INTERVALS | {"QuantileRecalibration"} or self.base.method_name == "QuantileRegression":
            return {"lower", "upper"}
        return {"pred_set"} if self.name in SETS else set()

    @property
    def name(self) -> str:
        return self.wrapper.split(",")[0]

    def data(self, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        return self.base.problem.data(dtype)

    def method(self, dtype: torch.dtype = torch.float32) -> Predictor:
        method: Predictor = self.base.build(dtype)
        if self.inner is not None:
            inner = WRAPPERS[self.inner](method)
            inner.calibrate([self.data(dtype)])
            method = inner
        return method.train()

    def wrap(self, method: Predictor, **options: Any) -> CalibratedMethod:
        return WRAPPERS[self.wrapper](method, **options)

    def build(self, dtype: torch.dtype = torch.float32) -> CalibratedMethod:
        calibrated = self.wrap(self.method(dtype)).to(dtype)
        calibrated.calibrate([self.data(dtype)])
        return calibrated.train()


CASES = {
    **{f"{name} of {'-'.join(pair)}": Calibrated(name, Case(*pair)) for name, pairs in PAIRS.items() for pair in pairs},
    "sets of tempered probabilities": Calibrated(
        "AdaptivePredictionSets", Case("MeanFieldVI", "categorical"), "TemperatureScaling"
    ),
    "intervals of scaled variances": Calibrated(
        "SplitConformal", Case("LastLayerVI", "heteroscedastic"), "VarianceScaling"
    ),
    "intervals around intervals": Calibrated(
        "ConformalQuantileRegression", Case("MeanFieldVI", "Gaussian, learned"), "SplitConformal"
    ),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def batches(case: Calibrated, size: int = 5) -> DataLoader[Any]:
    return loader(*case.data(), batch_size=size)


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_shapes_identities_and_dtypes(case: Calibrated, dtype: torch.dtype) -> None:
    calibrated, (x, target) = case.build(dtype), case.data(dtype)
    result = calibrated.predict_step(x)
    keys = {"pred", "pred_uct", "epistemic_uct", "aleatoric_uct"} | (set() if case.is_regression else {"probs_var"})
    assert set(result) == keys | case.additions
    assert all(value.device == x.device and value.isfinite().all() for value in result.values())
    assert all(value.dtype == (torch.bool if key == "pred_set" else dtype) for key, value in result.items())
    pred, total, epistemic, aleatoric = (result[k] for k in ("pred", "pred_uct", "epistemic_uct", "aleatoric_uct"))
    assert total.shape == epistemic.shape == aleatoric.shape == target.shape
    assert (epistemic > 0).all() == (not case.base.is_point)
    assert (aleatoric >= 0).all()
    prediction = calibrated.predict(x)
    assert prediction.metadata["method"] == case.wrapper.split(",")[0]
    assert_close(prediction.total_var, prediction.epistemic_var + prediction.aleatoric_var)
    assert_close(prediction.mean, pred)
    if case.is_regression:
        assert_close(total.square(), epistemic.square() + aleatoric.square(), rtol=1e-5, atol=1e-6)
        assert_close(prediction.total_var, total.square())
        if case.additions:
            assert result["lower"].shape == result["upper"].shape == target.shape
            assert (result["lower"] <= result["upper"]).all()
        return
    assert_close(pred.sum(1), torch.ones_like(total))
    assert_close(total, epistemic + aleatoric, rtol=1e-5, atol=1e-6)
    assert_close(total, torch.special.entr(pred).sum(1), rtol=1e-4, atol=1e-5)
    assert_close(prediction.total_var, pred * (1 - pred), rtol=1e-4, atol=1e-6)
    assert_close(result["probs_var"], prediction.epistemic_var)
    if case.additions:
        assert result["pred_set"].shape == pred.shape
        assert result["pred_set"].gather(1, pred.argmax(1, keepdim=True)).all()


@each_case
def test_one_sample_has_no_epistemic_uncertainty_and_no_nan(case: Calibrated) -> None:
    calibrated, (x, _) = case.build(), case.data()
    result = calibrated.predict(x, num_samples=1).as_dict()
    assert all(value.isfinite().all() for value in result.values())
    if not case.base.is_exact:
        assert (result["epistemic_uct"] == 0).all()


@each_case
def test_samples_are_returned_on_request(case: Calibrated) -> None:
    calibrated, (x, _) = case.build(), case.data()
    prediction = calibrated.predict(x, num_samples=9, seed=4, return_samples=True)
    assert prediction.samples is not None
    assert prediction.samples.shape == (1 if case.base.is_point else 9, *prediction.mean.shape)
    if case.is_regression:
        assert_close(prediction.samples.mean(0), prediction.mean)
        assert_close(prediction.samples.var(0, correction=0), prediction.epistemic_var, rtol=1e-4, atol=1e-6)
    assert calibrated.predict(x).samples is None


@each_case
def test_predictions_depend_on_the_seed_only(case: Calibrated) -> None:
    """They agree with the inner method in every call and for every split of the rows."""
    calibrated, (x, _) = case.build().eval(), case.data()
    first, again = calibrated.predict(x, seed=1), calibrated.predict(x, seed=1)
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.epistemic_var, again.epistemic_var)
    parts = [calibrated.predict(part).as_dict() for part in x.split([5, 4, 3])]
    for key, value in calibrated.predict(x).as_dict().items():
        assert_close(torch.cat([part[key] for part in parts]), value, rtol=1e-4, atol=1e-5)
    if case.name in MOVED:
        return
    if case.is_regression:
        assert torch.equal(calibrated.predict(x).mean, calibrated.source.predict(x).mean)
    else:
        assert torch.equal(calibrated.predict(x).mean.argmax(1), calibrated.method.predict(x).mean.argmax(1))


@each_case
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_predict_and_calibrate_have_no_side_effects(case: Calibrated, fails: bool) -> None:
    """On weights, modes and the global random state; nor on the calibration if a forward pass fails."""
    calibrated, (x, target) = case.build(), case.data()
    next(calibrated.trained_networks()[0].children()).eval()
    state, mode, random_states = copy_of_state(calibrated), modes(calibrated), global_states()
    shuffled = loader(x + 1, target, shuffle=True)
    if fails:
        fail_in_forward(calibrated)
        for run in (partial(calibrated.predict, x), partial(calibrated.calibrate, shuffled)):
            with pytest.raises(RuntimeError, match="out of luck"):
                run()
    else:
        calibrated.predict(x, num_samples=2, seed=3, return_samples=True)
        calibrated.predict_step(x)
        calibrated.calibrate(shuffled)
    assert global_states() == random_states
    assert modes(calibrated) == mode
    kept = copy_of_state(calibrated)
    if not fails:
        state, kept = copy_of_method(state), copy_of_method(kept)
    assert same_state(kept, state)


def copy_of_method(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if "." in name}


@each_case
def test_failed_calibration_has_no_side_effects(case: Calibrated) -> None:
    calibrated, (x, target) = case.build(), case.data()
    state = copy_of_state(calibrated)
    wrong_type = target.long() if case.is_regression else target.float()
    for data, error, message in (
        ([], ValueError, "there are no data to calibrate on"),
        ([(x, target), (x, target[:, None])], ValueError, "the predictions need targets of shape"),
        ([(x, target), x], TypeError, "this step needs targets"),
        ([(x, wrong_type)], TypeError, "the predictions need (integer|floating)"),
        (TwoMoonsDataModule(), TypeError, "data must be a dataloader, .* got a TwoMoonsDataModule"),
    ):
        with pytest.raises(error, match=message):
            calibrated.calibrate(data)  # type: ignore[arg-type]
    if case.is_regression:
        with pytest.raises(ValueError, match="targets have NaN or infinite values"):
            calibrated.calibrate([(x, target * torch.nan)])
    else:
        with pytest.raises(ValueError, match="labels must lie between"):
            calibrated.calibrate([(x, target + 7)])
    assert same_state(copy_of_state(calibrated), state)


@each_case
def test_the_callers_method_stays_untouched(case: Calibrated) -> None:
    method, (x, target) = case.method(), case.data()
    before, expected = copy_of_state(method), method.predict(x)
    calibrated = case.wrap(method)
    calibrated.calibrate([(x, target)])
    with torch.no_grad():
        for parameter in calibrated.parameters():
            parameter.add_(1.0)
    assert same_state(copy_of_state(method), before)
    assert torch.equal(method.predict(x).mean, expected.mean)


@each_case
def test_state_dict_has_each_weight_once(case: Calibrated) -> None:
    """It contains the inner method and the buffers of the wrapper."""
    calibrated, (x, _) = case.build().eval(), case.data()
    assert_close(calibrated(x), calibrated.method(x))
    assert calibrated.likelihood is calibrated.method.likelihood
    assert calibrated.noise is calibrated.method.noise
    own = {name for name in calibrated.state_dict() if not name.startswith("method.")}
    assert own == {name for name, _ in calibrated.named_buffers(recurse=False)}
    assert len(calibrated.state_dict()) == len(own) + len(calibrated.method.state_dict())


@each_case
def test_a_test_batch_needs_one_forward_pass(case: Calibrated) -> None:
    """At any depth of nesting."""
    calibrated, (x, target) = case.build(), case.data()

    def passes(predictor: Predictor) -> int:
        calls: list[None] = []
        first = next(module for module in predictor.modules() if isinstance(module, nn.Linear | nn.Conv2d))
        handle = first.register_forward_hook(lambda *_: calls.append(None))
        try:
            quiet_trainer().test(predictor, loader(x, target, batch_size=len(x)), verbose=False)
        finally:
            handle.remove()
        return len(calls)

    base: Any = calibrated.method
    while isinstance(base, CalibratedMethod):
        base = base.method
    base.predict(x)  # the engine inspects a network in its first pass
    assert passes(calibrated) == passes(base) > 0


@each_case
def test_copy_and_pickle_after_a_fit(case: Calibrated) -> None:
    calibrated, (x, _) = case.wrap(case.method()), case.data()
    trainer = quiet_trainer()
    trainer.fit(calibrated, batches(case))
    trainer.predict(calibrated, batches(case))
    expected = calibrated.predict_step(x)
    for twin in (copy.deepcopy(calibrated), pickle.loads(pickle.dumps(calibrated))):
        assert all(torch.equal(value, expected[key]) for key, value in twin.predict_step(x).items())
        with torch.no_grad():
            for parameter in twin.method.parameters():
                parameter.add_(0.5)
        assert not torch.allclose(twin.predict(x).mean, expected["pred"])
    assert torch.equal(calibrated.predict(x).mean, expected["pred"])


@each_case
def test_fit_calibrates_without_training(case: Calibrated) -> None:
    """It agrees with `calibrate` for any batches and any number of epochs."""
    method, (x, target) = case.method(), case.data()
    by_hand, fitted = case.wrap(method), case.wrap(method)
    by_hand.calibrate([(x, target)])
    before, random_states = copy_of_state(method), global_states()
    trainer = quiet_trainer(max_epochs=3, num_sanity_val_steps=2)
    data = loader(x, target, batch_size=5)
    # There is one calibration per epoch, with validations before, between and after them.
    trainer.fit(fitted, data, data)
    assert same_state(copy_of_state(fitted.source), before)
    assert global_states()[1:] == random_states[1:]
    assert trainer.global_step == 9
    for name, value in by_hand.named_buffers(recurse=False):
        assert_close(fitted.get_buffer(name), value, rtol=1e-4, atol=1e-5)
    assert_close(fitted.predict(x).mean, by_hand.predict(x).mean, rtol=1e-4, atol=1e-5)
    assert fitted.is_trained == method.is_trained


@each_case
def test_validate_test_and_predict_on_the_same_dataloader(case: Calibrated) -> None:
    calibrated, (x, target) = case.build(), case.data()
    data, trainer = loader(x, target, batch_size=5), quiet_trainer()
    (validated,) = trainer.validate(calibrated, data, verbose=False)
    (tested,) = trainer.test(calibrated, data, verbose=False)
    names = {name.removeprefix("test_") for name in tested}
    assert {name.removeprefix("val_"): value for name, value in validated.items()} == {
        name: tested[f"test_{name}"] for name in names if not name.startswith("conformal")
    }
    conformal = {"lower": "conformal_width", "pred_set": "conformal_set_size"}
    expected = {conformal[key] for key in conformal if key in case.additions and case.name in INTERVALS | SETS}
    if expected:
        expected |= {"conformal_risk" if case.name == "ConformalRiskControl" else "conformal_coverage"}
    if case.name == "JointConformal":
        expected |= {"conformal_joint_coverage"}
    assert {name for name in names if name.startswith("conformal")} == expected
    outputs: Any = trainer.predict(calibrated, data)
    for key, value in calibrated.predict_step(x).items():
        assert_close(torch.cat([batch[key] for batch in outputs]), value, rtol=1e-4, atol=1e-5)


@each_case
def test_checkpoint_gives_the_same_predictions(case: Calibrated, tmp_path: Path) -> None:
    method, (x, _) = case.method(), case.data()
    calibrated = case.wrap(method)
    trainer = quiet_trainer()
    trainer.fit(calibrated, batches(case))
    trainer.save_checkpoint(tmp_path / "calibrated.ckpt")
    torch.manual_seed(555)
    fresh = case.method()
    loaded = type(calibrated).load_from_checkpoint(
        tmp_path / "calibrated.ckpt", method=fresh, weights_only=True, map_location="cpu"
    )
    expected = calibrated.predict_step(x)
    assert all(torch.equal(value, expected[key]) for key, value in loaded.predict_step(x).items())
    for name, value in getattr(WRAPPERS[case.wrapper], "keywords", {}).items():
        assert getattr(loaded, name) == value
    torch.save(calibrated.state_dict(), tmp_path / "state.pt")
    other = case.wrap(fresh)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(value, expected[key]) for key, value in other.predict_step(x).items())


@each_case
def test_prediction_before_calibration_raises(case: Calibrated) -> None:
    calibrated, (x, target) = case.wrap(case.method()), case.data()
    name = type(calibrated).__name__
    for run in (
        partial(calibrated.predict, x),
        partial(calibrated.predict_step, x),
        partial(quiet_trainer().test, calibrated, loader(x, target), verbose=False),
        partial(quiet_trainer().validate, calibrated, loader(x, target), verbose=False),
    ):
        with pytest.raises(NotFittedError, match=f"{name} cannot predict before it is calibrated"):
            run()
    assert calibrated(x).shape[0] == ROWS


def moons_classifier() -> Any:
    return MLP(2, [4], 2), Categorical(2)


def test_calibration_of_an_unfitted_method_raises() -> None:
    data = TwoMoonsDataModule()
    calibrated = TemperatureScaling(Laplace(*moons_classifier()))
    with pytest.raises(NotFittedError, match="Laplace cannot predict before it is fitted"):
        calibrated.calibrate(data.calibration_dataloader())
    with pytest.raises(NotFittedError, match="Laplace cannot predict before it is fitted"):
        quiet_trainer().fit(calibrated, data.calibration_dataloader())
    assert not calibrated.is_calibrated


def laplace() -> Laplace:
    """Returns a fitted method whose best temperature lies within the bounds."""
    torch.manual_seed(2)
    method = Laplace(*moons_classifier())
    method.fit_posterior(TwoMoonsDataModule().train_dataloader())
    return method


def test_training_data_of_a_datamodule_are_rejected() -> None:
    data, calibrated = TwoMoonsDataModule(), TemperatureScaling(laplace())
    with pytest.raises(ValueError, match=r"TemperatureScaling would calibrate on the training data of TwoMoonsDataMod"):
        quiet_trainer().fit(calibrated, data)
    assert not calibrated.is_calibrated
    trainer = quiet_trainer()
    trainer.fit(laplace(), data)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(calibrated, data.calibration_dataloader())  # the Trainer still refers to the datamodule
    by_hand = TemperatureScaling(laplace())
    by_hand.calibrate([(data.X_calib, data.Y_calib)])
    assert_close(calibrated.temperature, by_hand.temperature, rtol=1e-4, atol=0.0)
    from_datamodule = TemperatureScaling(laplace())
    quiet_trainer().fit(from_datamodule, CalibrationDataModule(data))
    assert torch.equal(from_datamodule.temperature, calibrated.temperature)


def test_fit_keeps_the_target_scaling_of_the_method() -> None:
    case = CASES["SplitConformal, one width of Deterministic-heteroscedastic"]
    method = case.method()
    method.likelihood.set_target_scaling(torch.tensor([5.0]), torch.tensor([2.0]))

    class Other(LightningDataModule):
        target_mean, target_std = torch.tensor([-1.0]), torch.tensor([0.1])
        gives_calibration_data = True

        def train_dataloader(self) -> Any:
            return batches(case)

    fitted = case.wrap(method)
    quiet_trainer().fit(fitted, Other())
    assert same_state(copy_of_state(fitted.method), copy_of_state(method))


def test_empty_calibration_data_are_rejected() -> None:
    with pytest.raises(ValueError, match="the calibration set is empty"):
        quiet_trainer().fit(TemperatureScaling(laplace()), loader(torch.zeros(0, 2), torch.zeros(0).long()))


def test_validation_and_checkpoint_of_an_epoch_follow_its_calibration(tmp_path: Path) -> None:
    data, calibrated = TwoMoonsDataModule(), TemperatureScaling(laplace())
    checkpoint = ModelCheckpoint(tmp_path, monitor="val_nll")
    trainer = quiet_trainer(callbacks=[checkpoint], enable_checkpointing=True, enable_progress_bar=True)
    trainer.fit(calibrated, CalibrationDataModule(data))
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    (scores,) = quiet_trainer().validate(calibrated, data, verbose=False)
    assert scores["val_nll"] == pytest.approx(logged["val_nll"])
    assert logged["calibration_temperature"] == pytest.approx(calibrated.temperature.item())
    state = torch.load(checkpoint.best_model_path, weights_only=True)["state_dict"]
    assert state["is_calibrated"]
    assert torch.equal(state["temperature"], calibrated.temperature)


@pytest.mark.parametrize("options", [{"max_steps": 2, "max_epochs": -1}, {"limit_train_batches": 2}])
def test_fit_that_ends_early_calibrates_on_the_data_so_far(options: dict[str, Any]) -> None:
    data, calibrated = TwoMoonsDataModule(batch_size=5), TemperatureScaling(laplace())
    quiet_trainer(**options).fit(calibrated, data.calibration_dataloader())
    by_hand = TemperatureScaling(laplace())
    by_hand.calibrate([(data.X_calib[:10], data.Y_calib[:10])])
    assert_close(calibrated.temperature, by_hand.temperature, rtol=1e-4, atol=0.0)


def test_failed_fit_has_no_side_effects() -> None:
    data, calibrated = TwoMoonsDataModule(), TemperatureScaling(laplace())
    x, y = data.X_calib, data.Y_calib
    with pytest.raises(ValueError, match="labels must lie between 0 and 1"):
        quiet_trainer().fit(calibrated, loader(x, torch.cat([y[:-1], y[-1:] + 5])))
    assert not calibrated.is_calibrated
    quiet_trainer().fit(calibrated, loader(x, y))
    by_hand = TemperatureScaling(laplace())
    by_hand.calibrate([(x, y)])
    assert_close(calibrated.temperature, by_hand.temperature, rtol=1e-4, atol=0.0)


def test_batches_may_be_mappings() -> None:
    data = TwoMoonsDataModule()
    first, second = TemperatureScaling(laplace()), TemperatureScaling(laplace())
    first.calibrate([(data.X_calib, data.Y_calib)])
    second.calibrate([{"input": data.X_calib, "target": data.Y_calib}])
    assert torch.equal(first.temperature, second.temperature)


def test_nan_predictions_are_rejected() -> None:
    method = laplace()
    with torch.no_grad():
        method.backbone[0].weight.fill_(torch.nan)  # type: ignore[index, union-attr]
    data = TwoMoonsDataModule()
    with pytest.raises(ValueError, match="the predictions of 20 of 20 calibration data are NaN"):
        TemperatureScaling(method).calibrate(data.calibration_dataloader())


@pytest.mark.parametrize("wrapper", WRAPPERS.values(), ids=WRAPPERS)
def test_invalid_methods(wrapper: Any) -> None:
    with pytest.raises(TypeError, match="method must be a method of lightning_vi, got a Linear"):
        wrapper(nn.Linear(2, 2))
    is_for_classes = getattr(wrapper, "func", wrapper).task == "classification"
    other = Case("Deterministic", "heteroscedastic" if is_for_classes else "categorical").build()
    with pytest.raises(TypeError, match=r"is for (regression|classification), but .*: use [A-Z]"):
        wrapper(other)


def test_error_names_the_right_class() -> None:
    with pytest.raises(TypeError, match="but Gaussian is for regression: use VarianceScaling"):
        TemperatureScaling(Case("Deterministic", "Gaussian, learned").build())
    with pytest.raises(TypeError, match="but Categorical is for classification: use TemperatureScaling"):
        VarianceScaling(Case("Deterministic", "categorical").build())
    with pytest.raises(TypeError, match="VarianceScaling is for real numbers, but Poisson is for counts"):
        VarianceScaling(Case("Deterministic", "Poisson").build())


def test_weights_are_loaded_from_a_checkpoint_of_the_method(tmp_path: Path) -> None:
    data, method = TwoMoonsDataModule(), Laplace(*moons_classifier())
    trainer = quiet_trainer()
    trainer.fit(method, data)
    trainer.save_checkpoint(tmp_path / "method.ckpt")
    fresh = Laplace(*moons_classifier())
    before = copy_of_state(fresh)
    calibrated = TemperatureScaling(fresh, method_checkpoint=str(tmp_path / "method.ckpt"))
    assert same_state(copy_of_state(calibrated.method), copy_of_state(method))
    assert same_state(copy_of_state(fresh), before)
    assert calibrated.is_trained
    quiet = quiet_trainer()
    quiet.fit(calibrated, data.calibration_dataloader())
    quiet.save_checkpoint(tmp_path / "calibrated.ckpt")
    (tmp_path / "method.ckpt").unlink()
    loaded = TemperatureScaling.load_from_checkpoint(tmp_path / "calibrated.ckpt", method=fresh, weights_only=True)
    assert torch.equal(loaded.predict(data.X_test).mean, calibrated.predict(data.X_test).mean)


def test_invalid_checkpoints(tmp_path: Path) -> None:
    method = laplace()
    with pytest.raises(FileNotFoundError, match=r"method_checkpoint must be the file .* got '.*nothing.ckpt'"):
        TemperatureScaling(method, method_checkpoint=str(tmp_path / "nothing.ckpt"))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(ValueError, match=r"text.ckpt' is not a checkpoint that torch.load"):
        TemperatureScaling(method, method_checkpoint=str(tmp_path / "text.ckpt"))
    torch.save(method.state_dict(), tmp_path / "state.pt")
    with pytest.raises(ValueError, match="is not a Lightning checkpoint: it has no 'state_dict'"):
        TemperatureScaling(method, method_checkpoint=str(tmp_path / "state.pt"))
    torch.save({"state_dict": MLP(1, [2], 1).state_dict()}, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other.ckpt' is not a checkpoint of this Laplace"):
        TemperatureScaling(method, method_checkpoint=str(tmp_path / "other.ckpt"))
