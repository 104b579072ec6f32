"""Coverage of conformal sets, groups, joint regions, factors and risks over many data sets, and loops as oracles."""

import math
from collections.abc import Callable
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
    CLEAR,
    ConformalQuantileRegression,
    ConformalRiskControl,
    Deterministic,
    JointConformal,
    LeastAmbiguousSets,
    MeanFieldVI,
    MeanVarianceEstimation,
    Mondrian,
    NotFittedError,
    SplitConformal,
    TemperatureScaling,
    TopKSets,
)
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Categorical, Gaussian, HeteroscedasticGaussian
from lightning_vi.methods import CalibratedMethod, Predictor

COVERAGE, NUM_CALIBRATION, NUM_TEST, REPETITIONS = 0.8, 39, 150, 200
Data = tuple[Tensor, Tensor]
Draw = Callable[[int], Data]


def labels(size: int) -> Data:
    """Draws labels whose probabilities are a permutation of the predicted ones."""
    x = 0.7 * torch.randn(size, 5)
    return x, torch.multinomial(x.roll(1, 1).softmax(1), 1).squeeze(1)


def heavy_tailed(size: int) -> Data:
    """Draws two targets with dependent errors, of which one is far larger, for a method of inputs [mean, scale]."""
    x = torch.randn(size, 4)
    noise = torch.distributions.StudentT(3.0).sample((size, 1))
    own = torch.randn(size, 2)
    return x, x[:, :2] + torch.tensor([1.0, 20.0]) * (noise + own) * (0.3 + x[:, 2:].abs())


def logits() -> Predictor:
    return Deterministic(nn.Identity(), Categorical(5))


def two_targets() -> Predictor:
    return MeanVarianceEstimation(nn.Identity(), HeteroscedasticGaussian(2))


def covers(calibrated: CalibratedMethod, data: Data) -> Tensor:
    """True for each datum that is covered in all of its targets."""
    prediction, y = calibrated.predict(data[0]), data[1]
    if prediction.pred_set is not None:
        return prediction.pred_set.gather(1, y.unsqueeze(1)).squeeze(1)
    return ((prediction.lower <= y) & (y <= prediction.upper)).all(-1)  # type: ignore[operator]


def coverages(calibrated: CalibratedMethod, draw: Draw, size: int = NUM_CALIBRATION) -> np.ndarray:
    """Coverage on new data after calibration on each of many data sets."""
    result = []
    for _ in range(REPETITIONS):
        calibrated.calibrate([draw(size)])
        result.append(covers(calibrated, draw(NUM_TEST)).float().mean().item())
    return np.array(result)


def is_beta(observed: np.ndarray, size: int, num_test: int = NUM_TEST) -> None:
    """Compares coverages with those of a conformal quantile of a number of scores (Vovk, 2012)."""
    rank = math.ceil(COVERAGE * (size + 1))
    law = scipy.stats.beta(rank, size + 1 - rank)
    variance = law.var() + (law.mean() * (1 - law.mean()) - law.var()) / num_test
    assert abs(observed.mean() - law.mean()) < 4 * math.sqrt(variance / len(observed))
    assert observed.var() == pytest.approx(variance, rel=4 * math.sqrt(3 / len(observed)))


EXACT: dict[str, tuple[Callable[[], CalibratedMethod], Draw, int]] = {
    "least ambiguous": (lambda: LeastAmbiguousSets(logits(), coverage=COVERAGE), labels, NUM_CALIBRATION),
    "top k": (lambda: TopKSets(logits(), coverage=COVERAGE, randomised=True), labels, NUM_CALIBRATION),
    "joint, largest score": (
        lambda: JointConformal(two_targets(), coverage=COVERAGE, kind="max"),
        heavy_tailed,
        NUM_CALIBRATION,
    ),
}


@pytest.mark.parametrize(("make", "draw", "size"), params_of(EXACT, default=("least ambiguous",)))
def test_coverage_has_its_exact_distribution(make: Any, draw: Draw, size: int) -> None:
    is_beta(coverages(make(), draw, size), size)


