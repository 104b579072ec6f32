"""Temperature scaling on labels with known temperature, and on an overfitted network."""

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
from helpers import loader, normal, quiet_trainer, randomize_posteriors
from method_cases import ImageNet
from torch import Tensor, nn
from torch.distributions import Categorical as CategoricalDistribution
from torch.testing import assert_close

from lightning_vi import DeepEnsemble, Deterministic, Laplace, MeanFieldVI, TemperatureScaling
from lightning_vi.backbones import MLP
from lightning_vi.datamodules import ArrayDataModule, TwoMoonsDataModule
from lightning_vi.likelihoods import Bernoulli, Categorical
from lightning_vi.methods import Ensemble, UQMethod

N = 20_000


def identity(num_classes: int = 4) -> Deterministic:
    """Returns a method whose inputs are its logits."""
    return Deterministic(nn.Identity(), Categorical(num_classes))


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_known_temperature_is_recovered(true_temperature: float) -> None:
    """Within four standard errors, from the Fisher information of 1/T."""
    logits = 2 * torch.randn(N, 4)
    law = CategoricalDistribution(logits=logits / true_temperature)
    calibrated = TemperatureScaling(identity())
    calibrated.calibrate(loader(logits, law.sample(), batch_size=1500))
    information = N * ((law.probs * logits**2).sum(1) - (law.probs * logits).sum(1) ** 2).mean()
    assert abs(1 / calibrated.temperature - 1 / true_temperature) < 4 / information.sqrt()
    assert_close(calibrated.predict(logits[:9]).mean, (logits[:9] / calibrated.temperature).softmax(1))


def test_bernoulli_is_tempered_like_two_classes() -> None:
    logits = 3 * torch.randn(500, 1)
    labels = torch.bernoulli((logits[:, 0] / 2).sigmoid()).long()
    bernoulli = TemperatureScaling(Deterministic(nn.Identity(), Bernoulli()))
    bernoulli.calibrate([(logits, labels)])
    categorical = TemperatureScaling(identity(2))
    categorical.calibrate([(torch.cat([torch.zeros_like(logits), logits], 1), labels)])
    assert_close(bernoulli.temperature, categorical.temperature, rtol=1e-4, atol=0.0)
    assert_close(bernoulli.predict(logits).mean[:, 1:], (logits / bernoulli.temperature).sigmoid())


def method(num_samples: int = 6) -> MeanFieldVI:
    built = MeanFieldVI(MLP(3, [4], 4), Categorical(4), num_mc_samples_test=num_samples)
    randomize_posteriors(built)
    built.is_trained = True
    return built


X, Y = normal(60, 3), torch.arange(60) % 4


