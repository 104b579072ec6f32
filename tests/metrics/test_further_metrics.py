"""Metrics beyond the default ones: over batches, with missing elements, and against scikit-learn and the functions."""

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import loader, normal, quiet_trainer, randomize_posteriors
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score
from torch import Tensor
from torch.testing import assert_close
from torchmetrics import Metric

from lightning_vi import Deterministic, LatentVariableVI, MeanFieldVI, SplitConformal, functional
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.metrics import (
    AUROC,
    AUSE,
    AdaptiveCalibrationError,
    AveragePrecision,
    BrierDecomposition,
    ClasswiseCalibrationError,
    CoverageAtRisk,
    EnergyScore,
    EpistemicShare,
    F1Score,
    IntervalScore,
    MaximumCalibrationError,
    MiscalibrationArea,
    MutualInformation,
    PinballLoss,
    PredictionIntervalScore,
    QuantileCalibrationError,
    Sharpness,
    SizeStratifiedCoverage,
    SmoothCalibrationError,
    WorstSlabCoverage,
)


def classes(size: int = 300, num_classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    rare = torch.tensor([3.0, 0.5, -0.5][:num_classes])
    logits = torch.randn(size, num_classes, generator=generator) + rare
    return (1.5 * logits).softmax(1), torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)


@pytest.mark.parametrize("num_classes", [2, 3])
def test_metrics_of_imbalanced_classes_equal_scikit_learn(num_classes: int) -> None:
    probs, target = classes(num_classes=num_classes)
    is_binary = num_classes == 2
    scores = probs[:, 1] if is_binary else probs
    options: dict[str, Any] = {} if is_binary else {"multi_class": "ovr", "average": "macro"}
    one_hot = target if is_binary else torch.nn.functional.one_hot(target, num_classes)
    average = "binary" if is_binary else "macro"
    expected = {
        AUROC: roc_auc_score(target, scores, **options),
        AveragePrecision: average_precision_score(one_hot, scores),
        F1Score: f1_score(target, probs.argmax(1), average=average),
    }
    for metric, value in expected.items():
        assert float(metric(num_classes)(probs, target)) == pytest.approx(value, abs=1e-5), metric.__name__
    assert 0.05 < float((target == num_classes - 1).float().mean()) < 0.2


