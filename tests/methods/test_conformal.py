"""Conformal intervals and sets against the exact distribution of their coverage, and against sorting by hand."""

import math
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import loader, normal, params_of, quiet_trainer, randomize_posteriors
from method_cases import ImageNet
from torch import Tensor, nn
from torch.testing import assert_close

from lightning_vi import (
    AdaptivePredictionSets,
    ConformalQuantileRegression,
    Deterministic,
    MeanFieldVI,
    MeanVarianceEstimation,
    QuantileRegression,
    SplitConformal,
    VarianceScaling,
)
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian, Quantiles
from lightning_vi.methods import CalibratedMethod, UQMethod
from lightning_vi.noise import row_uniforms

COVERAGE, NUM_CALIBRATION, NUM_TEST, REPETITIONS = 0.9, 47, 200, 200
RANK = math.ceil(COVERAGE * (NUM_CALIBRATION + 1))  # 44 of 47: 91.7% of 48, where 43 would be 89.6%


def mean_and_scale() -> UQMethod:
    """Returns a method whose inputs are its mean and its raw scale."""
    return MeanVarianceEstimation(nn.Identity(), HeteroscedasticGaussian())


def quantiles() -> UQMethod:
    return QuantileRegression(nn.Identity(), Quantiles((0.2, 0.5, 0.7)))


def logits() -> UQMethod:
    return Deterministic(nn.Identity(), Categorical(5))


def heavy_tailed(size: int, width: int) -> tuple[Tensor, Tensor]:
    """Draws targets for which all predictive distributions are wrong."""
    x = torch.randn(size, width)
    return x, x[:, :1] + (0.2 + x[:, 1:2].abs()) * torch.distributions.StudentT(2.0).sample((size, 1))


def labels(size: int, width: int) -> tuple[Tensor, Tensor]:
    """Draws labels whose probabilities are a permutation of the predicted ones."""
    x = 0.5 * torch.randn(size, width)
    return x, torch.multinomial(x.roll(1, 1).softmax(1), 1).squeeze(1)


Draw = Callable[[int, int], tuple[Tensor, Tensor]]
EXACT: dict[str, tuple[Any, Callable[[], UQMethod], Draw, int]] = {
    "split, normalized": (SplitConformal, mean_and_scale, heavy_tailed, 2),
    "split, constant width": (partial(SplitConformal, normalised=False), mean_and_scale, heavy_tailed, 2),
    "Gaussian quantiles": (ConformalQuantileRegression, mean_and_scale, heavy_tailed, 2),
    "learned quantiles": (ConformalQuantileRegression, quantiles, heavy_tailed, 3),
    "APS": (AdaptivePredictionSets, logits, labels, 5),
    "RAPS": (partial(AdaptivePredictionSets, penalty=0.02, allowed_size=2), logits, labels, 5),
}


def coverages(calibrated: CalibratedMethod, draw: Draw, width: int) -> np.ndarray:
    """Returns the coverage on new data after calibration on each of many data sets."""
    result = []
    for _ in range(REPETITIONS):
        calibrated.calibrate([draw(NUM_CALIBRATION, width)])
        x, y = draw(NUM_TEST, width)
        prediction = calibrated.predict(x)
        if prediction.pred_set is None:
            covered = (prediction.lower <= y) & (y <= prediction.upper)  # type: ignore[operator]
        else:
            covered = prediction.pred_set.gather(1, y.unsqueeze(1))
        result.append(covered.float().mean().item())
    return np.array(result)


@pytest.mark.parametrize(("wrapper", "method", "draw", "width"), params_of(EXACT, default=("split, normalized", "APS")))
def test_coverage_has_its_exact_distribution(wrapper: Any, method: Any, draw: Draw, width: int) -> None:
    """Conditional on the calibration data it is Beta(k, n + 1 - k) for any method and data (Vovk, 2012)."""
    observed = coverages(wrapper(method(), coverage=COVERAGE), draw, width)
    law = scipy.stats.beta(RANK, NUM_CALIBRATION + 1 - RANK)
    variance = law.var() + (law.mean() * (1 - law.mean()) - law.var()) / NUM_TEST
    assert abs(observed.mean() - RANK / (NUM_CALIBRATION + 1)) < 4 * math.sqrt(variance / REPETITIONS)
    assert observed.var() == pytest.approx(variance, rel=4 * math.sqrt(3 / REPETITIONS))


