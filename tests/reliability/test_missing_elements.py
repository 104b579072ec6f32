"""Missing elements in metrics, curvature, calibrations and evaluation, against the elements that are left."""

import copy
import math
from typing import Any

import pytest
import torch
from helpers import fit, loader, normal, quiet_trainer
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection

from lightning_vi import (
    SWAG,
    VBLL,
    AdaptivePredictionSets,
    AlphaDivergenceVI,
    ConformalQuantileRegression,
    DeepEnsemble,
    Deterministic,
    Laplace,
    LatentVariableVI,
    MeanFieldVI,
    SplitConformal,
    TemperatureScaling,
    VarianceScaling,
)
from lightning_vi.core.scoreboard import update
from lightning_vi.evaluation import selective_prediction
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Likelihood, Poisson, StudentT
from lightning_vi.metrics import classification_metrics, regression_metrics

ROWS, SAMPLES = 12, 3

masks = st.lists(st.booleans(), min_size=2 * ROWS, max_size=2 * ROWS).filter(lambda mask: sum(mask) > 0)


def compute(metrics: MetricCollection) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.compute().items()}


def column(likelihood: Likelihood, index: int) -> Likelihood:
    """The likelihood of one of two targets."""
    if isinstance(likelihood, Gaussian):
        return Gaussian(float(likelihood.noise_std[index]))
    if isinstance(likelihood, StudentT):
        return StudentT(float(likelihood.df[index]), float(likelihood.noise_scale[index]))
    return type(likelihood)()