@pytest.mark.parametrize("kind", ["rank", "bonferroni"])
def test_joint_regions_cover_and_bonferroni_is_wider(kind: Any) -> None:
    observed = coverages(JointConformal(two_targets(), coverage=COVERAGE, kind=kind), heavy_tailed, 79)
    error = observed.std() / math.sqrt(REPETITIONS)
    assert observed.mean() > COVERAGE - 4 * error
    if kind == "rank":
        assert observed.mean() < COVERAGE + 0.025 + 4 * error


def test_separate_intervals_do_not_cover_jointly() -> None:
    observed = coverages(SplitConformal(two_targets(), coverage=COVERAGE), heavy_tailed)
    assert observed.mean() < COVERAGE - 0.05


@pytest.mark.thorough
def test_top_k_without_randomization_is_conservative_and_a_loop() -> None:
    calibrated = TopKSets(logits(), coverage=COVERAGE)
    assert coverages(calibrated, labels).mean() > COVERAGE
    (x, y), new = labels(60), labels(20)[0]
    calibrated.calibrate([(x, y)])
    ranks = sorted(1 + sum(p > row[label] for p in row) for row, label in zip(x.tolist(), y.tolist(), strict=True))
    k = ranks[math.ceil(61 * COVERAGE) - 1]
    chosen = calibrated.predict(new).pred_set
    assert chosen is not None
    assert (chosen.sum(1) == k).all()
    assert torch.equal(chosen.nonzero()[:, 1].view(20, k), new.argsort(1, descending=True)[:, :k].sort(1).values)


def test_least_ambiguous_sets_match_a_loop_and_are_smaller_than_top_k() -> None:
    (x, y), (new, _) = labels(80), labels(300)
    calibrated = LeastAmbiguousSets(logits(), coverage=COVERAGE)
    calibrated.calibrate([(x, y)])
    quantile = sorted((1 - x.softmax(1).gather(1, y[:, None])[:, 0]).tolist())[math.ceil(81 * COVERAGE) - 1]
    chosen = calibrated.predict(new).pred_set
    expected = 1 - new.softmax(1) <= quantile
    expected[torch.arange(300), new.argmax(1)] = True
    assert torch.equal(chosen, expected)  # type: ignore[arg-type]


def grouped(size: int) -> Data:
    """Draws targets with a noise that depends on the group, which is the last column and not known to the method."""
    group = torch.arange(size) % 2
    x = torch.cat([torch.randn(size, 1), group[:, None].float()], 1)
    return x, x[:, :1] + torch.randn(size, 1) * (1 + 9.0 * group[:, None])


class FirstColumn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :1]


def one_width() -> Predictor:
    return Deterministic(FirstColumn(), Gaussian(noise_std=1.0))


GROUPS: dict[str, Any] = {"column": 1, "function": lambda x: x[:, 1].long()}


@pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)
def test_coverage_within_groups_has_its_exact_distribution(groups: Any) -> None:
    size = 2 * NUM_CALIBRATION
    mondrian = Mondrian(SplitConformal(one_width(), coverage=COVERAGE), groups=groups, num_groups=2)
    plain = SplitConformal(one_width(), coverage=COVERAGE)
    observed = []
    for repetition in range(REPETITIONS if groups == 1 else 20):
        data, new = grouped(size), grouped(2 * NUM_TEST)
        mondrian.calibrate([data])
        covered = covers(mondrian, new)
        observed.append([covered[new[0][:, 1] == k].float().mean().item() for k in (0, 1)])
        if repetition == 0:
            plain.calibrate([data])
            assert covers(plain, new)[new[0][:, 1] == 0].float().mean() > 0.95
    if groups == 1:
        for column in np.array(observed).T:
            is_beta(column, NUM_CALIBRATION)


def by_class(size: int) -> Data:
    """Draws labels whose probabilities are right for class 0 only."""
    x = torch.randn(size, 3)
    x[:, 0] += 1
    return x, torch.multinomial((torch.tensor([1.0, 0.2, 0.2]) * x).softmax(1), 1).squeeze(1)


