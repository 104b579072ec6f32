"""Values of the metrics against independent implementations, and the arguments that they reject."""

import math

import pytest
import torch
import torchmetrics
from sklearn.metrics import r2_score
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lightning_vi.functional.mixture import Mixture
from lightning_vi.metrics import (
    Accuracy,
    BrierScore,
    ExpectedCalibrationError,
    GaussianMixtureCRPS,
    IntervalCoverage,
    IntervalWidth,
    MeanAbsoluteError,
    MixtureCRPS,
    NegativeLogLikelihood,
    R2Score,
    RootMeanSquaredError,
)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class TestMixtureMetrics:
    def test_nll_equals_torch_mixture(self) -> None:
        means, stds = torch.randn(5, 30, generator=generator()), torch.rand(5, 30) + 0.2
        target = torch.randn(30)
        mixture = MixtureSameFamily(Categorical(torch.ones(30, 5)), Normal(means.T, stds.T))
        log_prob, expected = Normal(means, stds).log_prob(target), -mixture.log_prob(target).mean()
        for shape in ((5, 30), (5, 6, 5)):
            metric = NegativeLogLikelihood()
            metric.update(log_prob.reshape(shape))
            torch.testing.assert_close(metric.compute(), expected)

    def test_coverage_of_samples_of_the_mixture_is_the_level(self) -> None:
        torch.manual_seed(0)
        num_samples, level = 20_000, 0.9
        means, stds = torch.tensor([[-4.0], [0.0], [1.0]]), torch.tensor([[0.1], [2.0], [0.5]])
        mixture = MixtureSameFamily(Categorical(torch.ones(1, 3)), Normal(means.T, stds.T))
        metric = IntervalCoverage(level)
        metric.update(
            means.unsqueeze(1).expand(-1, num_samples, -1),
            stds.unsqueeze(1).expand(-1, num_samples, -1),
            mixture.sample((num_samples,)),
        )
        standard_error = math.sqrt(level * (1 - level) / num_samples)
        assert float(metric.compute()) == pytest.approx(level, abs=4 * standard_error)

    def test_width_is_the_distance_between_the_quantiles(self) -> None:
        means, stds = torch.tensor([[-4.0], [0.0], [1.0]]), torch.tensor([[0.1], [2.0], [0.5]])
        metric = IntervalWidth(0.9)
        metric.update(means, stds)
        mixture = MixtureSameFamily(Categorical(torch.ones(1, 3)), Normal(means.T, stds.T))
        grid = torch.linspace(-15, 15, 300_001).unsqueeze(1)
        cdf = mixture.cdf(grid)
        inside = grid[(cdf >= 0.05) & (cdf <= 0.95)]
        torch.testing.assert_close(metric.compute(), inside.max() - inside.min(), rtol=0, atol=3e-4)

    def test_metrics_score_the_mixture_and_not_its_moments(self) -> None:
        means, stds = torch.tensor([[[-3.0]], [[3.0]]]), torch.full((2, 1, 1), 0.5)
        mean, std = means.mean(0, keepdim=True), (stds.square() + means.square()).mean(0, keepdim=True).sqrt()
        values = []
        for mixture in ((means, stds), (mean, std)):
            crps, coverage, width = GaussianMixtureCRPS(), IntervalCoverage(0.5), IntervalWidth(0.5)
            for target in (torch.zeros(1, 1), torch.full((1, 1), 3.2)):
                crps.update(*mixture, target)
                coverage.update(*mixture, target)
            width.update(*mixture)
            values.append([float(metric.compute()) for metric in (crps, coverage, width)])
        (crps, coverage, width), (matched_crps, matched_coverage, matched_width) = values
        # The quartiles of the mixture are its modes, ±3; those of the Gaussian with its moments are ±2.05.
        assert coverage == matched_coverage == 0.5
        assert width == pytest.approx(6, abs=1e-3)
        assert matched_width == pytest.approx(2 * 0.67449 * float(std), abs=1e-3)
        assert crps > matched_crps + 0.1

    @pytest.mark.parametrize(
        ("metric", "level"),
        [(IntervalCoverage, 0.0), (IntervalWidth, 1.0), (IntervalCoverage, 95), (IntervalWidth, math.nan)],
    )
    def test_level_must_lie_between_0_and_1(self, metric, level) -> None:
        with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
            metric(level)

    def test_log_prob_needs_a_sample_dimension(self) -> None:
        with pytest.raises(ValueError, match=r"log_prob must have shape \[S, B\].*got \[7\]"):
            NegativeLogLikelihood().update(torch.zeros(7))

    @pytest.mark.parametrize("metric", [GaussianMixtureCRPS, IntervalCoverage])
    def test_target_does_not_broadcast(self, metric) -> None:
        with pytest.raises(ValueError, match=r"target must have the shape of one sample of means \[4, 1\]"):
            metric().update(torch.zeros(3, 4, 1), torch.ones(3, 4, 1), torch.zeros(4))


