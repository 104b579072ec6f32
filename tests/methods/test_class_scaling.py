"""Vector, Dirichlet and isotonic scaling against scipy, scikit-learn and labels from known maps."""

from typing import Any

import numpy as np
import pytest
import scipy.optimize
import torch
from helpers import loader, normal, quiet_trainer, randomize_posteriors
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import (
    Deterministic,
    DirichletScaling,
    IsotonicScaling,
    MeanFieldVI,
    TemperatureScaling,
    VectorScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.calibration import ClassScaling
from lightning_vi.functional.class_maps import fit_isotonic, interpolate
from lightning_vi.likelihoods import Bernoulli, Categorical
from lightning_vi.metrics import ClasswiseCalibrationError


def identity(num_classes: int = 3) -> Deterministic:
    """Returns a method whose inputs are its logits."""
    return Deterministic(nn.Identity(), Categorical(num_classes))


def sample(logits: Tensor) -> Tensor:
    return torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(0)).squeeze(1)


X = 2 * normal(400, 3)
WEIGHT, BIAS = torch.tensor([0.4, 0.8, 0.6]), torch.tensor([0.5, -0.3, -0.2])
MATRIX = torch.tensor([[0.7, 0.2, 0.0], [-0.1, 0.5, 0.1], [0.0, 0.0, 0.9]])


def by_scipy(log_probs: np.ndarray, labels: np.ndarray, diagonal: bool, off: float, intercept: float) -> np.ndarray:
    """Probabilities of an independent fit."""
    size = log_probs.shape[1]

    def outputs(theta: np.ndarray) -> np.ndarray:
        bias, rest = theta[:size], theta[size:]
        matrix = np.diag(rest) if diagonal else rest.reshape(size, size)
        return log_probs @ matrix.T + bias

    def loss(theta: np.ndarray) -> float:
        out = outputs(theta)
        log_norm = np.log(np.exp(out - out.max(1, keepdims=True)).sum(1)) + out.max(1)
        value = np.mean(log_norm - out[np.arange(len(labels)), labels]) + intercept * np.mean(theta[:size] ** 2)
        if not diagonal:
            matrix = theta[size:].reshape(size, size)
            value += off * np.sum((matrix - np.diag(np.diag(matrix))) ** 2) / (size * (size - 1))
        return float(value)

    start = np.concatenate([np.zeros(size), np.ones(size) if diagonal else np.eye(size).ravel()])
    found = scipy.optimize.minimize(loss, start, method="BFGS", options={"gtol": 1e-7, "maxiter": 2000})
    out = outputs(found.x)
    exponential = np.exp(out - out.max(1, keepdims=True))
    return exponential / exponential.sum(1, keepdims=True)


@pytest.mark.parametrize(
    ("make", "diagonal", "off", "intercept"),
    [
        (VectorScaling, True, 0.0, 0.0),
        (lambda m: DirichletScaling(m, off_diagonal_penalty=0.3, intercept_penalty=0.05), False, 0.3, 0.05),
        (lambda m: DirichletScaling(m, off_diagonal_penalty=0.0, intercept_penalty=0.0), False, 0.0, 0.0),
    ],
    ids=["vector", "Dirichlet", "Dirichlet without penalties"],
)
def test_fits_equal_scipy(make: Any, diagonal: bool, off: float, intercept: float) -> None:
    y = sample(X @ MATRIX.T + BIAS)
    calibrated: ClassScaling = make(identity())
    calibrated.calibrate(loader(X, y, batch_size=150))
    expected = by_scipy(X.double().log_softmax(1).numpy(), y.numpy(), diagonal, off, intercept)
    assert_close(calibrated.predict(X).mean.double(), torch.tensor(expected), rtol=0, atol=2e-4)


def test_known_maps_are_recovered() -> None:
    logits = 2 * normal(20_000, 3)
    vector, dirichlet = VectorScaling(identity()), DirichletScaling(identity(), off_diagonal_penalty=0.0)
    log_probs = logits.log_softmax(1)
    for calibrated, truth in ((vector, log_probs * WEIGHT + BIAS), (dirichlet, log_probs @ MATRIX.T + BIAS)):
        calibrated.calibrate([(logits, sample(truth))])
        error = (calibrated.predict(logits[:500]).mean - truth[:500].softmax(1)).abs()
        assert error.mean() < 0.01
    assert_close(vector.weight, WEIGHT, rtol=0, atol=0.06)


def test_isotonic_functions_equal_scikit_learn() -> None:
    probs, y = X.softmax(1), sample(0.5 * X + BIAS)
    calibrated = IsotonicScaling(identity())
    calibrated.calibrate([(X, y)])
    new = 2 * normal(200, 3)
    columns = []
    for index in range(3):
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(probs[:, index], y == index)
        columns.append(np.clip(fitted.predict(new.softmax(1)[:, index]), 1 / 802, 801 / 802))
    expected = np.stack(columns, 1)
    expected /= expected.sum(1, keepdims=True)
    assert_close(calibrated.predict(new).mean.double(), torch.tensor(expected).double(), rtol=0, atol=1e-4)
    assert (calibrated.predict(new).mean > 0).all()


