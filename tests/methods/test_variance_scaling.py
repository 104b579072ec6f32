"""Variance scaling on noise of known scale, and the distribution that its metrics score."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import loader, normal, quiet_trainer, randomize_posteriors
from torch import nn
from torch.distributions import Normal
from torch.testing import assert_close

from lightning_vi import Deterministic, LastLayerVI, MeanFieldVI, VarianceScaling
from lightning_vi.backbones import MLP
from lightning_vi.functional.scoring import gaussian_mixture_crps
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian, StudentT
from lightning_vi.methods import UQMethod

X, Y = normal(40, 3), normal(40, 2)


def test_known_factors_are_recovered() -> None:
    """The standard error of a standard deviation is s / sqrt(2 N)."""
    size, factors = 20_000, torch.tensor([0.4, 3.0])
    x, noise = torch.randn(size, 2), torch.tensor([0.3, 1.7])
    calibrated = VarianceScaling(Deterministic(nn.Identity(), Gaussian(noise.tolist(), num_targets=2)))
    calibrated.calibrate(loader(x, x + factors * noise * torch.randn(size, 2), batch_size=1500))
    assert ((calibrated.std_factor / factors - 1).abs() < 4 / math.sqrt(2 * size)).all()
    assert_close(calibrated.predict_step(x)["pred_uct"], (calibrated.std_factor * noise).expand(size, 2))


def sampled(num_targets: int = 2) -> MeanFieldVI:
    method = MeanFieldVI(MLP(3, [4], 2 * num_targets), HeteroscedasticGaussian(num_targets), num_mc_samples_test=6)
    randomize_posteriors(method)
    method.is_trained = True
    return method


def calibrate(method: UQMethod) -> VarianceScaling:
    calibrated = VarianceScaling(method)
    calibrated.calibrate(loader(X, Y, batch_size=7))
    return calibrated


def test_factor_maximizes_the_likelihood() -> None:
    method = sampled()
    calibrated, prediction = calibrate(method), method.predict(X)
    mean, variance = prediction.mean.double().numpy(), prediction.total_var.double().numpy()
    expected = np.sqrt(((Y.double().numpy() - mean) ** 2 / variance).mean(0))
    np.testing.assert_allclose(calibrated.std_factor.numpy(), expected, rtol=1e-5)

    def log_prob(factor: float) -> torch.Tensor:
        std = factor * calibrated.std_factor * prediction.total_var.sqrt()
        return Normal(prediction.mean, std).log_prob(Y).sum(0)

    assert (log_prob(1.0) > torch.maximum(log_prob(0.95), log_prob(1.05))).all()


def test_all_standard_deviations_are_scaled_and_the_mean_is_unchanged() -> None:
    method = sampled()
    calibrated = calibrate(method)
    before, after = method.predict_step(X), calibrated.predict_step(X)
    assert (calibrated.std_factor - 1).abs().min() > 0.1
    assert torch.equal(before["pred"], after["pred"])
    for key in ("pred_uct", "epistemic_uct", "aleatoric_uct"):
        assert_close(after[key], calibrated.std_factor * before[key])


def test_metrics_score_the_stretched_mixture() -> None:
    method = sampled()
    calibrated = calibrate(method)
    outputs = torch.cat(list(method.eval().sampled_outputs(X, 6, method.noise.seed))).detach().double()
    means, variances = method.likelihood.predictive_moments(outputs)
    center, factor = means.mean(0), calibrated.std_factor.double()
    means, stds = center + factor * (means - center), factor * variances.sqrt()
    densities = scipy.stats.norm(means, stds).logpdf(Y.double()).sum(-1)
    nll = -(scipy.special.logsumexp(densities, axis=0) - math.log(6)).mean()
    (logged,) = quiet_trainer().test(calibrated, loader(X, Y), verbose=False)
    assert logged["test_nll"] == pytest.approx(nll, rel=1e-4)
    assert logged["test_crps"] == pytest.approx(gaussian_mixture_crps(means, stds, Y.double()).mean().item(), rel=1e-4)
    level = scipy.stats.norm(means, stds).cdf(Y.double()).mean(0)
    assert logged["test_coverage"] == pytest.approx(((level >= 0.025) & (level <= 0.975)).mean())
    (before,) = quiet_trainer().test(method, loader(X, Y), verbose=False)
    assert logged["test_rmse"] == pytest.approx(before["test_rmse"])


def test_students_t_is_stretched() -> None:
    """The result is a Student's t distribution with its scale times the factor."""
    x, y = normal(30, 1), 4 * normal(30, 1)
    calibrated = VarianceScaling(Deterministic(nn.Identity(), StudentT(df=3.0, noise_scale=0.5)))
    calibrated.calibrate([(x, y)])
    law = scipy.stats.t(3, loc=x.double(), scale=0.5 * calibrated.std_factor.item())
    (logged,) = quiet_trainer().test(calibrated, loader(x, y, batch_size=30), verbose=False)
    assert logged["test_nll"] == pytest.approx(-law.logpdf(y.double()).mean(), rel=1e-4)
    cdf = law.cdf(y.double())
    assert logged["test_coverage"] == pytest.approx(((cdf >= 0.025) & (cdf <= 0.975)).mean())
    assert logged["test_interval_width"] == pytest.approx((law.ppf(0.975) - law.ppf(0.025)).mean(), rel=1e-4)


def test_positions_share_the_factor_of_their_target() -> None:
    method = Deterministic(nn.Identity(), Gaussian([0.3, 1.7], num_targets=2))
    x, y = normal(10, 4, 2), 2 * normal(10, 2, 4).mT
    calibrated = VarianceScaling(method)
    calibrated.calibrate([(x, y)])
    std = torch.tensor([0.3, 1.7])
    assert_close(calibrated.std_factor, ((y - x) / std).square().mean((0, 1)).sqrt())
    (logged,) = quiet_trainer().test(calibrated, loader(x, y), verbose=False)
    expected = -Normal(x, std * calibrated.std_factor).log_prob(y).sum((1, 2)).mean()
    assert logged["test_nll"] == pytest.approx(expected.item(), rel=1e-5)


def test_closed_form_prediction_is_scaled() -> None:
    method = LastLayerVI(MLP(3, [4], 2), Gaussian([0.3, 1.7], num_targets=2))
    randomize_posteriors(method)
    method.is_trained = True
    calibrated = calibrate(method)
    prediction = calibrated.predict(X)
    (logged,) = quiet_trainer().test(calibrated, loader(X, Y), verbose=False)
    expected = -Normal(prediction.mean, prediction.total_var.sqrt()).log_prob(Y).sum(1).mean()
    assert logged["test_nll"] == pytest.approx(expected.item(), rel=1e-4)
    assert prediction.metadata["num_samples"] is None


def test_second_scaling_is_the_identity() -> None:
    twice = calibrate(calibrate(sampled()))
    assert_close(twice.std_factor, torch.ones(2), rtol=1e-4, atol=0.0)
    (ours,), (theirs,) = (quiet_trainer().test(each, loader(X, Y), verbose=False) for each in (twice, twice.method))
    assert ours == pytest.approx(theirs, rel=1e-3)


def test_factor_of_perfect_predictions_is_positive() -> None:
    calibrated = VarianceScaling(Deterministic(nn.Identity(), Gaussian(0.5)))
    calibrated.calibrate([(X[:, :1], X[:, :1])])
    assert calibrated.std_factor.item() == pytest.approx(1e-3)
    (logged,) = quiet_trainer().test(calibrated, loader(X[:, :1], X[:, :1]), verbose=False)
    assert all(math.isfinite(value) for value in logged.values())