def test_averaged_probabilities_are_tempered() -> None:
    base = method()
    calibrated = TemperatureScaling(base)
    calibrated.calibrate([(X, Y)])
    averaged = base.predict(X, return_samples=True).samples.double().mean(0)  # type: ignore[union-attr]
    expected = averaged ** (1 / calibrated.temperature.double())
    assert calibrated.temperature > 1.5
    assert_close(calibrated.predict(X).mean.double(), expected / expected.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_metrics_score_the_tempered_probabilities() -> None:
    calibrated = TemperatureScaling(method())
    calibrated.calibrate([(X, Y)])
    probs = calibrated.predict(X).mean
    (logged,) = quiet_trainer().test(calibrated, loader(X, Y), verbose=False)
    confidence, label = probs.max(1)
    assert logged["test_nll"] == pytest.approx(-probs[torch.arange(60), Y].log().mean().item(), rel=1e-5)
    assert logged["test_brier"] == pytest.approx((probs - nn.functional.one_hot(Y, 4)).square().sum(1).mean().item())
    bins = (confidence * 15).ceil().long()
    gaps = [(confidence[bins == b] - (label == Y)[bins == b].float()).sum().abs() for b in bins.unique()]
    assert logged["test_ece"] == pytest.approx(sum(gaps).item() / 60, rel=1e-4)  # type: ignore[union-attr]
    (before,) = quiet_trainer().test(calibrated.method, loader(X, Y), verbose=False)
    assert logged["test_nll"] < before["test_nll"]
    assert logged["test_accuracy"] == before["test_accuracy"]


def test_nll_is_summed_over_positions() -> None:
    base = Deterministic(ImageNet(3).requires_grad_(False), Categorical(3))
    x, y = torch.randn(5, 2, 4, 4), torch.randint(0, 3, (5, 4, 4))
    calibrated = TemperatureScaling(base)
    calibrated.calibrate([(x, y)])
    (logged,) = quiet_trainer().test(calibrated, loader(x, y), verbose=False)
    per_position = nn.functional.nll_loss(calibrated.predict(x).mean.log(), y).item()
    assert logged["test_nll"] == pytest.approx(16 * per_position, rel=1e-4)
    images, flat = (base.predict(x).mean, y), TemperatureScaling(identity(3))
    flat.calibrate([(images[0].movedim(1, -1).reshape(-1, 3).log(), images[1].flatten())])
    assert_close(flat.temperature, calibrated.temperature, rtol=1e-4, atol=0.0)


def shares(base: UQMethod) -> Tensor:
    result = base.predict_step(X)
    return result["epistemic_uct"] / result["pred_uct"]


def test_epistemic_shares_are_unchanged() -> None:
    base = method()
    calibrated = TemperatureScaling(base)
    calibrated.calibrate([(X, Y)])
    assert_close(shares(calibrated), shares(base), rtol=1e-3, atol=1e-5)
    before, after = base.predict(X), calibrated.predict(X)
    assert (before.epistemic_var > 0).all()
    assert_close(after.epistemic_var / after.total_var, before.epistemic_var / before.total_var, rtol=1e-3, atol=1e-5)
    assert (calibrated.predict(X).predictive_entropy > base.predict(X).predictive_entropy).all()


@pytest.mark.parametrize("make", [method, lambda: fitted_laplace()], ids=["samples", "probit"])
def test_temperature_of_one_is_the_identity(make: Any) -> None:
    base = make()
    neutral = TemperatureScaling(base)
    neutral.is_calibrated.fill_(True)
    expected = base.predict_step(X)
    for key, value in neutral.predict_step(X).items():
        assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
    trainer, data = quiet_trainer(), loader(X, Y, batch_size=60)
    (ours,), (theirs,) = (trainer.test(each, data, verbose=False) for each in (neutral, base))
    assert ours == pytest.approx(theirs, rel=1e-4)


def fitted_laplace() -> Laplace:
    base = Laplace(MLP(3, [4], 4), Categorical(4))
    base.fit_posterior([(X, Y)])
    return base


def test_confident_predictions_stay_finite() -> None:
    calibrated = TemperatureScaling(identity())
    logits = torch.eye(4)[Y] * 5000
    calibrated.calibrate([(logits, Y)])
    result = calibrated.predict_step(logits)
    assert all(value.isfinite().all() for value in result.values())
    assert 0.01 <= calibrated.temperature <= 1
    calibrated.calibrate([(logits, (Y + 1) % 4)])
    assert calibrated.temperature == pytest.approx(100.0)
    (logged,) = quiet_trainer().test(calibrated, loader(logits, Y), verbose=False)
    assert all(math.isfinite(value) for value in logged.values())


def test_overfitted_network_is_calibrated() -> None:
    moons = TwoMoonsDataModule(n_points=3000, noise_std=0.4)
    rows = [(moons.X_train[a:b], moons.Y_train[a:b]) for a, b in ((0, 100), (100, 400), (400, 2000))]
    data = ArrayDataModule(train=rows[0], calib=rows[1], test=rows[2], num_classes=2, batch_size=100)
    base = Deterministic(MLP(2, [50, 50], 2), Categorical(2), optimizer=partial(torch.optim.Adam, lr=2e-2))
    quiet_trainer(max_epochs=150, limit_val_batches=0).fit(base, data)
    calibrated = TemperatureScaling(base)
    calibrated.calibrate(data.calibration_dataloader())
    (before,), (after,) = (quiet_trainer().test(each, data, verbose=False) for each in (base, calibrated))
    assert calibrated.temperature > 2
    assert after["test_ece"] < 0.8 * before["test_ece"]
    assert after["test_nll"] < before["test_nll"] / 2
    assert after["test_accuracy"] == before["test_accuracy"]


def optimal_temperature(logits: Tensor, labels: Tensor) -> float:
    """The optimum of the likelihood in double precision, by bisection of its derivative in 1/T."""
    low, high, logits = 1e-3, 1e2, logits.double()
    for _ in range(200):
        middle = math.sqrt(low * high)
        expected = ((middle * logits).softmax(1) * logits).sum(1)
        slope = (expected - logits.gather(1, labels.unsqueeze(1))[:, 0]).mean()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 1 / middle


@pytest.mark.parametrize("true_temperature", [5.0, 18.0, 46.8, 95.0])
def test_high_temperatures_are_not_biased(true_temperature: float) -> None:
    """Logits of several hundred, whose probabilities are rounded to 0 and 1; also averaged, stacked and nested."""
    sharp = 1.5 * torch.randn(3000, 3)
    labels = CategoricalDistribution(logits=sharp).sample()
    logits = true_temperature * sharp
    expected = optimal_temperature(logits, labels)
    assert expected == pytest.approx(true_temperature, rel=0.1)
    linear = nn.Linear(3, 3)
    with torch.no_grad():
        linear.weight.copy_(torch.eye(3))
        linear.bias.zero_()
    laplace = Laplace(linear, Categorical(3), prior_std=1e-7)
    laplace.fit_posterior([(logits[:50], labels[:50])])
    nested = TemperatureScaling(identity(3))
    nested.is_calibrated.fill_(True)
    for base in (
        identity(3),
        MeanFieldVI(linear, Categorical(3), init_std=1e-8, num_mc_samples_test=3),
        DeepEnsemble(lambda: copy.deepcopy(linear), Categorical(3), num_members=2),
        Ensemble([identity(3), laplace]),
        laplace,
        nested,
    ):
        for part in base.modules():
            if isinstance(part, UQMethod):
                part.is_trained = True
        calibrated = TemperatureScaling(base)
        calibrated.calibrate(loader(logits, labels, batch_size=1000))
        assert calibrated.temperature.item() == pytest.approx(expected, rel=1e-4), type(base).__name__
        assert_close(calibrated.predict(logits[:9]).mean, (logits[:9] / expected).softmax(1), rtol=1e-3, atol=1e-5)
    two = logits[:, :1]
    binary = torch.bernoulli((two[:, 0] / true_temperature).sigmoid()).long()
    bernoulli = TemperatureScaling(Deterministic(nn.Identity(), Bernoulli()))
    bernoulli.calibrate([(two, binary)])
    both = torch.cat([torch.zeros_like(two), two], 1)
    assert bernoulli.temperature.item() == pytest.approx(optimal_temperature(both, binary), rel=1e-4)