def test_coverage_of_each_class() -> None:
    method = Deterministic(nn.Identity(), Categorical(3))
    mondrian = Mondrian(LeastAmbiguousSets(method, coverage=COVERAGE), groups="label")
    plain = LeastAmbiguousSets(method, coverage=COVERAGE)
    found: dict[str, list[list[float]]] = {"mondrian": [], "plain": []}
    for _ in range(60):
        data, (x, y) = by_class(150), by_class(600)
        for name, calibrated in (("mondrian", mondrian), ("plain", plain)):
            calibrated.calibrate([data])
            covered = covers(calibrated, (x, y))
            found[name].append([covered[y == k].float().mean().item() for k in range(3)])
    means, errors = np.mean(found["mondrian"], 0), np.std(found["mondrian"], 0) / math.sqrt(60)
    assert (means > COVERAGE - 4 * errors).all()
    assert (means < COVERAGE + 0.05 + 4 * errors).all()
    assert np.mean(found["plain"], 0).min() < COVERAGE - 0.05


def test_quantiles_of_groups_are_those_of_their_data() -> None:
    x, y = grouped(60)
    mondrian = Mondrian(SplitConformal(one_width(), coverage=COVERAGE), groups=1, num_groups=3)
    with pytest.warns(UserWarning, match="0 calibration scores are too few"):
        mondrian.calibrate(loader(x, y, batch_size=7))
    for group in (0, 1):
        rows = x[:, 1] == group
        own = SplitConformal(one_width(), coverage=COVERAGE)
        own.calibrate([(x[rows], y[rows])])
        assert_close(mondrian.quantiles[group], own.quantile)
        assert_close(mondrian.predict(x[rows]).lower, own.predict(x[rows]).lower)
        assert_close(mondrian.predict(x[rows]).upper, own.predict(x[rows]).upper)
    new = torch.tensor([[0.0, 2.0], [0.0, 7.0], [0.0, 1.0]])  # an empty group, an unknown one, and one with data
    assert mondrian.predict(new).upper.isinf().flatten().tolist() == [True, True, False]  # type: ignore[union-attr]


@pytest.mark.parametrize("groups", ["label", "prediction"])
def test_groups_of_pixels(groups: Any) -> None:
    method = Deterministic(ImageNet(3).requires_grad_(False), Categorical(3))
    x, y = torch.randn(30, 2, 4, 4), torch.randint(0, 3, (30, 4, 4))
    mondrian = Mondrian(LeastAmbiguousSets(method, coverage=COVERAGE), groups=groups)
    mondrian.calibrate([(x, y)])
    probs = method.predict(x).mean
    group = y if groups == "label" else probs.argmax(1)
    scores = 1 - probs.gather(1, y.unsqueeze(1)).squeeze(1)
    for index in group.unique().tolist():
        own = scores[group == index].sort().values
        expected = own[math.ceil((len(own) + 1) * COVERAGE) - 1] if len(own) > 4 else torch.tensor(math.inf)
        assert_close(mondrian.quantiles[index], expected)
    chosen = mondrian.predict(x).pred_set
    limits = mondrian.quantiles.view(1, 3, 1, 1) if groups == "label" else mondrian.quantiles[group].unsqueeze(1)
    expected = (1 - probs <= limits).scatter(1, probs.argmax(1, keepdim=True), True)
    assert torch.equal(chosen, expected)  # type: ignore[arg-type]


def test_mondrian_with_several_targets_and_a_trainer(tmp_path: Path) -> None:
    method = MeanFieldVI(MLP(3, [4], 4), HeteroscedasticGaussian(2), num_mc_samples_test=4)
    randomize_posteriors(method)
    method.is_trained = True
    x, y = normal(60, 3), normal(60, 2)
    x[:, 2] = torch.arange(60) % 2
    by_hand, fitted = (
        Mondrian(ConformalQuantileRegression(method, coverage=0.7), groups=2, num_groups=2) for _ in range(2)
    )
    by_hand.calibrate([(x, y)])
    trainer = quiet_trainer()
    with pytest.raises(NotFittedError, match="Mondrian cannot predict before it is calibrated"):
        fitted.predict(x)
    trainer.fit(fitted, loader(x, y, batch_size=7), loader(x, y))
    assert_close(fitted.quantiles, by_hand.quantiles, rtol=1e-4, atol=1e-5)
    (logged,) = trainer.test(fitted, loader(x, y), verbose=False)
    inside = covers(fitted, (x[:, :], y)).float().mean()
    assert 0.4 < inside <= logged["test_conformal_coverage"]
    assert "test_conformal_width" in logged
    trainer.save_checkpoint(tmp_path / "mondrian.ckpt")
    fresh = ConformalQuantileRegression(method, coverage=0.7)
    loaded = Mondrian.load_from_checkpoint(tmp_path / "mondrian.ckpt", method=fresh, weights_only=True)
    assert torch.equal(loaded.predict(x).lower, fitted.predict(x).lower)  # type: ignore[arg-type]
    names = {name for name in fitted.state_dict() if not name.startswith("method.method.")}
    assert names == {"is_calibrated", "quantiles", "method.is_calibrated", "method.quantile"}