@pytest.mark.thorough
def test_sets_without_randomization_are_conservative() -> None:
    wrapper = AdaptivePredictionSets(logits(), coverage=COVERAGE, randomised=False)
    bound = COVERAGE - 4 * math.sqrt(0.002 / REPETITIONS)
    assert coverages(wrapper, labels, 5).mean() > bound
    certain = AdaptivePredictionSets(logits(), coverage=COVERAGE, randomised=False)
    assert (
        coverages(certain, lambda size, width: (20 * labels(size, width)[0], labels(size, width)[1]), 5).mean() > bound
    )


X, Y = normal(19, 3), normal(19, 2)


def sampled() -> MeanFieldVI:
    method = MeanFieldVI(MLP(3, [4], 4), HeteroscedasticGaussian(2), num_mc_samples_test=6)
    randomize_posteriors(method)
    method.is_trained = True
    return method


def kth_smallest(scores: Tensor, coverage: float) -> list[float]:
    rank = math.ceil(round((len(scores) + 1) * coverage, 9))
    return [sorted(column)[rank - 1] for column in scores.T.tolist()]


@pytest.mark.parametrize("coverage", [0.05, 0.5, 0.8, 0.95])
def test_intervals_match_sorted_scores(coverage: float) -> None:
    method, new = sampled(), normal(7, 3)
    own, prediction = method.predict(X), method.predict(new)
    std, new_std = own.total_var.sqrt(), prediction.total_var.sqrt()

    normalized = SplitConformal(method, coverage=coverage)
    normalized.calibrate(loader(X, Y, batch_size=4))
    quantile = torch.tensor(kth_smallest((Y - own.mean).abs() / std, coverage))
    result = normalized.predict_step(new)
    assert_close(result["lower"], prediction.mean - quantile * new_std)
    assert_close(result["upper"], prediction.mean + quantile * new_std)

    plain = SplitConformal(method, coverage=coverage, normalised=False)
    plain.calibrate([(X, Y)])
    quantile = torch.tensor(kth_smallest((Y - own.mean).abs(), coverage))
    assert_close(plain.predict(new).upper, prediction.mean + quantile)
    assert_close(plain.predict(new).lower, prediction.mean - quantile)

    around = ConformalQuantileRegression(method, coverage=coverage)
    around.calibrate([(X, Y)])
    z = scipy.stats.norm.ppf((1 + coverage) / 2)
    lower, upper = own.mean - z * std, own.mean + z * std
    quantile = torch.tensor(kth_smallest(torch.maximum(lower - Y, Y - upper), coverage))
    ends = [prediction.mean - z * new_std - quantile, prediction.mean + z * new_std + quantile]
    midpoint = prediction.mean
    assert_close(around.predict(new).lower, torch.minimum(ends[0], midpoint))
    assert_close(around.predict(new).upper, torch.maximum(ends[1], midpoint))
    for calibrated in (normalized, plain, around):
        assert all(
            torch.equal(calibrated.predict_step(new)[key], value) for key, value in method.predict_step(new).items()
        )


def test_learned_quantiles_are_moved_by_the_same_distance() -> None:
    method = QuantileRegression(MLP(3, [4], 6), Quantiles((0.1, 0.5, 0.9), num_targets=2))
    method.is_trained = True
    calibrated = ConformalQuantileRegression(method, coverage=0.8)
    calibrated.calibrate([(X, Y)])
    own, moved = method.predict(X), calibrated.predict(X)
    scores = torch.maximum(own.lower - Y, Y - own.upper)  # type: ignore[operator]
    distance = torch.tensor(kth_smallest(scores, 0.8))
    assert_close(moved.upper, own.upper + distance)  # type: ignore[operator]
    assert_close(moved.lower, own.lower - distance)  # type: ignore[operator]