class TestPointMetrics:
    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            (RootMeanSquaredError(), torchmetrics.MeanSquaredError(squared=False)),
            (MeanAbsoluteError(), torchmetrics.MeanAbsoluteError()),
            (R2Score(3), torchmetrics.R2Score()),
        ],
    )
    def test_equal_torchmetrics(self, ours, theirs) -> None:
        target = torch.randn(40, 3, generator=generator())
        preds = target + 0.5 * torch.randn(40, 3, generator=generator())
        torch.testing.assert_close(ours(preds, target), theirs(preds, target))

    def test_half_precision_does_not_overflow(self) -> None:
        preds, target = torch.full((600, 1), 500.0).half(), torch.zeros(600, 1).half()
        assert RootMeanSquaredError()(preds, target) == 500
        assert MeanAbsoluteError()(preds, target) == 500

    @pytest.mark.parametrize("metric", [RootMeanSquaredError(), MeanAbsoluteError(), R2Score()])
    def test_shapes_do_not_broadcast(self, metric) -> None:
        with pytest.raises(ValueError, match=r"preds must have the shape of target \[4\], got \[4, 1\]"):
            metric.update(torch.zeros(4, 1), torch.zeros(4))


class TestR2Score:
    def test_leading_dimensions_are_rows(self) -> None:
        target, preds = torch.randn(6, 5, 4, 2, generator=generator()), torch.randn(6, 5, 4, 2)
        metric = R2Score(num_targets=2)
        metric.update(preds, target)
        expected = r2_score(target.reshape(-1, 2).numpy(), preds.reshape(-1, 2).numpy())
        assert float(metric.compute()) == pytest.approx(expected, rel=1e-4)

    def test_one_target_without_a_last_dimension(self) -> None:
        preds, target = torch.randn(9), torch.randn(9)
        assert R2Score()(preds, target) == R2Score()(preds.unsqueeze(1), target.unsqueeze(1))

    @pytest.mark.parametrize("num_rows", [0, 1])
    def test_fewer_than_two_rows_are_nan_without_a_warning(self, num_rows: int) -> None:
        metric = R2Score(num_targets=2)
        metric.update(torch.zeros(num_rows, 2), torch.ones(num_rows, 2))
        assert metric.compute().isnan()

    def test_two_batches_of_one_row(self) -> None:
        metric = R2Score()
        metric.update(torch.tensor([[0.0]]), torch.tensor([[0.0]]))
        metric.update(torch.tensor([[1.0]]), torch.tensor([[2.0]]))
        torch.testing.assert_close(metric.compute(), torch.tensor(0.5))

    @pytest.mark.parametrize("offset", [0.0, 1e5])
    def test_a_large_offset_does_not_cancel(self, offset: float) -> None:
        target = offset + torch.randn(4000, 1, generator=generator(), dtype=torch.float64).float()
        preds = target + 0.3 * torch.randn(4000, 1, generator=generator())
        metric = R2Score()
        for rows in torch.arange(4000).split(32):
            metric.update(preds[rows], target[rows])
        expected = r2_score(target.double().numpy(), preds.double().numpy())
        assert float(metric.compute()) == pytest.approx(expected, abs=1e-3)

    def test_a_target_of_small_scale_is_not_constant(self) -> None:
        target = 1e-4 * torch.randn(20, 1, generator=generator())
        preds = torch.zeros(20, 1)
        expected = r2_score(target.numpy(), preds.numpy())
        assert float(R2Score()(preds, target)) == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize(("error", "expected"), [(0.0, 1.0), (0.2, 0.0)])
    def test_a_constant_target_scores_as_in_scikit_learn(self, error: float, expected: float) -> None:
        target = torch.full((50, 1), 0.1)  # 0.1 is not a float, so the mean of 50 of them is rounded
        assert r2_score(target.double().numpy(), (target + error).double().numpy()) == expected
        metric = R2Score()
        for rows in torch.arange(50).split(7):
            metric.update(target[rows] + error, target[rows])
        assert float(metric.compute()) == expected

    def test_wrong_number_of_targets(self) -> None:
        with pytest.raises(ValueError, match=r"num_targets=2 entries in dimension -1, got shape \[4, 3\]"):
            R2Score(num_targets=2).update(torch.zeros(4, 3), torch.zeros(4, 3))
        with pytest.raises(ValueError, match="num_targets=2"):
            R2Score(num_targets=2).update(torch.zeros(4), torch.zeros(4))
        with pytest.raises(ValueError, match="num_targets=1"):
            R2Score().update(torch.zeros(4, 3), torch.zeros(4, 3))

    @pytest.mark.parametrize("num_targets", [0, 1.5])
    def test_num_targets_must_be_positive(self, num_targets) -> None:
        with pytest.raises(ValueError, match="num_targets must be a positive integer"):
            R2Score(num_targets)