def test_invalid_groups() -> None:
    sets, intervals = LeastAmbiguousSets(logits()), SplitConformal(one_width(), coverage=COVERAGE)
    for method in (logits(), TemperatureScaling(logits()), CLEAR(one_width())):
        with pytest.raises(TypeError, match="method must be a conformal method with one quantile"):
            Mondrian(method, groups=0, num_groups=2)
    with pytest.raises(TypeError, match="groups must be a column, 'label', 'prediction' or a function"):
        Mondrian(sets, groups="colour", num_groups=2)
    with pytest.raises(TypeError, match="groups='label' is for classification, but SplitConformal is for regression"):
        Mondrian(intervals, groups="label")
    with pytest.raises(ValueError, match="num_groups is missing"):
        Mondrian(intervals, groups=1)
    with pytest.raises(ValueError, match="num_groups must be an integer of at least 1"):
        Mondrian(intervals, groups=1, num_groups=0)
    x, y = grouped(20)
    with pytest.raises(ValueError, match="groups must be numbers from 0 to 0, got 0 to 1"):
        Mondrian(intervals, groups=1, num_groups=1).calibrate([(x, y)])
    with pytest.raises(ValueError, match="groups=5 must be a column of the input"):
        Mondrian(intervals, groups=5, num_groups=2).calibrate([(x, y)])


def test_joint_quantiles_match_loops() -> None:
    (x, y), coverage = heavy_tailed(50), 0.7
    method = two_targets()
    own = method.predict(x)
    scores = ((y - own.mean).abs() / own.total_var.sqrt()).tolist()
    columns = [sorted(column) for column in zip(*scores, strict=True)]
    rank = math.ceil(51 * coverage)
    largest = sorted(max(row) for row in scores)[rank - 1]
    ranks = sorted(max(1 + sorted(c).index(s) for s, c in zip(row, columns, strict=True)) for row in scores)
    expected = {
        "max": [largest, largest],
        "rank": [column[ranks[rank - 1] - 1] for column in columns],
        "bonferroni": [column[math.ceil(51 * (1 - 0.3 / 2)) - 1] for column in columns],
    }
    for kind, quantiles in expected.items():
        joint = JointConformal(method, coverage=coverage, kind=kind)  # type: ignore[arg-type]
        joint.calibrate(loader(x, y))
        assert joint.quantile.tolist() == pytest.approx(quantiles, rel=1e-4), kind
    with pytest.raises(ValueError, match=r"kind must be one of \['max', 'rank', 'bonferroni'\], got 'copula'"):
        JointConformal(method, kind="copula")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["max", "rank", "bonferroni"])
def test_missing_targets_and_few_data_of_joint_regions(kind: Any) -> None:
    x, y = heavy_tailed(60)
    gaps = torch.where((torch.arange(60) % 3 == 0)[:, None] & torch.tensor([True, False]), torch.nan, y)
    method = MeanVarianceEstimation(nn.Identity(), HeteroscedasticGaussian(2, missing="ignore"))
    joint = JointConformal(method, coverage=0.6, kind=kind)
    joint.calibrate([(x, gaps)])
    assert joint.quantile.isfinite().all()
    (logged,) = quiet_trainer().test(joint, loader(x, gaps), verbose=False)
    prediction = joint.predict(x)
    inside = (prediction.lower <= gaps) & (gaps <= prediction.upper) | gaps.isnan()  # type: ignore[operator]
    assert logged["test_conformal_joint_coverage"] == pytest.approx(inside.all(1).float().mean().item())
    few = JointConformal(two_targets(), coverage=0.9, kind=kind)
    with pytest.warns(UserWarning, match="5 calibration scores are too few"):
        few.calibrate([(x[:5], y[:5])])
    assert few.quantile.isinf().all()


