"""Evaluations of checkpoints from before the end of a fit, such as the best one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import copy_of_state, loader, normal, quiet_trainer, same_state
from lightning import Callback, LightningDataModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from torch import nn
from torch.testing import assert_close

from lightning_vi import SNGP, SWA, SWAG, Laplace, NotFittedError, VarianceScaling
from lightning_vi.core import FittedMethod
from lightning_vi.datamodules import ArrayDataModule, CalibrationDataModule
from lightning_vi.likelihoods import Gaussian

X, Y = normal(24, 3), normal(24, 1)
NEW_X, NEW_Y = normal(10, 3), normal(10, 1)
EPOCHS = 4
THOROUGH = pytest.mark.thorough


def normalized() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 1))


def plain() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1))


METHODS: dict[str, Callable[[], FittedMethod]] = {
    "Laplace": lambda: Laplace(plain(), Gaussian(0.3), prior_std=1.0),
    "SNGP": lambda: SNGP(plain(), Gaussian(0.3), num_random_features=16),
    "SWA": lambda: SWA(plain(), Gaussian(0.3)),
    "SWAG": lambda: SWAG(plain(), Gaussian(0.3)),
    "SWAG, batch normalization": lambda: SWAG(normalized(), Gaussian(0.3), batch_norm_rows=24),
}
each_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


def make_data(rows: int = 24) -> ArrayDataModule:
    return ArrayDataModule(
        train=(X[:rows], Y[:rows]), val=(NEW_X, NEW_Y), test=(NEW_X, NEW_Y), calib=(NEW_X, NEW_Y), batch_size=8
    )


class Order(Callback):
    """Logs the epoch, or its negative for the last epoch to be the best."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.log("order", self.sign * trainer.current_epoch)


def make_trainer(folder: Path, *callbacks: Callback, **options: Any) -> tuple[Trainer, ModelCheckpoint]:
    best = ModelCheckpoint(folder, monitor="order", save_on_train_epoch_end=False)
    callbacks = (Order(), best, *callbacks)
    return quiet_trainer(max_epochs=EPOCHS, callbacks=list(callbacks), enable_checkpointing=True, **options), best


def seeded(make: Callable[[], FittedMethod]) -> FittedMethod:
    torch.manual_seed(5)
    return make()


def fitted_by_hand(make: Callable[[], FittedMethod], path: str) -> FittedMethod:
    method = make()
    method.load_state_dict(torch.load(path, weights_only=True)["state_dict"])
    assert not method.is_fitted
    method.fit_posterior([(X, Y)])
    return method


@each_method
@pytest.mark.filterwarnings("ignore:.*has no snapshot of the weights")
@pytest.mark.parametrize("has_datamodule", [True, False], ids=["datamodule", "loaders"])
def test_the_best_checkpoint_is_evaluated(
    make: Callable[[], FittedMethod], has_datamodule: bool, tmp_path: Path
) -> None:
    """The best epoch is the first one, before the first snapshot."""
    method, (trainer, best) = seeded(make), make_trainer(tmp_path)
    new = loader(NEW_X, NEW_Y)
    evaluated: Any = {"datamodule": make_data()} if has_datamodule else {"dataloaders": new}
    if has_datamodule:
        trainer.fit(method, evaluated["datamodule"])
    else:
        trainer.fit(method, loader(X, Y), new)
    expected = fitted_by_hand(make, best.best_model_path)
    (scores,) = quiet_trainer().test(expected, new, verbose=False)
    (tested,) = trainer.test(ckpt_path="best", verbose=False, **evaluated)
    (validated,) = trainer.validate(ckpt_path="best", verbose=False, **evaluated)
    assert tested == pytest.approx(scores, rel=1e-4)
    assert [validated[name.replace("test_", "val_")] for name in scores] == pytest.approx(
        list(scores.values()), rel=1e-4
    )
    assert_close(method.predict(NEW_X).mean, expected.predict(NEW_X).mean)
    assert_close(method.predict(NEW_X).epistemic_var, expected.predict(NEW_X).epistemic_var)
    predictions: Any = trainer.predict(ckpt_path="best", **evaluated)
    assert_close(torch.cat([batch["pred"] for batch in predictions]), expected.predict(NEW_X).mean)


@each_method
@pytest.mark.filterwarnings("ignore:.*has no snapshot of the weights")
def test_a_loaded_checkpoint_is_evaluated_with_the_datamodule(make: Callable[[], FittedMethod], tmp_path: Path) -> None:
    """Without it, the message has the two lines that do it, and they work."""
    trainer, best = make_trainer(tmp_path)
    trainer.fit(seeded(make), make_data())
    parts = {"backbone": normalized() if "BatchNorm" in str(make()) else plain(), "likelihood": Gaussian(0.3)}
    loaded = type(make()).load_from_checkpoint(best.best_model_path, **parts)
    before = copy_of_state(loaded)
    with pytest.raises(NotFittedError, match=r"(?s)load_from_checkpoint\(PATH.*method.fit_posterior\(train_dataloader"):
        quiet_trainer().test(loaded, loader(NEW_X, NEW_Y), verbose=False)
    assert same_state(copy_of_state(loaded), before)
    (scores,) = quiet_trainer().test(loaded, make_data(), verbose=False)
    by_hand = fitted_by_hand(make, best.best_model_path)
    (expected,) = quiet_trainer().test(by_hand, loader(NEW_X, NEW_Y), verbose=False)
    assert scores == pytest.approx(expected, rel=1e-4)


