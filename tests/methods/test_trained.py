"""Methods that count as trained, which calibrations require."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.testing import assert_close

from lightning_vi import DeepEnsemble, Deterministic, Ensemble, Laplace, MeanFieldVI, NotFittedError, VarianceScaling
from lightning_vi.core import Predictor, UQMethod
from lightning_vi.likelihoods import Gaussian

X, Y = normal(24, 3), normal(24, 1)
DATA = [(X, Y)]


def untrained(kind: Any = Deterministic) -> Any:
    return kind(nn.Linear(3, 1), Gaussian(0.5))


def by_a_loop() -> UQMethod:
    method: UQMethod = untrained(MeanFieldVI)
    method.elbo(X, Y, num_data=24).loss.backward()  # type: ignore[no-untyped-call]
    return method


def by_a_state_dictionary(make: Callable[[], UQMethod] = by_a_loop) -> UQMethod:
    trained = make()
    method: UQMethod = untrained(type(trained))
    method.load_state_dict(trained.state_dict())
    return method


def by_a_fit() -> UQMethod:
    method: UQMethod = untrained()
    fit(method, loader(X, Y))
    return method


def by_a_mark() -> UQMethod:
    method: UQMethod = untrained()
    method.is_trained = True
    return method


def by_fit_posterior() -> UQMethod:
    method: UQMethod = untrained(Laplace)
    method.fit_posterior(DATA)  # type: ignore[operator]
    return method


WAYS: dict[str, Callable[[], Predictor]] = {
    "loop": by_a_loop,
    "state dictionary of a loop": by_a_state_dictionary,
    "state dictionary of a fit": lambda: by_a_state_dictionary(by_a_fit),
    "state dictionary of a mark": lambda: by_a_state_dictionary(by_a_mark),
    "fit": by_a_fit,
    "mark": by_a_mark,
    "fit_posterior": by_fit_posterior,
    "frozen network": lambda: Deterministic(nn.Linear(3, 1).requires_grad_(False), Gaussian(0.5)),
    "ensemble": lambda: Ensemble([by_a_fit(), by_a_mark()]),
}


@pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)
def test_trained_methods_are_calibrated(make: Callable[[], Predictor]) -> None:
    calibrated = VarianceScaling(make())
    calibrated.calibrate(DATA)
    assert calibrated.is_calibrated
    assert VarianceScaling(calibrated).is_trained


UNTRAINED: dict[str, Callable[[], Predictor]] = {
    "Deterministic": untrained,
    "MeanFieldVI": lambda: untrained(MeanFieldVI),
    "DeepEnsemble": lambda: untrained(DeepEnsemble),
    "Laplace": lambda: untrained(Laplace),
    "ensemble": lambda: Ensemble([by_a_fit(), untrained()]),
    "calibration": lambda: VarianceScaling(untrained()),
}


@pytest.mark.parametrize("make", UNTRAINED.values(), ids=UNTRAINED)
def test_untrained_methods_are_refused(make: Callable[[], Predictor]) -> None:
    calibrated = VarianceScaling(make())
    with torch.no_grad():
        getattr(calibrated.method, "elbo", lambda *_, **__: None)(X, Y, num_data=24)
    for call in (lambda: calibrated.calibrate(DATA), lambda: quiet_trainer().fit(calibrated, loader(X, Y))):
        with pytest.raises(NotFittedError, match=r"has not been trained: fit it first|cannot predict before it is"):
            call()
    assert not calibrated.is_calibrated


def test_a_resumed_calibration_uses_all_data(tmp_path: Path) -> None:
    """From within an epoch, and from its last step before the hooks of the method have run."""
    method = by_a_fit()
    expected = VarianceScaling(method)
    expected.calibrate(DATA)
    saver = ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    with pytest.warns(UserWarning, match="manual optimization"):
        quiet_trainer(callbacks=[saver], enable_checkpointing=True).fit(VarianceScaling(method), loader(X, Y))
    for step in (1, 2, 3):
        path = tmp_path / f"step={step}.ckpt"
        assert torch.load(path, weights_only=True)["state_dict"]["is_calibrated"] == (step == 3)
        resumed = VarianceScaling(method)
        quiet_trainer().fit(resumed, loader(X, Y), ckpt_path=path)
        assert resumed.is_calibrated
        assert_close(resumed.predict(X).total_var, expected.predict(X).total_var)