def test_ends_that_would_cross_are_replaced_by_their_midpoint() -> None:
    x = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 10.0]])
    calibrated = ConformalQuantileRegression(quantiles(), coverage=0.5)
    calibrated.calibrate([(x[1:].expand(19, 3), torch.full((19, 1), 4.0))])
    result = calibrated.predict_step(x)
    assert calibrated.quantile.item() == -4.0
    assert result["lower"].flatten().tolist() == [1.0, 4.0]
    assert result["upper"].flatten().tolist() == [1.0, 6.0]


def test_positions_are_pooled() -> None:
    method = Deterministic(nn.Identity(), Gaussian([0.3, 1.7], num_targets=2))
    x, y = normal(10, 4, 2), normal(10, 2, 4).mT
    calibrated = SplitConformal(method, coverage=0.75)
    calibrated.calibrate([(x, y)])
    scores = ((y - x).abs() / torch.tensor([0.3, 1.7])).reshape(40, 2)
    assert_close(calibrated.quantile, torch.tensor(kth_smallest(scores, 0.75)))


@pytest.mark.parametrize("num_data", [8, 9])
def test_too_few_data_give_infinite_intervals_and_a_warning(num_data: int) -> None:
    calibrated = SplitConformal(sampled(), coverage=0.9)
    data = [(X[:num_data], Y[:num_data])]
    if num_data == 9:
        calibrated.calibrate(data)
        assert calibrated.predict(X).upper.isfinite().all()  # type: ignore[union-attr]
        return
    with pytest.warns(UserWarning, match="8 calibration scores are too few for a coverage of 0.9"):
        calibrated.calibrate(data)
    assert (calibrated.predict(X).upper == math.inf).all()
    assert (calibrated.predict(X).lower == -math.inf).all()
    (logged,) = quiet_trainer().test(calibrated, loader(X, Y), verbose=False)
    assert (logged["test_conformal_coverage"], logged["test_conformal_width"]) == (1.0, math.inf)


def test_too_few_data_give_sets_of_all_classes() -> None:
    calibrated = AdaptivePredictionSets(logits(), coverage=0.9)
    with pytest.warns(UserWarning, match="3 calibration scores are too few"):
        calibrated.calibrate([labels(3, 5)])
    assert calibrated.predict(labels(6, 5)[0]).pred_set.all()  # type: ignore[union-attr]


def test_normalized_intervals_are_invariant_to_the_scale_of_the_std() -> None:
    method, data = sampled(), loader(X, Y)
    scaled = VarianceScaling(method)
    scaled.calibrate(data)
    assert (scaled.std_factor - 1).abs().min() > 0.1
    once, twice = SplitConformal(method), SplitConformal(scaled)
    for calibrated in (once, twice):
        calibrated.calibrate(data)
    assert_close(once.predict(X).lower, twice.predict(X).lower)
    assert_close(once.predict(X).upper, twice.predict(X).upper)
    assert not torch.allclose(once.predict(X).total_var, twice.predict(X).total_var)


def test_logged_metrics_of_intervals() -> None:
    calibrated = SplitConformal(sampled(), coverage=0.6)
    calibrated.calibrate([(X, Y + 0.01)])  # no row of the test lies on a limit
    prediction = calibrated.predict(X)
    inside = (prediction.lower <= Y) & (prediction.upper >= Y)  # type: ignore[operator]
    (logged,) = quiet_trainer().test(calibrated, loader(X, Y), verbose=False)
    assert logged["test_conformal_coverage"] == pytest.approx(inside.float().mean().item())
    width = (prediction.upper - prediction.lower).mean()  # type: ignore[operator]
    assert logged["test_conformal_width"] == pytest.approx(width.item(), rel=1e-5)
    (own,) = quiet_trainer().test(calibrated.method, loader(X, Y), verbose=False)
    assert {name: logged[name] for name in own} == pytest.approx(own)


