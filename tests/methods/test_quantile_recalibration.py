"""Quantile recalibration against interpolation by hand, numerical integration and known laws."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import loader, metric_inputs, normal, quiet_trainer, randomize_posteriors
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import Deterministic, MeanFieldVI, MeanVarianceEstimation, QuantileRecalibration
from lightning_vi.backbones import MLP
from lightning_vi.functional.mixture import Mixture
from lightning_vi.functional.recalibrated import RecalibratedMixture, pit_knots
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian, Poisson
from lightning_vi.metrics import QuantileCalibrationError

SCALE = 0.6


def skewed(size: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Means and raw scales of Gaussians, and targets with smaller exponential errors, which are skewed."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 2, generator=generator)
    std = method().predict(x).total_var.sqrt()
    uniform = torch.rand(size, 1, generator=generator)
    return x, x[:, :1] + SCALE * std * (-uniform.log() - 0.8)


def method() -> Any:
    return MeanVarianceEstimation(nn.Identity(), HeteroscedasticGaussian())


def test_knots_are_order_statistics() -> None:
    values = torch.rand(39, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels, knots = pit_knots(values, num_bins=4)
    assert_close(levels, torch.tensor([0, 1 / 40, 0.25, 0.5, 0.75, 39 / 40, 1], dtype=torch.float64))
    ordered = values.sort(0).values
    expected = torch.stack(
        [0 * ordered[0], ordered[0], ordered[9], ordered[19], ordered[29], ordered[38], 0 * ordered[0] + 1]
    )
    assert_close(knots, expected, rtol=0, atol=1e-4)
    gaps = torch.where(torch.arange(39) < 19, values[:, 0], torch.nan)
    both = pit_knots(torch.stack([gaps, values[:, 1]], 1), 4)
    assert both[0][1] == pytest.approx(1 / 20)
    assert_close(both[1][:, 0], pit_knots(values[:19, :1], 4)[1][:, 0])
    constant = pit_knots(torch.full((50, 1), 0.3), 10)[1]
    assert (constant.diff(dim=0) > 0).all()
    assert (constant[0], constant[-1]) == (0, 1)


def recalibrated() -> tuple[RecalibratedMixture, Any]:
    """A mixture of two Gaussians with a map of three parts, and the density on a grid."""
    means = torch.tensor([-1.0, 2.0], dtype=torch.float64).view(2, 1, 1)
    stds = torch.tensor([0.5, 1.5], dtype=torch.float64).view(2, 1, 1)
    mixture = Mixture(lambda values: torch.special.ndtr((values - means) / stds), means, stds)
    levels = torch.tensor([0, 0.02, 0.3, 0.6, 0.95, 1.0], dtype=torch.float64)
    knots = torch.tensor([0, 0.1, 0.35, 0.5, 0.8, 1.0], dtype=torch.float64).unsqueeze(1)
    grid = np.linspace(-12, 16, 400_001)
    cdf = np.mean([scipy.stats.norm(m, s).cdf(grid) for m, s in ((-1, 0.5), (2, 1.5))], 0)
    return RecalibratedMixture(mixture, levels, knots), (grid, np.interp(cdf, knots[:, 0], levels))


def test_distribution_function_quantiles_and_moments_equal_integrals() -> None:
    ours, (grid, expected) = recalibrated()
    values = torch.tensor(grid[::1000]).view(-1, 1, 1, 1)
    np.testing.assert_allclose(ours.cdf(values).flatten(), expected[::1000], atol=1e-9)
    levels = [0.01, 0.1, 0.45, 0.97]
    mean, variance, quantiles = ours.summary(levels)
    np.testing.assert_allclose(quantiles.flatten(), np.interp(levels, expected, grid), atol=2e-4)
    assert_close(quantiles, ours.quantiles(levels))
    middle, mass = (grid[1:] + grid[:-1]) / 2, np.diff(expected)
    assert float(mean) == pytest.approx(np.sum(middle * mass), abs=2e-3)
    true_variance = np.sum(middle**2 * mass) - np.sum(middle * mass) ** 2
    assert float(variance) == pytest.approx(true_variance, rel=3e-3)
    point = torch.tensor([[0.7]], dtype=torch.float64)
    near = [float(ours.cdf(point + step)) for step in (-1e-5, 1e-5)]
    plain = [float(ours.mixture.cdf((point + step).unsqueeze(0))) for step in (-1e-5, 1e-5)]
    assert float(ours.slope(point)) == pytest.approx((near[1] - near[0]) / (plain[1] - plain[0]), rel=1e-6)


def test_identity_leaves_a_gaussian_as_it_is() -> None:
    neutral = QuantileRecalibration(method())
    neutral.is_calibrated.fill_(True)
    x = normal(30, 2)
    plain, same = method().predict(x), neutral.predict(x)
    assert_close(same.mean, plain.mean, rtol=0, atol=2e-3)
    assert_close(same.total_var, plain.total_var, rtol=2e-3, atol=0.0)
    half = scipy.stats.norm.ppf(0.975) * plain.total_var.sqrt()
    assert_close(same.upper, plain.mean + half, rtol=1e-3, atol=1e-3)
    (ours,), (theirs,) = (
        quiet_trainer().test(each, loader(x, normal(30, 1)), verbose=False) for each in (neutral, method())
    )
    for name in ("test_nll", "test_crps", "test_coverage", "test_rmse", "test_interval_width"):
        assert ours[name] == pytest.approx(theirs[name], rel=3e-3), name


def test_a_skewed_law_is_recovered() -> None:
    calibrated = QuantileRecalibration(method(), num_bins=40)
    calibrated.calibrate(loader(*skewed(20_000), batch_size=5000))
    x, y = skewed(400, seed=1)
    std = method().predict(x).total_var.sqrt()
    prediction = calibrated.predict(x)
    assert_close(prediction.mean, x[:, :1] + SCALE * std * 0.2, rtol=0.02, atol=0.03)
    assert_close(prediction.total_var.sqrt(), SCALE * std, rtol=0.05, atol=0.0)
    lower, upper = (x[:, :1] + SCALE * std * (scipy.stats.expon.ppf(p) - 0.8) for p in (0.025, 0.975))
    assert_close(prediction.lower, lower, rtol=0.05, atol=0.1)
    assert_close(prediction.upper, upper, rtol=0.05, atol=0.1)
    assert prediction.metadata["interval_level"] == 0.95
    scores = []
    for each in (method(), calibrated):
        each.test_metrics.add_metrics({"quantiles": QuantileCalibrationError()})
        (logged,) = quiet_trainer().test(each, loader(x, y, batch_size=100), verbose=False)
        scores.append(logged)
    assert scores[1]["test_quantiles"] < scores[0]["test_quantiles"] / 3
    for name in ("test_nll", "test_crps", "test_rmse"):
        assert scores[1][name] < scores[0][name], name
    truth = -scipy.stats.expon.logpdf(((y - x[:, :1]) / (SCALE * std) + 0.8).numpy()).mean() + float(
        (SCALE * std).log().mean()
    )
    assert scores[1]["test_nll"] == pytest.approx(truth, abs=0.1)
    assert abs(scores[1]["test_coverage"] - 0.95) < 0.04


def test_coverage_of_calibrated_quantiles_over_many_data_sets() -> None:
    """F(y) at each knot is Beta distributed, so that mean shares are the levels."""
    calibrated = QuantileRecalibration(method(), num_bins=5, interval_level=0.8)
    shares = []
    for seed in range(40):
        calibrated.calibrate([skewed(99, seed)])
        x, y = skewed(100, 1000 + seed)
        result = calibrated.predict(x)
        shares.append([(y < result.lower).float().mean(), (y > result.upper).float().mean()])
    means, errors = np.mean(shares, 0), np.std(shares, 0) / np.sqrt(40)
    assert (np.abs(means - 0.1) < 4 * errors + 0.005).all()


def sampled(missing: Any = "error") -> MeanFieldVI:
    base = MeanFieldVI(MLP(3, [4], 2), Gaussian([0.5, 1.5], num_targets=2, missing=missing), num_mc_samples_test=5)
    randomize_posteriors(base)
    base.is_trained = True
    return base


def test_density_is_the_derivative_of_the_distribution_function() -> None:
    base, x = sampled(), normal(80, 3)
    y = base.predict(x).mean + normal(80, 2)
    calibrated = QuantileRecalibration(base, num_bins=4)
    calibrated.calibrate([(x, y.flip(0) + 0.01)])  # no row lies on a knot, where the density jumps
    y = y.double()
    inputs = metric_inputs(calibrated.double(), x.double(), y)
    mixture = inputs["mixture"]
    steps = torch.tensor([-1e-5, 1e-5], dtype=torch.float64).view(2, 1, 1)
    below, above = mixture.cdf(y + steps)
    plain = metric_inputs(base.double(), x.double(), y)
    slopes = (above - below) / (torch.special.ndtr((y + 1e-5 - plain["means"]) / plain["stds"]).mean(0)
                                - torch.special.ndtr((y - 1e-5 - plain["means"]) / plain["stds"]).mean(0))  # fmt: skip
    expected = torch.logsumexp(plain["log_prob"], 0) - np.log(5) + slopes.log().sum(1)
    assert_close(inputs["log_prob"][0], expected, rtol=1e-3, atol=1e-3)
    assert_close(inputs["preds"], calibrated.predict(x.double()).mean)


def test_missing_targets_and_shares() -> None:
    x, y = normal(60, 3), normal(60, 2)
    gaps = torch.where((torch.arange(60) % 2 == 0)[:, None] & torch.tensor([True, False]), torch.nan, y)
    masked, plain = QuantileRecalibration(sampled("ignore"), num_bins=3), QuantileRecalibration(sampled(), num_bins=3)
    plain.method.load_state_dict(masked.method.state_dict())
    masked.calibrate([(x, gaps)])
    plain.calibrate([(x[1::2], y[1::2])])
    assert_close(masked.knots[:, 0], plain.knots[:, 0])
    (logged,) = quiet_trainer().test(masked, loader(x, gaps), verbose=False)
    assert all(np.isfinite(value) for value in logged.values())
    before, after = masked.method.predict(x), masked.predict(x)
    assert_close(after.epistemic_var / after.total_var, before.epistemic_var / before.total_var)


def test_gradients_equal_differences() -> None:
    calibrated = QuantileRecalibration(sampled().double(), num_bins=3).double()
    calibrated.calibrate([(normal(60, 3).double(), normal(60, 2).double())])
    x = normal(4, 3).double().requires_grad_()
    calibrated.predict(x, differentiable=True).total_var.sum().backward()
    assert x.grad is not None
    step = torch.zeros_like(x)
    step[1, 2] = 1e-4
    high, low = (calibrated.predict(x.detach() + sign * step).total_var.sum() for sign in (1, -1))
    assert float(x.grad[1, 2]) == pytest.approx(float(high - low) / 2e-4, rel=1e-2, abs=1e-4)


def test_invalid_arguments() -> None:
    with pytest.raises(TypeError, match="QuantileRecalibration is for real numbers, but Poisson is for counts"):
        QuantileRecalibration(Deterministic(nn.Linear(1, 1), Poisson()))
    with pytest.raises(ValueError, match="num_bins must be an integer of at least 2, got 1"):
        QuantileRecalibration(method(), num_bins=1)
    with pytest.raises(ValueError, match="interval_level must lie strictly between 0 and 1, got 95"):
        QuantileRecalibration(method(), interval_level=95)