def test_a_class_without_data_has_no_part_in_the_mean() -> None:
    probs, target = classes()
    two = target < 2
    metric = AUROC(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = metric(probs[two], target[two])
    expected = np.mean([roc_auc_score(target[two] == c, probs[two, c]) for c in (0, 1)])
    assert float(value) == pytest.approx(expected, abs=1e-5)
    only = AveragePrecision(3)
    only.update(probs[:4], torch.zeros(4, dtype=torch.long))
    assert only.compute().isnan()


CLASS_METRICS: dict[str, Callable[[], Metric]] = {
    "mce": lambda: MaximumCalibrationError(3),
    "adaptive": lambda: AdaptiveCalibrationError(3),
    "classwise": lambda: ClasswiseCalibrationError(3),
    "smooth": lambda: SmoothCalibrationError(3),
    "reliability": lambda: BrierDecomposition(3),
    "auroc": lambda: AUROC(3),
    "auprc": lambda: AveragePrecision(3),
    "f1": lambda: F1Score(3),
}


@pytest.mark.parametrize("name", CLASS_METRICS)
def test_ignored_pixels_have_no_part(name: str) -> None:
    probs, target = classes(240)
    observed = torch.arange(240) % 4 > 0
    ignored = torch.where(observed, target, 255)
    pixels = probs.view(10, 4, 6, 3).movedim(-1, 1)
    masked, plain = CLASS_METRICS[name](), CLASS_METRICS[name]()
    for rows in (slice(0, 3), slice(3, 10)):
        places = ignored.view(10, 4, 6)[rows], observed.view(10, 4, 6)[rows]
        masked.update(pixels[rows], *places)
    plain.update(probs[observed], target[observed])
    assert_close(masked.compute(), plain.compute())


def mixture(size: int = 120) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(5)
    means = torch.randn(4, size, 2, generator=generator)
    stds = 0.4 + torch.rand(means.shape, generator=generator)
    target = means[0] + torch.randn(size, 2, generator=generator)
    return {"means": means, "stds": stds, "target": target}


REGRESSION_METRICS: dict[str, Callable[[], Metric]] = {
    "pinball": PinballLoss,
    "interval score": lambda: IntervalScore(0.8),
    "quantile calibration": QuantileCalibrationError,
    "miscalibration area": MiscalibrationArea,
    "sharpness": Sharpness,
}


@pytest.mark.parametrize("name", REGRESSION_METRICS)
def test_missing_targets_have_no_part(name: str) -> None:
    """Each target is scored by itself: those of one column are those of a batch with that column alone."""
    data = mixture()
    observed = torch.zeros(120, 2, dtype=torch.bool)
    observed[:, 0] = True
    observed[100:] = False
    masked, plain = REGRESSION_METRICS[name](), REGRESSION_METRICS[name]()
    gaps = data | {"target": torch.where(observed, data["target"], torch.nan)}
    masked.update(**masked._filter_kwargs(**gaps), observed=observed)
    kept = {"means": data["means"][:, :100, :1], "stds": data["stds"][:, :100, :1], "target": data["target"][:100, :1]}
    plain.update(**plain._filter_kwargs(**kept))
    assert_close(masked.compute(), plain.compute())


def test_values_of_the_regression_metrics() -> None:
    data = mixture()
    means, stds, target = data.values()
    quantiles = functional.scoring.gaussian_mixture_quantile(means, stds, [0.1, 0.9])  # type: ignore[attr-defined]
    score = IntervalScore(0.8)
    score.update(**data)
    given = PredictionIntervalScore(0.8)
    given.update(quantiles[0], quantiles[1], target)
    assert_close(score.compute(), given.compute())
    pinball = PinballLoss([0.1, 0.9])
    pinball.update(**data)
    assert_close(score.compute(), 2 / 0.2 * 2 * pinball.compute())
    sharpness = Sharpness()
    sharpness.update(means, stds)
    total = means.double().var(0, correction=0) + stds.double().square().mean(0)
    assert float(sharpness.compute()) == pytest.approx(math.sqrt(total.mean()))
    cdf = torch.special.ndtr((target - means) / stds).mean(0).double()
    levels = torch.linspace(0, 1, 100, dtype=torch.float64)
    for kind, place in (("quantile", cdf), ("interval", (2 * cdf - 1).abs())):
        shares = (place.flatten() <= levels[:, None]).double().mean(1)
        error, area = QuantileCalibrationError(kind=kind), MiscalibrationArea(kind=kind)  # type: ignore[arg-type]
        for metric in (error, area):
            metric.update(means[:, :50], stds[:, :50], target[:50])
            metric.update(means[:, 50:], stds[:, 50:], target[50:])
        assert float(error.compute()) == pytest.approx(float((shares - levels).abs().mean()), abs=1e-6)
        assert float(area.compute()) == pytest.approx(float(functional.miscalibration_area(shares, levels)), abs=1e-6)


def test_energy_score_over_batches_and_observed_targets() -> None:
    data = mixture(40)
    metric = EnergyScore(64)
    metric.update(**data)
    draws = functional.mixture_draws(data["means"], data["stds"], 64)
    assert_close(metric.compute(), functional.energy_score(draws, data["target"]).mean())
    partly = EnergyScore(64)
    observed = torch.tensor([True, False]).expand(40, 2).clone()
    observed[30:] = False
    partly.update(data["means"], data["stds"], data["target"], observed=observed)
    single = functional.energy_score(draws[:, :30, :1], data["target"][:30, :1]).mean()
    assert_close(partly.compute(), single)
    assert_close(
        functional.energy_score(draws[..., :1], data["target"][:, :1]).mean(),
        functional.scoring.gaussian_mixture_crps(*(part[..., :1] for part in data.values())).mean(),  # type: ignore[attr-defined]
        rtol=0.1,
        atol=0.05,
    )


def test_stored_metrics_equal_the_functions() -> None:
    generator = torch.Generator().manual_seed(2)
    uncertainty, error = torch.rand(90, generator=generator), torch.randn(90, generator=generator)
    covered = torch.rand(90, generator=generator) < 0.8
    features = torch.randn(90, 2, generator=generator)
    ause, kept, slab = AUSE(), CoverageAtRisk(0.2), WorstSlabCoverage(2, 0.2, num_directions=50)
    for rows in (slice(20, 90), slice(0, 20)):
        ause.update(uncertainty[rows], error[rows])
        kept.update(uncertainty[rows], error[rows].abs())
        slab.update(features[rows], covered[rows])
    assert ause.compute() == functional.area_under_sparsification_error(uncertainty, error)
    assert kept.compute() == functional.coverage_at_risk(uncertainty, error.abs(), 0.2)
    assert slab.compute() == functional.worst_slab_coverage(features, covered, 0.2, num_directions=50)


def test_stratified_coverage_of_sets_and_intervals() -> None:
    sets = torch.tensor([[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1]]).bool()
    metric = SizeStratifiedCoverage(3)
    metric.update(torch.tensor([0, 1, 1, 2]), pred_set=sets)
    assert float(metric.compute()) == 0.5
    metric = SizeStratifiedCoverage(2)
    lower, upper = torch.zeros(4, 1), torch.tensor([[1.0], [1.0], [9.0], [9.0]])
    metric.update(torch.tensor([[0.5], [2.0], [2.0], [3.0]]), lower, upper)
    metric.update(torch.full((2, 1), torch.nan), lower[:2], upper[:2], observed=torch.zeros(2, 1).bool())
    assert float(metric.compute()) == 0.5
    with pytest.raises(ValueError, match="lower and upper of the same shape are needed, or pred_set"):
        metric.update(torch.zeros(4, 1))
    with pytest.raises(ValueError, match=r"target must have the shape \[4, 1\], got \[4\]"):
        metric.update(torch.zeros(4), lower, upper)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BrierDecomposition(3, "sum"), r"part must be one of \['reliability', 'resolution', 'uncertainty'\]"),
        (lambda: ClasswiseCalibrationError(0), "num_classes must be a positive integer, got 0"),
        (lambda: AdaptiveCalibrationError(num_bins=0), "num_bins must be a positive integer, got 0"),
        (lambda: AUROC(1), "num_classes must be an integer of at least 2, got 1"),
        (lambda: F1Score(True), "num_classes must be an integer of at least 2, got True"),
        (lambda: PinballLoss([]), "levels must be numbers strictly between 0 and 1"),
        (lambda: IntervalScore(95), "level must lie strictly between 0 and 1, got 95"),
        (lambda: QuantileCalibrationError(1), "num_levels must be an integer of at least 2, got 1"),
        (lambda: QuantileCalibrationError(norm="l3"), "norm must be one of"),
        (lambda: MiscalibrationArea(kind="both"), "kind must be one of"),
        (lambda: EnergyScore(1), "num_draws must be an integer of at least 2, got 1"),
        (lambda: AUSE("mse"), r"norm must be one of \['rmse', 'mae'\], got 'mse'"),
        (lambda: CoverageAtRisk(math.nan), "risk must be a number, got nan"),
        (lambda: SizeStratifiedCoverage(0), "num_bins must be a positive integer, got 0"),
        (lambda: WorstSlabCoverage(0), "num_features must be a positive integer, got 0"),
        (lambda: WorstSlabCoverage(2, 0.0), "min_share must be above 0"),
    ],
)
def test_invalid_options(make: Callable[[], Metric], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


X = normal(50, 3)


def sampled(likelihood: Any, width: int) -> MeanFieldVI:
    method = MeanFieldVI(MLP(3, [4], width), likelihood, num_mc_samples_test=5)
    randomize_posteriors(method)
    return method


def test_epistemic_share_is_logged() -> None:
    method, y = sampled(HeteroscedasticGaussian(2), 4), normal(50, 2)
    prediction = method.predict(X)
    (logged,) = quiet_trainer().test(method, loader(X, y, batch_size=16), verbose=False)
    expected = float((prediction.epistemic_var / prediction.total_var).mean())
    assert 0.05 < expected < 0.95
    assert logged["test_epistemic_share"] == pytest.approx(expected, rel=1e-4)
    point = Deterministic(MLP(3, [4], 1), Gaussian())
    (logged,) = quiet_trainer().validate(point, loader(X, y[:, :1]), verbose=False)
    assert logged["val_epistemic_share"] == 0


def test_epistemic_share_of_a_latent_variable_leaves_its_noise_out() -> None:
    method = LatentVariableVI(MLP(3, [4], 1), Gaussian(0.5), num_mc_samples_test=6)
    randomize_posteriors(method)
    prediction = method.predict(X)
    (logged,) = quiet_trainer().test(method, loader(X, normal(50, 1)), verbose=False)
    expected = float((prediction.epistemic_var / prediction.total_var).mean())
    assert logged["test_epistemic_share"] == pytest.approx(expected, rel=1e-4)


def test_mutual_information_is_logged_and_metrics_can_be_added() -> None:
    method, y = sampled(Categorical(3), 3), torch.arange(50) % 3
    method.test_metrics.add_metrics(
        {"smooth_ece": SmoothCalibrationError(3), "share": EpistemicShare(), "again": MutualInformation()}
    )
    prediction = method.predict(X)
    (logged,) = quiet_trainer().test(method, loader(X, y, batch_size=16), verbose=False)
    assert prediction.mutual_information is not None
    expected = float(prediction.mutual_information.mean())
    assert expected > 0.01
    assert logged["test_mutual_information"] == logged["test_again"] == pytest.approx(expected, rel=1e-4)
    share = (prediction.epistemic_var / prediction.total_var).mean()
    assert logged["test_share"] == pytest.approx(float(share), rel=1e-4)
    smooth = SmoothCalibrationError(3)(prediction.mean, y)
    assert logged["test_smooth_ece"] == pytest.approx(float(smooth), rel=1e-3)


def test_added_metrics_of_intervals() -> None:
    method, y = sampled(Gaussian(0.5), 1), normal(50, 1)
    method.is_trained = True
    conformal = SplitConformal(method, coverage=0.8)
    conformal.calibrate([(X, y)])
    conformal.test_metrics.add_metrics({"winkler": PredictionIntervalScore(0.8), "ssc": SizeStratifiedCoverage(2)})
    (logged,) = quiet_trainer().test(conformal, loader(X, y, batch_size=16), verbose=False)
    result = conformal.predict_step(X)
    expected = functional.interval_score(result["lower"], result["upper"], y, 0.8).mean()
    assert logged["test_winkler"] == pytest.approx(float(expected), rel=1e-4)
    assert 0 <= logged["test_ssc"] <= 1