def test_logged_metrics_of_sets() -> None:
    x, y = labels(60, 5)
    calibrated = AdaptivePredictionSets(logits(), coverage=0.6)
    calibrated.calibrate([(x, y)])
    sets = calibrated.predict(x).pred_set
    assert sets is not None
    (logged,) = quiet_trainer().test(calibrated, loader(x, y), verbose=False)
    assert logged["test_conformal_coverage"] == pytest.approx(sets.gather(1, y[:, None]).float().mean().item())
    assert logged["test_conformal_set_size"] == pytest.approx(sets.sum(1).float().mean().item())


@pytest.mark.parametrize(("penalty", "allowed_size"), [(0.0, 1), (0.3, 1), (0.2, 2)])
def test_sets_match_a_loop_over_classes(penalty: float, allowed_size: int) -> None:
    """In the order of decreasing probability, as in the papers, with the same uniform numbers."""
    calibration, new = labels(30, 5), labels(20, 5)
    calibrated = AdaptivePredictionSets(logits(), coverage=0.75, penalty=penalty, allowed_size=allowed_size)
    calibrated.calibrate([calibration])

    def score(x: Tensor, label: int) -> float:
        probs, uniform = x.softmax(0), row_uniforms([x[None]]).item()
        order = probs.argsort(descending=True).tolist()
        rank = order.index(label) + 1
        above = sum(probs[k].item() for k in order[: rank - 1])
        return above + uniform * probs[label].item() + penalty * max(0, rank - allowed_size)

    threshold = sorted(score(x, int(y)) for x, y in zip(*calibration, strict=True))[math.ceil(31 * 0.75) - 1]
    for x, chosen in zip(new[0], calibrated.predict(new[0]).pred_set, strict=True):  # type: ignore[arg-type]
        expected = [score(x, label) <= threshold + 1e-6 for label in range(5)]
        expected[int(x.argmax())] = True
        assert chosen.tolist() == expected


def test_sets_are_not_empty_and_the_penalty_makes_large_sets_rare() -> None:
    x, y = labels(400, 5)
    x = 8 * x
    sizes = {}
    for penalty in (0.0, 0.5):
        calibrated = AdaptivePredictionSets(logits(), coverage=0.3, penalty=penalty)
        calibrated.calibrate([(x, x.argmax(1))])
        sizes[penalty] = calibrated.predict(x).pred_set.sum(1)  # type: ignore[union-attr]
    assert min(size.min() for size in sizes.values()) == 1
    calibrated = AdaptivePredictionSets(logits(), coverage=0.8)
    regularized = AdaptivePredictionSets(logits(), coverage=0.8, penalty=0.1)
    for each in (calibrated, regularized):
        each.calibrate([(x, y)])
    largest = [each.predict(x).pred_set.sum(1).double().std() for each in (calibrated, regularized)]  # type: ignore[union-attr]
    assert largest[1] < largest[0]


def test_sets_of_pixels() -> None:
    method = Deterministic(ImageNet(3).requires_grad_(False), Categorical(3))
    x, y = torch.randn(8, 2, 4, 4), torch.randint(0, 3, (8, 4, 4))
    calibrated = AdaptivePredictionSets(method, coverage=0.7, randomised=False)
    calibrated.calibrate([(x, y)])
    flat = AdaptivePredictionSets(Deterministic(nn.Identity(), Categorical(3)), coverage=0.7, randomised=False)
    pixels = method(x).movedim(1, -1).reshape(-1, 3).detach()
    flat.calibrate([(pixels, y.flatten())])
    assert_close(calibrated.quantile, flat.quantile)
    expected = flat.predict(pixels).pred_set.view(8, 4, 4, 3).movedim(-1, 1)  # type: ignore[union-attr]
    assert torch.equal(calibrated.predict(x).pred_set, expected)  # type: ignore[arg-type]