class TestClassificationMetrics:
    @pytest.mark.parametrize(("num_classes", "pixels"), [(2, ()), (5, (4, 5))])
    def test_equal_torchmetrics(self, num_classes: int, pixels: tuple[int, ...]) -> None:
        preds = (2 * torch.randn(40, num_classes, *pixels, generator=generator())).softmax(1)
        target = torch.randint(num_classes, (40, *pixels), generator=generator())
        accuracy = MulticlassAccuracy(num_classes, average="micro")
        torch.testing.assert_close(Accuracy(num_classes)(preds, target), accuracy(preds, target))
        calibration = MulticlassCalibrationError(num_classes, n_bins=15, norm="l1")
        torch.testing.assert_close(ExpectedCalibrationError(num_classes)(preds, target), calibration(preds, target))

    def test_brier_equals_squared_distance_to_one_hot(self) -> None:
        preds = torch.randn(30, 4, 2, generator=generator()).softmax(1)
        target = torch.randint(4, (30, 2), generator=generator())
        one_hot = torch.nn.functional.one_hot(target, 4).movedim(-1, 1)
        expected = (preds - one_hot).square().sum(1).mean()
        torch.testing.assert_close(BrierScore(4)(preds, target), expected)

    def test_probabilities_rounded_above_one_are_not_logits(self) -> None:
        preds, target = torch.tensor([[1.0000001, 0.0], [0.8, 0.2]]), torch.tensor([0, 0])
        torch.testing.assert_close(ExpectedCalibrationError(2)(preds, target), torch.tensor(0.1))

    @pytest.mark.parametrize("metric", [Accuracy(3), BrierScore(3), ExpectedCalibrationError(3)])
    def test_invalid_arguments_are_rejected_and_change_nothing(self, metric) -> None:
        before = {name: getattr(metric, name).clone() for name in metric._defaults}
        with pytest.raises(ValueError, match=r"preds must have shape \[B, 3\] or \[B, 3, \.\.\.\], got \[4, 2\]"):
            metric.update(torch.ones(4, 2) / 2, torch.zeros(4, dtype=torch.long))
        with pytest.raises(ValueError, match=r"preds must have shape \[B, 3\].*got \[4\]"):
            metric.update(torch.ones(4), torch.zeros(4, dtype=torch.long))
        with pytest.raises(ValueError, match=r"target must have shape \[4\].*got \[4, 1\]"):
            metric.update(torch.ones(4, 3) / 3, torch.zeros(4, 1, dtype=torch.long))
        with pytest.raises(TypeError, match="target must hold integer class indices"):
            metric.update(torch.ones(4, 3) / 3, torch.zeros(4))
        for name, state in before.items():
            assert getattr(metric, name).equal(state)

    @pytest.mark.parametrize("num_bins", [0, 2.0])
    def test_num_bins_must_be_positive(self, num_bins) -> None:
        with pytest.raises(ValueError, match="num_bins must be a positive integer"):
            ExpectedCalibrationError(num_bins=num_bins)


def test_a_given_mixture_replaces_the_gaussians() -> None:
    """Exponential components: the CDF of the mixture on a fine grid is the oracle."""
    rates, target = torch.tensor([[[0.5]], [[2.0]], [[1.0]]]), torch.tensor([[1.5]])
    mixture = Mixture(lambda value: -torch.expm1(-rates * value.clamp(min=0)), 1 / rates, 1 / rates)
    grid = torch.linspace(0, 60, 600_001, dtype=torch.float64)
    cdf = -torch.expm1(-rates[:, 0].double() * grid).mean(0)
    crps, coverage, width = MixtureCRPS(), IntervalCoverage(0.5), IntervalWidth(0.5)
    crps.update(1 / rates, 1 / rates, target, mixture)
    coverage.update(1 / rates, 1 / rates, target, mixture)
    width.update(1 / rates, 1 / rates, mixture)
    lower, upper = grid[cdf >= 0.25].min(), grid[cdf >= 0.75].min()
    assert float(crps.compute()) == pytest.approx(float((cdf - (grid >= 1.5).double()).square().sum() * 1e-4), rel=1e-3)
    assert coverage.compute() == float(lower <= 1.5 <= upper)
    assert float(width.compute()) == pytest.approx(float(upper - lower), rel=1e-3)


def test_crps_of_many_gaussians_equals_the_closed_form() -> None:
    generator = torch.Generator().manual_seed(0)
    means, stds = torch.randn(300, 20, 1, generator=generator), torch.rand(300, 20, 1, generator=generator) + 0.1
    target = torch.linspace(-3, 3, 20).unsqueeze(1)
    metric, exact = MixtureCRPS(), GaussianMixtureCRPS()
    metric.update(means, stds, target)
    exact.update(means, stds, target)
    assert metric.compute() == pytest.approx(exact.compute().item(), rel=1e-3)