@pytest.mark.parametrize(
    "likelihood",
    [
        Gaussian([0.3, 1.7], 2, missing="ignore"),
        StudentT([3.0, 6.0], [0.5, 1.5], 2, missing="ignore"),
        Poisson(2, missing="ignore"),
        HeteroscedasticGaussian(2, missing="ignore"),
    ],
    ids=lambda likelihood: type(likelihood).__name__,
)
@settings(max_examples=6, deadline=None, derandomize=True)
@given(mask=masks)
def test_metrics_are_those_of_each_target_without_its_missing_rows(likelihood: Likelihood, mask: list[bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(SAMPLES, ROWS, likelihood.num_outputs, generator=generator)
    y = torch.randint(0, 5, (ROWS, 2), generator=generator).float()
    observed = torch.tensor(mask).view(ROWS, 2)
    target = y.masked_fill(~observed, torch.nan)
    metrics = regression_metrics(num_targets=2)
    for rows in (slice(0, 5), slice(5, ROWS)):
        inputs = likelihood.metric_inputs(outputs[:, rows], target[rows])
        update(metrics, inputs, likelihood.observed(target[rows]))
    found = compute(metrics)
    columns = []
    for index in range(2):
        one, kept = column(likelihood, index), observed[:, index]
        if kept.any():
            own = regression_metrics()
            own.update(**one.metric_inputs(outputs[:, kept][..., index::2], y[kept][:, index : index + 1]))
            columns.append((int(kept.sum()), compute(own)))
    total = sum(size for size, _ in columns)
    for name in ("mae", "crps", "coverage", "interval_width"):
        expected = sum(size * own[name] for size, own in columns) / total
        assert found[name] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert found["rmse"] ** 2 == pytest.approx(sum(size * own["rmse"] ** 2 for size, own in columns) / total, rel=1e-4)
    by_column = [own["r2"] for _, own in columns]
    expected_r2 = sum(by_column) / 2 if len(by_column) == 2 else math.nan
    assert found["r2"] == pytest.approx(expected_r2, rel=1e-3, abs=1e-4, nan_ok=True)
    elements = torch.where(observed, likelihood.elementwise_log_prob(outputs, y), 0.0).sum(-1)
    nll = -(elements.logsumexp(0) - math.log(SAMPLES))[observed.any(1)].mean()
    assert found["nll"] == pytest.approx(nll.item(), rel=1e-4, abs=1e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(mask=masks)
def test_metrics_of_classes_are_those_of_the_labels_that_are_left(mask: list[bool]) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(1, ROWS, 3, 2, generator=generator), torch.randint(0, 3, (ROWS, 2), generator=generator)
    observed = torch.tensor(mask).view(ROWS, 2)
    likelihood, target = Categorical(3, ignore_index=255), y.masked_fill(~observed, 255)
    metrics, expected = (classification_metrics(num_classes=3) for _ in range(2))
    update(metrics, likelihood.metric_inputs(logits, target), likelihood.observed(target))
    flat = logits[0].movedim(1, -1)[observed]
    expected.update(**Categorical(3).metric_inputs(flat.unsqueeze(0), y[observed]))
    found, wanted = compute(metrics), compute(expected)
    for name in ("accuracy", "brier", "ece"):
        assert found[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-6)
    assert found["nll"] * int(observed.any(1).sum()) == pytest.approx(wanted["nll"] * int(observed.sum()), rel=1e-4)


X = normal(10, 3)


def dense_ggn(layer: nn.Linear, x: Tensor, information: Tensor) -> Tensor:
    """Sum of J^T Lambda J over rows, for Lambda [B, K, K]; weights ordered as outputs times (inputs, bias)."""
    padded = torch.cat([x, torch.ones(len(x), 1, dtype=x.dtype)], 1)
    width = layer.out_features
    total = torch.zeros(width * padded.shape[1], width * padded.shape[1], dtype=x.dtype)
    for row, own in zip(padded, information, strict=True):
        total += torch.kron(own, torch.outer(row, row))
    return total


@pytest.mark.parametrize("structure", ["full", "per_output", "diagonal"])
def test_missing_targets_give_no_curvature(structure: Any) -> None:
    likelihood = HeteroscedasticGaussian(2, missing="ignore")
    method = Laplace(nn.Linear(3, 4), likelihood, structure=structure, prior_std=0.7).double()
    x, y = X.double(), normal(10, 2).double()
    observed = torch.arange(20).view(10, 2) % 3 != 0
    weight = torch.arange(10).double() / 3
    method.fit_posterior([{"input": x, "target": y.masked_fill(~observed, torch.nan), "weight": weight}])
    layer: Any = method.backbone
    outputs = layer(x)
    factor = method.likelihood.information_factor(outputs).detach()
    information = factor @ factor.mT * (observed.double().repeat(1, 2) * weight[:, None])[:, :, None]
    ggn = dense_ggn(layer, x, information)
    if structure == "diagonal":
        ggn = ggn.diagonal().diag()
    covariance = torch.linalg.inv(ggn + torch.eye(16, dtype=x.dtype) / 0.7**2)
    padded = torch.cat([x, torch.ones(10, 1, dtype=x.dtype)], 1)
    blocks = torch.stack([covariance[4 * k : 4 * k + 4, 4 * k : 4 * k + 4] for k in range(4)])
    variances = torch.einsum("bi,kij,bj->bk", padded, blocks, padded)
    assert_close(method.output_moments(x)[1].square(), variances, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("structure", ["full", "kronecker", "per_output", "diagonal"])
def test_ignored_pixels_give_no_curvature(structure: Any) -> None:
    """A head at all positions, against the same head on the features of the positions that are left."""
    torch.manual_seed(0)
    head = nn.Conv2d(3, 3, 1).double()
    flat = nn.Linear(3, 3).double()
    flat.load_state_dict({"weight": head.weight[:, :, 0, 0], "bias": head.bias})
    x, y = torch.randn(5, 3, 2, 2).double(), torch.randint(0, 3, (5, 2, 2))
    observed = torch.arange(20).view(5, 2, 2) % 3 != 0
    pixels = Laplace(head, Categorical(3, ignore_index=255), structure=structure, prior_std=0.7).double()
    pixels.fit_posterior(
        [(x[:2], y[:2].masked_fill(~observed[:2], 255)), (x[2:], y[2:].masked_fill(~observed[2:], 255))]
    )
    rows = Laplace(flat, Categorical(3), structure=structure, prior_std=0.7).double()
    rows.fit_posterior([(x.movedim(1, -1)[observed], y[observed])])
    stds = [method.output_moments(at)[1] for method, at in ((pixels, x), (rows, x.movedim(1, -1).reshape(-1, 3)))]
    assert_close(stds[0].movedim(1, -1).reshape(-1, 3), stds[1], rtol=1e-5, atol=1e-8)
    assert_close(pixels.log_likelihood, rows.log_likelihood)


@pytest.mark.parametrize("weighted", [False, True], ids=["missing rows", "weights"])
@pytest.mark.parametrize("structure", ["full", "kronecker", "per_output", "diagonal"])
def test_curvature_of_all_layers_without_missing_rows(structure: Any, weighted: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    made = Laplace(network, Gaussian(0.5, 2, missing="ignore"), structure=structure, stochastic_module_names=None)
    first, second = made.double(), copy.deepcopy(made).double()
    x, y = X.double(), normal(10, 2).double()
    if weighted:
        weight = torch.tensor([2.0, 0, 1, 1, 3, 1, 1, 1, 0, 1])
        first.fit_posterior([{"input": x, "target": y, "weight": weight}])
        rows = torch.arange(10).repeat_interleave(weight.long())
    else:
        rows = torch.tensor([0, 1, 3, 4, 8, 9])
        gone = torch.full_like(y, torch.nan)
        gone[rows] = y[rows]
        first.fit_posterior([(x, gone)])
    second.fit_posterior([(x[rows], y[rows])])
    assert_close(first.output_moments(x)[1], second.output_moments(x)[1], rtol=1e-5, atol=1e-8)
    assert_close(first.log_marginal_likelihood(), second.log_marginal_likelihood(), rtol=1e-6, atol=1e-6)


def classifier(**options: Any) -> Deterministic:
    return Deterministic(nn.Identity(), Categorical(3, **options))


@pytest.mark.parametrize("wrapper", [TemperatureScaling, AdaptivePredictionSets])
def test_calibrations_of_classes_ignore_labels(wrapper: Any) -> None:
    torch.manual_seed(0)
    x, y = 3 * torch.randn(40, 3, 2), torch.randint(0, 3, (40, 2))
    observed = torch.rand(40, 2) < 0.6
    options = {} if wrapper is TemperatureScaling else {"randomised": False}
    with_gaps, without = wrapper(classifier(ignore_index=255), **options), wrapper(classifier(), **options)
    with_gaps.calibrate(
        [(x[:20], y[:20].masked_fill(~observed[:20], 255)), (x[20:], y[20:].masked_fill(~observed[20:], 255))]
    )
    without.calibrate([(x.movedim(1, -1)[observed], y[observed])])
    for name, value in without.state_dict().items():
        if isinstance(value, Tensor):
            assert_close(with_gaps.state_dict()[name], value)


@pytest.mark.parametrize("wrapper", [VarianceScaling, SplitConformal, ConformalQuantileRegression])
def test_calibrations_of_targets_ignore_what_is_missing(wrapper: Any) -> None:
    """Each of two targets, against a calibration of this target alone on its rows."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 2), torch.randn(60, 2)
    observed = torch.rand(60, 2) < 0.6
    both = wrapper(Deterministic(nn.Identity(), Gaussian([0.3, 0.6], 2, missing="ignore")))
    both.calibrate([(x, y.masked_fill(~observed, torch.nan))])
    name = "std_factor" if wrapper is VarianceScaling else "quantile"
    for index, std in enumerate((0.3, 0.6)):
        one, kept = wrapper(Deterministic(nn.Identity(), Gaussian(std))), observed[:, index]
        one.calibrate([(x[kept][:, index : index + 1], y[kept][:, index : index + 1])])
        assert_close(getattr(both, name)[index], getattr(one, name)[0])


@pytest.mark.parametrize("wrapper", [TemperatureScaling, AdaptivePredictionSets, SplitConformal, VarianceScaling])
def test_scores_of_calibrations_without_missing_rows(wrapper: Any) -> None:
    torch.manual_seed(0)
    x = torch.randn(40, 3)
    is_regression = wrapper.task == "regression"
    y = torch.randn(40, 3) if is_regression else torch.randint(0, 3, (40,))
    base = (
        Deterministic(nn.Identity(), Gaussian(0.5, 3, missing="ignore"))
        if is_regression
        else classifier(ignore_index=9)
    )
    method = wrapper(base)
    method.calibrate([(x, y)])
    gone = y.clone()
    gone[::3] = torch.nan if is_regression else 9
    kept = torch.arange(40) % 3 != 0
    found, expected = (
        quiet_trainer().test(method, loader(*data, batch_size=7), verbose=False)[0]
        for data in ((x, gone), (x[kept], y[kept]))
    )
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("kind", [DeepEnsemble, MeanFieldVI, LatentVariableVI, AlphaDivergenceVI, VBLL, SWAG])
@pytest.mark.parametrize("is_regression", [True, False], ids=["regression", "classes"])
def test_fits_with_missing_targets_and_weights_stay_finite(kind: Any, is_regression: bool) -> None:
    likelihood: Likelihood
    if is_regression:
        likelihood, y = Gaussian(num_targets=2, missing="ignore"), normal(10, 2)
        y[::3, 0], y[1] = torch.nan, torch.nan
    else:
        likelihood, y = Categorical(3, ignore_index=-100, class_weights=[1.0, 2.0, 0.5]), torch.arange(10) % 3
        y[::3] = -100
    method = kind(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, likelihood.num_outputs)), likelihood)
    method.burnin_epochs = 1
    data = [
        {"input": x, "target": target, "weight": weight} for x, target, weight in zip(X, y, torch.rand(10), strict=True)
    ]
    logged = fit(method, DataLoader(data, batch_size=4, shuffle=True), max_epochs=2)  # type: ignore[arg-type]
    assert {"train_loss", "train_rmse" if is_regression else "train_accuracy"} <= logged.keys()
    assert all(math.isfinite(value) for values in logged.values() for value in values)
    assert all(parameter.isfinite().all() for parameter in method.parameters())


def test_scaled_densities_count_observed_targets_only() -> None:
    x, y = torch.randn(20, 2), torch.randn(20, 2)
    method = VarianceScaling(Deterministic(nn.Identity(), Gaussian(0.5, 2, missing="ignore")))
    method.calibrate([(x, y)])
    observed = torch.rand(20, 2) < 0.5
    found = method.predictive_distribution(x, 1, 0).metric_inputs(y.masked_fill(~observed, torch.nan))["log_prob"]
    scaled = torch.distributions.Normal(x, 0.5 * method.std_factor)
    assert_close(found[0], (scaled.log_prob(y) * observed).sum(1))


def test_calibration_needs_a_target_and_finite_predictions() -> None:
    x, y = torch.randn(6, 1), torch.full((6, 1), torch.nan)
    method = VarianceScaling(Deterministic(nn.Identity(), Gaussian(0.5, missing="ignore")))
    with pytest.raises(ValueError, match="there are no targets to calibrate on: all are missing"):
        method.calibrate([(x, y)])
    y[0] = 1.0
    with pytest.raises(ValueError, match="the predictions of 1 of 6 calibration data are NaN"):
        method.calibrate([(x.masked_fill(torch.arange(6).view(6, 1) < 1, torch.nan), y)])
    assert not method.is_calibrated


@pytest.mark.parametrize("shape", [(), (2,)], ids=["rows", "pixels"])
def test_selective_curves_leave_out_ignored_labels(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(30, 3, *shape), torch.randint(0, 3, (30, *shape))
    observed = torch.rand(30, *shape) < 0.5
    found = selective_prediction(classifier(ignore_index=255), [(x, y.masked_fill(~observed, 255))])
    prediction = classifier().predict_step(x)
    mask = observed.view(30, -1).double()
    rows = mask.sum(1) > 0
    wrong = (prediction["pred"].argmax(1) != y).view(30, -1) * mask
    losses = (wrong.sum(1) / mask.sum(1))[rows]
    scores = ((prediction["pred_uct"].view(30, -1) * mask).sum(1) / mask.sum(1))[rows]
    assert_close(found.loss.double(), losses)
    assert_close(found.uncertainty.double(), scores, rtol=1e-5, atol=1e-6)


def test_members_of_an_ensemble_with_learned_noise_ignore_missing_targets() -> None:
    method = DeepEnsemble(lambda: nn.Linear(3, 2), Gaussian(num_targets=2, missing="ignore"), num_members=3)
    y = normal(10, 2)
    observed = torch.arange(20).view(10, 2) % 3 != 0
    found = method.elbo(X, y.masked_fill(~observed, torch.nan)).nll
    members = [method.member(index) for index in range(3)]
    elements = [m.likelihood.elementwise_log_prob(m(X).unsqueeze(0), y)[0] for m in members]
    assert_close(found, -torch.stack([(e * observed).sum() for e in elements]).mean() / 10)