def test_row_uniforms_are_uniform_functions_of_the_row() -> None:
    x = torch.randn(5000, 3)
    numbers = row_uniforms([x], 2)
    assert numbers.shape == (5000, 2)
    for column in numbers.T:
        assert scipy.stats.kstest(column.numpy(), "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers.T)[0, 1]) < 4 / math.sqrt(5000)
    assert abs(np.corrcoef(numbers[:, 0], x[:, 0])[0, 1]) < 4 / math.sqrt(5000)
    assert torch.equal(torch.cat([row_uniforms([part], 2) for part in x.split([1, 4000, 999])]), numbers)
    assert torch.equal(row_uniforms([x.double()], 2), numbers)
    assert torch.equal(row_uniforms([x[:, :2], x[:, 2:]], 2), numbers)
    assert torch.equal(row_uniforms([torch.zeros(1, 1)]), row_uniforms([-torch.zeros(1, 1)]))
    integers = row_uniforms([torch.arange(5000).unsqueeze(1)])
    assert scipy.stats.kstest(integers[:, 0].numpy(), "uniform").pvalue > 1e-3
    for changed in (x.flip(1), x + torch.tensor([0.0, 0.0, 1e-6])):
        assert (row_uniforms([changed], 2) != numbers).float().mean() > 0.95


SCRIPT = """
import sys, torch
from lightning_vi import ConformalQuantileRegression, QuantileRegression
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Quantiles
method = QuantileRegression(MLP(3, [4], 6), Quantiles((0.1, 0.5, 0.9), num_targets=2))
calibrated = ConformalQuantileRegression.load_from_checkpoint(sys.argv[1], method=method, weights_only=True)
torch.save(calibrated.predict_step(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
"""


@pytest.mark.thorough
def test_checkpoint_gives_the_same_predictions_in_a_new_process(tmp_path: Path) -> None:
    method = QuantileRegression(MLP(3, [4], 6), Quantiles((0.1, 0.5, 0.9), num_targets=2))
    method.is_trained = True
    method.likelihood.set_target_scaling(torch.tensor([50.0, -3.0]), torch.tensor([4.0, 0.2]))
    calibrated = ConformalQuantileRegression(method, coverage=0.7)
    trainer = quiet_trainer()
    trainer.fit(calibrated, loader(X, Y))
    trainer.save_checkpoint(tmp_path / "conformal.ckpt")
    torch.save(X, tmp_path / "x.pt")
    paths = [str(tmp_path / name) for name in ("conformal.ckpt", "x.pt", "out.pt")]
    subprocess.run([sys.executable, "-c", SCRIPT, *paths], check=True)
    expected = calibrated.predict_step(X)
    assert expected["pred"][:, 0].mean() > 20
    for key, value in torch.load(tmp_path / "out.pt", weights_only=True).items():
        assert_close(value, expected[key])


@pytest.mark.parametrize("coverage", [0.0, 1.0, -0.1, 90, True, math.nan])
def test_invalid_coverage(coverage: Any) -> None:
    for wrapper, method in (
        (SplitConformal, mean_and_scale),
        (ConformalQuantileRegression, mean_and_scale),
        (AdaptivePredictionSets, logits),
    ):
        with pytest.raises(ValueError, match=f"coverage must lie strictly between 0 and 1, got {coverage}"):
            wrapper(method(), coverage=coverage)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"penalty": -0.1}, "penalty must be non-negative and finite, got -0.1"),
        ({"penalty": math.nan}, "penalty must be non-negative and finite, got nan"),
        ({"allowed_size": -1}, "allowed_size must be an integer of at least 0, got -1"),
        ({"allowed_size": 1.5}, "allowed_size must be an integer of at least 0, got 1.5"),
    ],
)
def test_invalid_arguments_of_sets(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AdaptivePredictionSets(logits(), **options)
