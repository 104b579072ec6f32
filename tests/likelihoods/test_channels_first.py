"""Regression on images [B, D, H, W] against the same likelihood with the targets last."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import fit, loader, quiet_trainer
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import (
    CLEAR,
    Deterministic,
    JointConformal,
    MeanFieldVI,
    MeanVarianceEstimation,
    QuantileRecalibration,
    SplitConformal,
    VarianceScaling,
)
from lightning_vi.likelihoods import (
    Categorical,
    ChannelsFirst,
    Gaussian,
    HeteroscedasticGaussian,
    NegativeBinomial,
    Poisson,
    Quantiles,
    RegressionLikelihood,
    StudentT,
)

D = 2
KINDS: dict[str, Callable[[], RegressionLikelihood]] = {
    "Gaussian": lambda: Gaussian([0.3, 0.8], D),
    "heteroscedastic": lambda: HeteroscedasticGaussian(D),
    "Student's t": lambda: StudentT(num_targets=D),
    "Poisson": lambda: Poisson(D, link="softplus"),
    "negative binomial": lambda: NegativeBinomial(num_targets=D, link="softplus"),
}
each_kind = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


def last(values: Tensor, dim: int) -> Tensor:
    return values.movedim(dim, -1)


@each_kind
def test_all_quantities_are_those_with_the_targets_last(make: Callable[[], RegressionLikelihood]) -> None:
    inner = make()
    if inner.support == "real":
        inner.set_target_scaling(torch.tensor([1.0, -3.0]), torch.tensor([2.0, 0.5]))
    likelihood = ChannelsFirst(inner)
    outputs = torch.randn(5, 3, inner.num_outputs, 4, 6)
    target = torch.randint(0, 5, (3, D, 4, 6)).float()
    outputs_last, target_last = last(outputs, 2), last(target, 1)
    likelihood.check(outputs, target)
    assert_close(likelihood.log_prob(outputs, target), inner.log_prob(outputs_last, target_last))
    assert_close(likelihood.point_loss(outputs, target), inner.point_loss(outputs_last, target_last))
    assert_close(last(likelihood.point_prediction(outputs), 1), inner.point_prediction(outputs_last))
    for own, expected in zip(
        likelihood.predictive_moments(outputs), inner.predictive_moments(outputs_last), strict=True
    ):
        assert_close(last(own, 2), expected)
    expected_inputs = inner.metric_inputs(outputs_last, target_last)
    inputs = likelihood.metric_inputs(outputs, target)
    assert_close(last(inputs["means"], 2), expected_inputs["means"])
    assert_close(last(inputs["preds"], 1), expected_inputs["preds"])
    if "mixture" in inputs:
        assert_close(
            last(inputs["mixture"].cdf(target.unsqueeze(0)), 2),
            expected_inputs["mixture"].cdf(target_last.unsqueeze(0)),
        )
    mean, variance = outputs[0], outputs[1].square()
    assert_close(
        last(likelihood.elementwise_expected_log_prob(mean, variance, target), 1),
        inner.elementwise_expected_log_prob(last(mean, 1), last(variance, 1), target_last),
    )
    factor = likelihood.information_factor(outputs[0])
    information = (factor @ factor.mT).diagonal(dim1=1, dim2=2).view_as(outputs[0])
    exact = inner.information_factor(outputs_last[0]).square().sum(-1).view_as(outputs_last[0])
    assert_close(last(information, 1), exact)


def test_missing_targets_have_no_part() -> None:
    likelihood = ChannelsFirst(HeteroscedasticGaussian(D, missing="ignore"))
    outputs, target = torch.randn(2, 3, 4, 4, 4), torch.randn(3, D, 4, 4)
    target[0, 1] = math.nan
    likelihood.check_values(target)
    whole = HeteroscedasticGaussian(D).elementwise_log_prob(last(outputs, 2), last(target, 1).nan_to_num())
    whole[:, 0, ..., 1] = 0.0
    assert_close(likelihood.log_prob(outputs, target), whole.flatten(2).sum(2))
    weights = likelihood.per_output(likelihood.observed(target).float(), outputs[0])  # type: ignore[union-attr]
    assert weights[0].flatten(1).mean(1).tolist() == [1.0, 0.0, 1.0, 0.0]


class Network(nn.Sequential):
    def __init__(self, num_outputs: int) -> None:
        super().__init__(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, num_outputs, 1))


def images(rows: int = 12, channels: int = D, size: int = 8) -> tuple[Tensor, Tensor]:
    """Images and targets in other units."""
    x = torch.randn(rows, 1, size, size)
    scale = torch.tensor([100.0, 0.01])[:channels].view(-1, 1, 1)
    return x, scale * (3 + x + 0.3 * torch.randn(rows, channels, size, size))


def test_a_fit_scales_each_channel_and_scores_in_its_units() -> None:
    x, y = images()
    method = Deterministic(Network(2 * D), ChannelsFirst(HeteroscedasticGaussian(D)))
    fit(method, loader(x, y), max_epochs=2)
    inner: Any = method.likelihood.unwrapped
    assert_close(inner.target_mean, y.mean((0, 2, 3)), rtol=1e-4, atol=0)
    assert_close(inner.target_std, y.movedim(1, -1).flatten(0, -2).std(0, correction=0), rtol=1e-4, atol=0)
    prediction = method.predict_step(x)
    assert {value.shape for value in prediction.values()} == {y.shape}
    (logged,) = quiet_trainer().test(method, loader(x, y), verbose=False)
    error = prediction["pred"] - y
    assert logged["test_rmse"] == pytest.approx(error.square().mean().sqrt().item(), rel=1e-4)
    explained = [1 - (error[:, d].square().sum() / (y[:, d] - y[:, d].mean()).square().sum()).item() for d in range(D)]
    assert logged["test_r2"] == pytest.approx(sum(explained) / D, abs=1e-4)


@pytest.mark.parametrize("kind", [SplitConformal, CLEAR, VarianceScaling, QuantileRecalibration, JointConformal])
def test_calibrations_have_one_number_for_each_channel(kind: type) -> None:
    class Last(Network):
        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x).movedim(1, -1)

    x, y = images(24, size=3)
    first = MeanFieldVI(Network(2 * D), ChannelsFirst(HeteroscedasticGaussian(D)), num_mc_samples_test=5)
    other = MeanFieldVI(Last(2 * D), HeteroscedasticGaussian(D), num_mc_samples_test=5)
    other.load_state_dict({key.replace("likelihood.inner", "likelihood"): v for key, v in first.state_dict().items()})
    other.noise.seed = first.noise.seed
    first.is_trained = other.is_trained = True
    calibrated, reference = kind(first), kind(other)
    calibrated.calibrate(loader(x, y))
    reference.calibrate(loader(x, y.movedim(1, -1)))
    expected = reference.predict_step(x)
    for key, value in calibrated.predict_step(x).items():
        assert value.shape == y.shape
        assert_close(value.movedim(1, -1), expected[key])
    scores, others = (
        quiet_trainer().test(method, loader(x, target), verbose=False)[0]
        for method, target in ((calibrated, y), (reference, y.movedim(1, -1)))
    )
    assert scores == pytest.approx(others, rel=1e-4, abs=1e-6)


def test_a_noise_for_each_column_of_square_images_is_refused() -> None:
    x, y = images(channels=1)
    method = Deterministic(Network(1), Gaussian(num_targets=8))
    with pytest.raises(ValueError, match=r"use ChannelsFirst\(Gaussian\(num_targets=1\)\)"):
        fit(method, loader(x, y), max_epochs=1)
    fit(Deterministic(Network(1), ChannelsFirst(Gaussian(num_targets=1))), loader(x, y), max_epochs=1)


def test_mean_variance_estimation_takes_images() -> None:
    x, y = images()
    method = MeanVarianceEstimation(Network(2 * D), ChannelsFirst(HeteroscedasticGaussian(D)), beta=0.5)
    assert method.elbo(x, y, num_data=12).loss.isfinite()


def test_wrong_input_is_refused() -> None:
    likelihood = ChannelsFirst(HeteroscedasticGaussian())
    for inner in (Categorical(3), Quantiles()):
        with pytest.raises(TypeError, match="ChannelsFirst needs a likelihood for regression other than Quantiles"):
            ChannelsFirst(inner)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"outputs of shape \[B, 2, \.\.\.\] .* build the network with 2 output channels"
    ):
        likelihood.check_outputs(torch.zeros(1, 5, 3, 8, 8))
    with pytest.raises(
        ValueError, match=r"needs targets of shape \[5, 1, 8, 8\], got \[5, 8, 8\]: use target.unsqueeze\(1\)"
    ):
        likelihood.check(torch.zeros(1, 5, 2, 8, 8), torch.zeros(5, 8, 8))
    with pytest.raises(ValueError, match=r"target.movedim\(-1, 1\)"):
        likelihood.check(torch.zeros(1, 5, 2, 8, 8), torch.zeros(5, 8, 8, 1))
    with pytest.raises(TypeError, match="floating-point"):
        likelihood.check(torch.zeros(1, 5, 2, 8, 8), torch.zeros(5, 1, 8, 8).long())