def test_isotonic_knots_are_thinned_and_padded() -> None:
    places = torch.linspace(0, 1, 4000, dtype=torch.float64)
    knots, values = fit_isotonic(places, places**2, 64)
    assert knots.shape == values.shape == (64,)
    assert_close(interpolate(places, knots, values), places**2, rtol=0, atol=1e-3)
    few = fit_isotonic(places[:3], torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), 8)
    assert_close(interpolate(places[:3], *few), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    step = torch.tensor([0.5, 0.5]), torch.tensor([0.0, 1.0])
    assert interpolate(torch.tensor([0.4, 0.6]), *step).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("wrapper", [VectorScaling, DirichletScaling, IsotonicScaling])
def test_miscalibrated_classes_improve_beyond_a_temperature(wrapper: Any) -> None:
    logits = 2 * normal(4000, 3)
    y = sample(logits * torch.tensor([0.3, 1.0, 0.5]) + torch.tensor([1.0, 0.0, -1.0]))
    tempered, calibrated = TemperatureScaling(identity()), wrapper(identity())
    scores = []
    for each in (tempered, calibrated):
        each.calibrate([(logits[:2000], y[:2000])])
        each.test_metrics.add_metrics({"classwise": ClasswiseCalibrationError(3)})
        (logged,) = quiet_trainer().test(each, loader(logits[2000:], y[2000:], batch_size=500), verbose=False)
        scores.append(logged)
    assert scores[1]["test_nll"] < scores[0]["test_nll"] - 0.02
    assert scores[1]["test_classwise"] < 0.6 * scores[0]["test_classwise"]


@pytest.mark.parametrize("wrapper", [VectorScaling, DirichletScaling, IsotonicScaling])
def test_metrics_score_the_calibrated_probabilities_and_shares_stay(wrapper: Any) -> None:
    method = MeanFieldVI(MLP(3, [4], 3), Categorical(3), num_mc_samples_test=6)
    randomize_posteriors(method)
    method.is_trained = True
    x, y = normal(60, 3), torch.arange(60) % 3
    calibrated = wrapper(method)
    calibrated.calibrate([(x, y)])
    probs = calibrated.predict(x).mean
    (logged,) = quiet_trainer().test(calibrated, loader(x, y), verbose=False)
    assert logged["test_nll"] == pytest.approx(-probs.gather(1, y[:, None]).log().mean().item(), rel=1e-4)
    before, after = method.predict_step(x), calibrated.predict_step(x)
    assert_close(after["epistemic_uct"] / after["pred_uct"], before["epistemic_uct"] / before["pred_uct"])


@pytest.mark.parametrize("wrapper", [VectorScaling, DirichletScaling, IsotonicScaling])
def test_confident_and_separable_data_stay_finite(wrapper: Any) -> None:
    y = torch.arange(60) % 3
    logits = 5000 * torch.eye(3)[y]
    for labels in (y, (y + 1) % 3, torch.zeros(60, dtype=torch.long)):
        calibrated = wrapper(identity())
        calibrated.calibrate([(logits, labels)])
        result = calibrated.predict_step(logits)
        assert all(value.isfinite().all() for value in result.values())
        (logged,) = quiet_trainer().test(calibrated, loader(logits, labels), verbose=False)
        assert logged["test_nll"] < 1.2


@pytest.mark.parametrize("wrapper", [VectorScaling, DirichletScaling, IsotonicScaling])
def test_ignored_labels_and_bernoulli(wrapper: Any) -> None:
    y = sample(X)
    ignored = torch.where(torch.arange(400) % 4 == 0, 255, y)
    masked = wrapper(Deterministic(nn.Identity(), Categorical(3, ignore_index=255)))
    masked.calibrate([(X, ignored)])
    plain = wrapper(identity())
    plain.calibrate([(X[ignored != 255], y[ignored != 255])])
    assert_close(masked.predict(X).mean, plain.predict(X).mean, rtol=1e-3, atol=1e-4)
    binary = wrapper(Deterministic(nn.Identity(), Bernoulli()))
    logits = X[:, :1]
    binary.calibrate([(logits, torch.bernoulli((0.5 * logits[:, 0] + 1).sigmoid()).long())])
    assert abs(binary.predict(logits).mean[:, 1].mean() - (0.5 * logits + 1).sigmoid().mean()) < 0.08


def test_penalties_shrink_and_are_checked() -> None:
    y = sample(X @ MATRIX.T + BIAS)
    strong = DirichletScaling(identity(), off_diagonal_penalty=1e4, intercept_penalty=1e4)
    strong.calibrate([(X, y)])
    off = strong.weight - torch.diag(strong.weight.diagonal())
    assert off.abs().max() < 1e-3
    assert strong.bias.abs().max() < 1e-3
    for name in ("off_diagonal_penalty", "intercept_penalty"):
        with pytest.raises(ValueError, match=f"{name} must be non-negative and finite, got -1"):
            DirichletScaling(identity(), **{name: -1.0})  # type: ignore[arg-type]
