"""Gaussian observation models against torch.distributions and numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from lightning_vi.functional import RunningMoments, inverse_softplus
from lightning_vi.likelihoods import Gaussian, HeteroscedasticGaussian, Prediction
from lightning_vi.likelihoods.regression import RegressionLikelihood

SCALE_MEAN = torch.tensor([100.0, -3.0])
SCALE_STD = torch.tensor([25.0, 0.2])
NOISE = torch.tensor([0.3, 1.7])


def learned_noise() -> Gaussian:
    likelihood = Gaussian(num_targets=2)
    likelihood.noise_rho.data.copy_(inverse_softplus(NOISE))
    return likelihood


def oracle(likelihood: RegressionLikelihood, outputs: Tensor, scaled: bool) -> Normal:
    """The observation model in target units, written out."""
    if likelihood.has_gaussian_noise:
        mean, std = outputs, NOISE.expand_as(outputs)
    else:
        mean, std = outputs[..., :2], F.softplus(outputs[..., 2:]) + likelihood.min_std
    return Normal(mean * SCALE_STD + SCALE_MEAN, std * SCALE_STD) if scaled else Normal(mean, std)


LIKELIHOODS: dict[str, tuple[Callable[[], RegressionLikelihood], int]] = {
    "given noise": (lambda: Gaussian(noise_std=NOISE.tolist(), num_targets=2), 2),
    "learned noise": (learned_noise, 2),
    "heteroscedastic": (lambda: HeteroscedasticGaussian(num_targets=2, min_std=0.05), 4),
}


@pytest.fixture(params=[False, True], ids=["target units", "standardized"])
def scaled(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(params=LIKELIHOODS.values(), ids=LIKELIHOODS)
def case(request: pytest.FixtureRequest, scaled: bool) -> tuple[RegressionLikelihood, int]:
    make, width = request.param
    likelihood: RegressionLikelihood = make()
    if scaled:
        likelihood.set_target_scaling(SCALE_MEAN, SCALE_STD)
    return likelihood, width


@pytest.fixture(params=[(), (3,)], ids=["[B, D]", "[B, 3, D]"])
def problem(
    case: tuple[RegressionLikelihood, int], scaled: bool, request: pytest.FixtureRequest
) -> tuple[RegressionLikelihood, Tensor, Tensor, Normal]:
    likelihood, width = case
    outputs = torch.randn(6, 5, *request.param, width)
    expected = oracle(likelihood, outputs, scaled)
    return likelihood, outputs, expected.sample()[0], expected


def test_log_density_is_summed_over_the_elements_of_a_datum(
    problem: tuple[RegressionLikelihood, Tensor, Tensor, Normal],
) -> None:
    likelihood, outputs, target, expected = problem
    likelihood.check(outputs, target)
    elements = expected.log_prob(target)
    torch.testing.assert_close(likelihood.elementwise_log_prob(outputs, target), elements, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(likelihood.log_prob(outputs, target), elements.flatten(2).sum(-1), rtol=1e-4, atol=1e-4)


def test_point_loss_is_the_squared_error_in_the_units_of_the_network(
    problem: tuple[RegressionLikelihood, Tensor, Tensor, Normal], scaled: bool
) -> None:
    likelihood, outputs, target, expected = problem
    units = SCALE_STD if scaled else torch.ones(2)
    squared = ((expected.mean[:1] - target) / units).square()
    torch.testing.assert_close(likelihood.point_loss(outputs[:1], target), squared.sum() / 5, rtol=1e-4, atol=1e-4)


def test_prediction_follows_the_law_of_total_variance(
    problem: tuple[RegressionLikelihood, Tensor, Tensor, Normal],
) -> None:
    likelihood, outputs, _, expected = problem
    moments, spread = RunningMoments(), RunningMoments()
    for chunk in outputs.split([2, 4]):
        means, variances = likelihood.predictive_moments(chunk)
        moments.update(means)
        spread.update(variances)
    prediction = likelihood.prediction(moments, spread.mean)
    means, variances = expected.mean.detach().numpy(), expected.variance.detach().numpy()
    np.testing.assert_allclose(prediction.mean.detach(), means.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(prediction.epistemic_var.detach(), means.var(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(prediction.aleatoric_var.detach(), variances.mean(0), rtol=1e-4)
    total = (means**2 + variances).mean(0, dtype=np.float64) - means.mean(0, dtype=np.float64) ** 2
    np.testing.assert_allclose(prediction.total_var.detach(), total, rtol=1e-3, atol=1e-3)


def test_metric_inputs(problem: tuple[RegressionLikelihood, Tensor, Tensor, Normal]) -> None:
    likelihood, outputs, target, expected = problem
    inputs = likelihood.metric_inputs(outputs, target)
    torch.testing.assert_close(inputs["preds"], expected.mean.mean(0))
    torch.testing.assert_close(inputs["means"], expected.mean)
    torch.testing.assert_close(inputs["stds"], expected.stddev)
    torch.testing.assert_close(inputs["log_prob"], expected.log_prob(target).flatten(2).sum(-1), rtol=1e-4, atol=1e-4)
    assert torch.equal(inputs["target"], target)


def test_gradient_of_learned_noise_is_that_of_the_density() -> None:
    likelihood = learned_noise()
    outputs, target = torch.randn(4, 5, 2), torch.randn(5, 2)
    likelihood.log_prob(outputs, target).sum().backward()
    std = NOISE.clone().requires_grad_()
    Normal(outputs, std).log_prob(target).sum().backward()
    by_rho = std.grad * (-torch.expm1(-NOISE))
    torch.testing.assert_close(likelihood.noise_rho.grad, by_rho)


def test_gaussian_prediction_and_metrics_of_a_gaussian_output(scaled: bool) -> None:
    """f ~ N(m, s^2) and y = f + e: y is Gaussian with the variances added, in target units."""
    likelihood = Gaussian(noise_std=NOISE.tolist(), num_targets=2)
    units, shift = torch.ones(2), torch.zeros(2)
    if scaled:
        units, shift = SCALE_STD, SCALE_MEAN
        likelihood.set_target_scaling(shift, units)
    mean, std = torch.randn(5, 3, 2), torch.rand(5, 3, 2) + 0.2
    expected = Normal(mean * units + shift, (std.square() + NOISE.square()).sqrt() * units)
    prediction = likelihood.gaussian_prediction(mean, std)
    torch.testing.assert_close(prediction.mean, expected.mean)
    torch.testing.assert_close(prediction.epistemic_var, (std * units).square())
    torch.testing.assert_close(prediction.aleatoric_var, (NOISE * units).square().expand(5, 3, 2))
    torch.testing.assert_close(prediction.total_var, expected.variance)
    target = expected.sample()
    inputs = likelihood.gaussian_metric_inputs(mean, std, target)
    log_prob = expected.log_prob(target).flatten(1).sum(-1)
    torch.testing.assert_close(inputs["log_prob"], log_prob.unsqueeze(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(inputs["means"][0], expected.mean)
    torch.testing.assert_close(inputs["stds"][0], expected.stddev)


def test_scaling_is_in_the_state_dict() -> None:
    likelihood, fresh = learned_noise(), Gaussian(num_targets=2)
    likelihood.set_target_scaling(SCALE_MEAN, SCALE_STD)
    fresh.load_state_dict(likelihood.state_dict())
    outputs, target = torch.randn(1, 5, 2), torch.randn(5, 2)
    assert torch.equal(fresh.log_prob(outputs, target), likelihood.log_prob(outputs, target))


def test_extreme_raw_scales_are_finite() -> None:
    likelihood = HeteroscedasticGaussian()
    outputs = torch.tensor([[[0.0, -200.0], [0.0, 200.0]]], requires_grad=True)
    loss = likelihood.log_prob(outputs, torch.zeros(2, 1)).sum()
    loss.backward()
    assert loss.isfinite()
    assert outputs.grad.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Gaussian(noise_std=0.0), "noise_std must be positive"),
        (lambda: Gaussian(noise_std=-1.0), "noise_std must be positive"),
        (lambda: Gaussian(noise_std=float("inf")), "noise_std must be positive and finite"),
        (lambda: Gaussian(initial_noise_std=0.0), "initial_noise_std must be positive"),
        (lambda: Gaussian(noise_std=[0.1, 0.2, 0.3], num_targets=2), "one number or 2"),
        (lambda: Gaussian(num_targets=0), "num_targets must be positive, got 0"),
        (lambda: HeteroscedasticGaussian(num_targets=-1), "num_targets must be positive, got -1"),
        (lambda: HeteroscedasticGaussian(min_std=-0.1), "min_std must not be negative, got -0.1"),
        (lambda: HeteroscedasticGaussian(min_std=float("nan")), "min_std must not be negative"),
    ],
)
def test_bad_arguments_are_errors(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("outputs", "target", "error", "message"),
    [
        ((1, 5, 3), torch.zeros(5, 2), ValueError, "needs network outputs of width 2, got 3"),
        ((1, 5, 2), torch.zeros(5), ValueError, r"targets of shape \(5, 2\), got \(5,\)"),
        ((1, 5, 2), torch.zeros(5, 1), ValueError, r"targets of shape \(5, 2\), got \(5, 1\)"),
        ((1, 5, 2), torch.zeros(4, 2), ValueError, r"targets of shape \(5, 2\), got \(4, 2\)"),
        ((1, 5, 2), torch.zeros(5, 2).long(), TypeError, "floating-point targets, got torch.int64"),
    ],
)
def test_wrong_shapes_and_types_are_errors(
    outputs: tuple[int, ...], target: Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Gaussian(num_targets=2).check(torch.zeros(outputs), target)


def test_three_columns_are_not_a_mean_and_a_scale() -> None:
    with pytest.raises(ValueError, match="needs network outputs of width 2, got 3"):
        HeteroscedasticGaussian().check(torch.zeros(1, 5, 3), torch.zeros(5, 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinite_targets_are_errors(value: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite"):
        Gaussian().check_values(torch.tensor([[0.0], [value]]))


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        (torch.zeros(1), torch.ones(2), "mean must be finite and of shape"),
        (torch.zeros(2), torch.ones(1), "std must be finite and of shape"),
        (torch.tensor([0.0, float("nan")]), torch.ones(2), "mean must be finite"),
        (torch.zeros(2), torch.tensor([1.0, 0.0]), "std must be positive"),
    ],
)
def test_bad_scaling_is_an_error_and_changes_nothing(mean: Tensor, std: Tensor, message: str) -> None:
    likelihood = Gaussian(num_targets=2)
    likelihood.set_target_scaling(SCALE_MEAN, SCALE_STD)
    with pytest.raises(ValueError, match=message):
        likelihood.set_target_scaling(mean, std)
    assert torch.equal(likelihood.target_mean, SCALE_MEAN)
    assert torch.equal(likelihood.target_std, SCALE_STD)


def test_dictionary_of_a_prediction() -> None:
    parts = torch.tensor([[4.0]]), torch.tensor([[9.0]]), torch.tensor([[16.0]]), torch.tensor([[25.0]])
    dictionary = Prediction(*parts, samples=torch.zeros(3, 1, 1)).as_dict()
    values = {name: value.tolist() for name, value in dictionary.items() if name != "samples"}
    assert values == {
        "pred": [[4.0]], "pred_uct": [[5.0]], "epistemic_uct": [[3.0]], "aleatoric_uct": [[4.0]]
    }  # fmt: skip
    assert dictionary["samples"].shape == (3, 1, 1)