class Parts(nn.Module):
    """Two outputs for mean and raw noise scale of a linear function."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)  # type: ignore[no-any-return]


def both_parts(samples: int = 8) -> MeanFieldVI:
    torch.manual_seed(3)
    method = MeanFieldVI(Parts(), HeteroscedasticGaussian(), num_mc_samples_test=samples)
    randomize_posteriors(method)
    method.is_trained = True
    return method


def scaled_parts(method: Predictor, aleatoric: float, epistemic: float, size: int) -> Data:
    """Draws targets whose errors have given multiples of both standard deviations."""
    x = 2 * torch.randn(size, 2)
    prediction = method.predict(x)
    width = aleatoric * prediction.aleatoric_var.sqrt() + epistemic * prediction.epistemic_var.sqrt()
    return x, prediction.mean + width * (2 * torch.rand(size, 1) - 1)


@pytest.mark.parametrize(("aleatoric", "epistemic"), [(2.0, 0.5), (0.2, 3.0)])
def test_factors_are_recovered(aleatoric: float, epistemic: float) -> None:
    """Uniform errors: the interval of probability p has p times the width, at every input, by both factors."""
    method = both_parts()
    clear = CLEAR(method, coverage=COVERAGE)
    clear.calibrate([scaled_parts(method, aleatoric, epistemic, 6000)])
    assert clear.aleatoric_factor.item() == pytest.approx(COVERAGE * aleatoric, rel=0.1, abs=0.06)
    assert clear.epistemic_factor.item() == pytest.approx(COVERAGE * epistemic, rel=0.1, abs=0.06)


def test_factors_have_the_best_interval_score_of_a_grid() -> None:
    method = both_parts()
    (x, y), new = scaled_parts(method, 1.0, 1.0, 150), normal(9, 2)
    clear = CLEAR(method, coverage=COVERAGE)
    clear.calibrate([(x, y)])
    own = method.predict(x)
    error, a, e = (
        part[:, 0].double().numpy()
        for part in ((y - own.mean).abs(), own.aleatoric_var.sqrt(), own.epistemic_var.sqrt())
    )
    best = (math.inf, 0.0, 0.0)
    for t in np.linspace(0, 1, 101):
        width = (1 - t) * a + t * e
        quantile = np.sort(error / width)[math.ceil(151 * COVERAGE) - 1]
        outside = np.maximum(error - quantile * width, 0)
        best = min(best, (float(np.mean(2 * quantile * width + 2 / (1 - COVERAGE) * outside)), t, quantile))
    assert clear.epistemic_weight.item() == pytest.approx(best[1], abs=1e-6)
    assert clear.quantile.item() == pytest.approx(best[2], rel=1e-4)
    prediction, plain = clear.predict(new), method.predict(new)
    half = clear.aleatoric_factor * plain.aleatoric_var.sqrt() + clear.epistemic_factor * plain.epistemic_var.sqrt()
    assert_close(prediction.upper, plain.mean + half)
    assert_close(prediction.lower, plain.mean - half)


def test_coverage_of_factors() -> None:
    """Exact if the ratio is from other data; close to it otherwise."""
    method = both_parts(4)
    x, y = scaled_parts(method, 1.5, 0.7, REPETITIONS * (2 * NUM_CALIBRATION + NUM_TEST) + 40 * 400)
    place = 0

    def draw(size: int) -> Data:
        nonlocal place
        place += size
        return x[place - size : place], y[place - size : place]

    exact = coverages(CLEAR(method, coverage=COVERAGE, exact=True), draw, 2 * NUM_CALIBRATION)
    is_beta(exact, NUM_CALIBRATION)
    same = []
    clear = CLEAR(method, coverage=COVERAGE)
    for _ in range(40):
        clear.calibrate([draw(100)])
        same.append(covers(clear, draw(300)).float().mean().item())
    assert abs(np.mean(same) - COVERAGE) < 0.03


def images(size: int) -> Data:
    """Draws logits [B, 2, 36] of images of different difficulty, whose pixels depend on each other, and their masks."""
    truth = torch.randn(size, 1, 1) + 0.7 * torch.randn(size, 1, 36)
    y = (truth + 0.5 > 0).long()
    signal = truth + 1.5 * torch.randn(size, 1, 1) * torch.rand(size, 1, 1) + 0.5 * torch.randn(size, 1, 36)
    return torch.cat([torch.zeros_like(signal), 2 * signal], 1), y.squeeze(1)


def missed_share(sets: Tensor, y: Tensor, positive: int | None) -> Tensor:
    inside = sets.gather(1, y.unsqueeze(1)).squeeze(1)
    counted = torch.ones_like(inside) if positive is None else y == positive
    return (counted & ~inside).sum(1) / counted.sum(1).clamp_min(1)


@pytest.mark.parametrize("positive", [None, 1])
def test_risk_is_controlled_over_many_data_sets(positive: int | None) -> None:
    """The mean loss lies between the risk minus its largest loss over n + 1, and the risk (Angelopoulos et al.)."""
    risk, size = 0.1, 60
    control = ConformalRiskControl(Deterministic(nn.Identity(), Categorical(2)), risk=risk, positive_class=positive)
    losses = []
    for _ in range(REPETITIONS):
        control.calibrate([images(size)])
        x, y = images(100)
        losses.append(missed_share(control.predict(x).pred_set, y, positive).mean().item())  # type: ignore[arg-type]
    error = np.std(losses) / math.sqrt(REPETITIONS)
    assert risk - 2 / (size + 1) - 4 * error < np.mean(losses) < risk + 4 * error


@pytest.mark.parametrize("positive", [None, 1])
def test_threshold_matches_a_search(positive: int | None) -> None:
    x, y = images(40)
    control = ConformalRiskControl(Deterministic(nn.Identity(), Categorical(2)), risk=0.15, positive_class=positive)
    control.calibrate(loader(x, y, batch_size=11))
    probs = x.softmax(1)
    best = 0.0
    for threshold in sorted({0.0, *probs.gather(1, y.unsqueeze(1)).flatten().tolist()}):
        sets = (probs >= threshold).scatter(1, probs.argmax(1, keepdim=True), True)
        if (40 * missed_share(sets, y, positive).double().mean() + 1) / 41 <= 0.15 + 1e-9:
            best = threshold
    sets = (probs >= best).scatter(1, probs.argmax(1, keepdim=True), True)
    assert torch.equal(control.predict(x).pred_set, sets)  # type: ignore[arg-type]
    (logged,) = quiet_trainer().test(control, loader(x, y), verbose=False)
    assert logged["test_conformal_risk"] == pytest.approx(missed_share(sets, y, positive).mean().item(), rel=1e-4)
    assert logged["test_conformal_set_size"] == pytest.approx(sets.sum(1).float().mean().item())


def test_few_images_give_all_classes_and_ignored_pixels_do_not_count() -> None:
    x, y = images(8)
    control = ConformalRiskControl(Deterministic(nn.Identity(), Categorical(2)), risk=0.1)
    with pytest.warns(UserWarning, match=r"8 calibration images are too few for a risk of 0.1"):
        control.calibrate([(x, y)])
    assert control.predict(x).pred_set.all()  # type: ignore[union-attr]
    x, y = images(40)
    kept = torch.arange(36) < 20
    masked = ConformalRiskControl(Deterministic(nn.Identity(), Categorical(2, ignore_index=255)), risk=0.1)
    masked.calibrate([(x, torch.where(kept, y, 255))])
    plain = ConformalRiskControl(Deterministic(nn.Identity(), Categorical(2)), risk=0.1)
    plain.calibrate([(x[..., :20], y[:, :20])])
    assert_close(masked.threshold, plain.threshold)
    for name, options in {"risk": {"risk": 1.0}, "positive_class": {"positive_class": 2}}.items():
        with pytest.raises(ValueError, match=f"{name} must lie"):
            ConformalRiskControl(Deterministic(nn.Identity(), Categorical(2)), **options)  # type: ignore[arg-type]