@each_method
def test_a_refused_evaluation_leaves_the_method_as_it_was(make: Callable[[], FittedMethod], tmp_path: Path) -> None:
    method, (trainer, best) = seeded(make), make_trainer(tmp_path)
    trainer.fit(method, make_data())
    before = copy_of_state(method)
    method._training_data = None  # as after a copy
    with pytest.raises(NotFittedError, match="cannot predict before it is fitted"):
        quiet_trainer().test(method, loader(NEW_X, NEW_Y), ckpt_path=best.best_model_path, verbose=False)
    with pytest.raises(NotFittedError, match="The data at hand have 16 rows, those of the fit 24"):
        quiet_trainer().test(method, datamodule=make_data(16), ckpt_path=best.best_model_path, verbose=False)
    assert same_state(copy_of_state(method), before)
    method.predict(NEW_X)


class LateSetup(LightningDataModule):
    """A datamodule whose training data exist after ``setup("fit")`` alone."""

    def setup(self, stage: str) -> None:
        if stage == "fit":
            self.train = loader(X, Y)

    def train_dataloader(self) -> Any:
        return self.train

    def test_dataloader(self) -> Any:
        return loader(NEW_X, NEW_Y)


def test_a_datamodule_is_set_up_for_its_training_data(tmp_path: Path) -> None:
    make = METHODS["Laplace"]
    trainer, best = make_trainer(tmp_path)
    trainer.fit(seeded(make), make_data())
    method = make()
    (scores,) = quiet_trainer().test(method, datamodule=LateSetup(), ckpt_path=best.best_model_path, verbose=False)
    (expected,) = quiet_trainer().test(fitted_by_hand(make, best.best_model_path), LateSetup(), verbose=False)
    assert scores == pytest.approx(expected, rel=1e-4)


def test_an_untrained_method_is_not_fitted_to_the_datamodule() -> None:
    with pytest.raises(NotFittedError):
        quiet_trainer().test(METHODS["Laplace"](), datamodule=make_data(), verbose=False)


def test_a_calibration_of_the_best_checkpoint_makes_up_the_fit(tmp_path: Path) -> None:
    make = METHODS["Laplace"]
    trainer, best = make_trainer(tmp_path)
    trainer.fit(seeded(make), make_data())
    calibrated = VarianceScaling(make(), method_checkpoint=best.best_model_path)
    quiet_trainer().fit(calibrated, CalibrationDataModule(make_data()))
    by_hand = VarianceScaling(fitted_by_hand(make, best.best_model_path))
    by_hand.calibrate(loader(NEW_X, NEW_Y))
    assert_close(calibrated.predict(X).total_var, by_hand.predict(X).total_var)


@pytest.mark.parametrize("name", ["SWA", "SWAG", "SWAG, batch normalization"])
def test_checkpoints_with_snapshots_predict_what_validation_scores(name: str, tmp_path: Path) -> None:
    """Without the training data."""
    keep = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=False)
    scores = []

    class Keep(Callback):
        def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
            scores.append(float(trainer.callback_metrics["val_nll"]))

    make = METHODS[name]
    trainer = quiet_trainer(max_epochs=EPOCHS, callbacks=[keep, Keep()], enable_checkpointing=True)
    trainer.fit(seeded(make), make_data())
    for epoch in (2, 3):
        loaded = make()
        loaded.load_state_dict(torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)["state_dict"])
        (validated,) = quiet_trainer().validate(loaded, loader(NEW_X, NEW_Y), verbose=False)
        assert validated["val_nll"] == pytest.approx(scores[epoch], rel=1e-5)


STOPPERS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "after validation": ({"check_on_train_epoch_end": False}, {}),
    "at the end of an epoch": ({"check_on_train_epoch_end": True}, {}),
    "after the minimum of epochs": ({"check_on_train_epoch_end": False}, {"min_epochs": 3}),
    "within an epoch": ({"check_on_train_epoch_end": False}, {"val_check_interval": 2}),
    "after all steps": ({"patience": 99}, {"max_steps": 5}),
    "after all epochs": ({"patience": 99}, {}),
}


@pytest.mark.filterwarnings("ignore:.*has no snapshot of the weights")
@pytest.mark.parametrize(("stopper", "run"), STOPPERS.values(), ids=STOPPERS)
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, id=name, marks=() if name in ("Laplace", "SWAG, batch normalization") else THOROUGH)
        for name, make in METHODS.items()
    ],
)
def test_every_last_checkpoint_is_fitted(
    make: Callable[[], FittedMethod], stopper: dict[str, Any], run: dict[str, Any], tmp_path: Path
) -> None:
    """Whichever callback writes it, and also if training is stopped early, once that is decided."""
    stop = EarlyStopping("order", **({"patience": 1, "strict": False} | stopper))
    save = partial(ModelCheckpoint, tmp_path, save_top_k=-1, save_last=True)
    savers = [
        save(filename="step-{step}", every_n_train_steps=1),
        save(filename="end-{step}", save_on_train_epoch_end=not run.get("val_check_interval", False)),
    ]
    savers[1].CHECKPOINT_NAME_LAST = "last-end"
    method = seeded(make)
    options = {"max_epochs": EPOCHS, "callbacks": [Order(), *savers, stop], "enable_checkpointing": True}
    trainer = quiet_trainer(**(options | run))
    trainer.fit(method, make_data())
    expected, last = copy_of_state(method), trainer.global_step
    files = [path for path in tmp_path.glob("*.ckpt") if torch.load(path, weights_only=True)["global_step"] == last]
    assert (tmp_path / "last-end.ckpt") in files
    assert len(files) >= 3
    for path in files:
        state = torch.load(path, weights_only=True)["state_dict"]
        is_decided = not path.name.startswith(("step-", "last.")) or "patience" in stopper
        if is_decided:
            assert same_state({name: state[name] for name in expected}, expected), path.name
