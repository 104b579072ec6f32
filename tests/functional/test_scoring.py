"""Scores against numerical integration, torch.distributions and sampling."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn.metrics import brier_score_loss
from torch import Tensor
from torch.distributions import Categorical, MixtureSameFamily, Normal
from torchmetrics.functional.classification import multiclass_calibration_error
from torchmetrics.functional.regression import continuous_ranked_probability_score

from lightning_vi.functional import scoring
from lightning_vi.functional.scoring import (
    brier_score,
    central_interval_covers,
    expected_calibration_error,
    gaussian_mixture_cdf,
    gaussian_mixture_crps,
    gaussian_mixture_quantile,
    mixture_log_prob,
    top_label,
    top_label_bins,
)


def random_mixture(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = 2 + 3 * torch.randn(shape, generator=generator, dtype=dtype)
    stds = 0.2 + torch.rand(shape, generator=generator, dtype=dtype)
    target = 2 + 4 * torch.randn(shape[1:], generator=generator, dtype=dtype)
    return means, stds, target


def torch_mixture(means: Tensor, stds: Tensor) -> MixtureSameFamily:
    weights = torch.ones_like(means).movedim(0, -1)
    return MixtureSameFamily(Categorical(weights), Normal(means.movedim(0, -1), stds.movedim(0, -1)))


def gaussian_crps(mean: Tensor, std: Tensor, target: Tensor) -> Tensor:
    """The closed form for one Gaussian, Gneiting and Raftery (2007), eq. 21."""
    z = ((target - mean) / std).numpy()
    score = std.numpy() * (z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi))
    return torch.from_numpy(score)


class TestMixtureLogProb:
    def test_equals_torch_mixture(self) -> None:
        means, stds, target = random_mixture(7, 5)
        log_prob = Normal(means, stds).log_prob(target)
        torch.testing.assert_close(mixture_log_prob(log_prob), torch_mixture(means, stds).log_prob(target))

    def test_densities_that_underflow(self) -> None:
        log_prob = torch.tensor([[-2000.0], [-2001.0]])
        expected = -2000 + math.log((1 + math.exp(-1)) / 2)
        torch.testing.assert_close(mixture_log_prob(log_prob), torch.tensor([expected]))

    def test_one_sample_is_itself(self) -> None:
        log_prob = torch.randn(1, 4, 3)
        torch.testing.assert_close(mixture_log_prob(log_prob), log_prob[0])

    def test_gradient_weighs_samples_by_responsibility(self) -> None:
        log_prob = torch.tensor([[0.1], [0.3]]).log().requires_grad_()
        (gradient,) = torch.autograd.grad(mixture_log_prob(log_prob).sum(), log_prob)
        torch.testing.assert_close(gradient, torch.tensor([[0.25], [0.75]]))

    @pytest.mark.parametrize("shape", [(), (0, 3)])
    def test_no_samples_is_an_error(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(ValueError, match="log_prob must have shape"):
            mixture_log_prob(torch.zeros(shape))


class TestCDF:
    def test_equals_torch_mixture(self) -> None:
        means, stds, value = random_mixture(6, 4, 2)
        expected = torch_mixture(means, stds).cdf(value)
        torch.testing.assert_close(gaussian_mixture_cdf(means, stds, value), expected)

    def test_far_tail_is_precise(self) -> None:
        lower = gaussian_mixture_cdf(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([-8.0]))
        expected = torch.tensor([stats.norm.cdf(-8.0)], dtype=torch.float32)
        torch.testing.assert_close(lower, expected, rtol=1e-4, atol=0)

    def test_point_mass_is_a_step_continuous_from_the_right(self) -> None:
        value = torch.tensor([-1e-6, 0.0, 1e-6])
        cdf = gaussian_mixture_cdf(torch.zeros(1, 3), torch.zeros(1, 3), value)
        assert cdf.tolist() == [0.0, 1.0, 1.0]

    def test_point_mass_beside_a_gaussian(self) -> None:
        cdf = gaussian_mixture_cdf(torch.zeros(2, 1), torch.tensor([[0.0], [1.0]]), torch.zeros(1))
        torch.testing.assert_close(cdf, torch.tensor([0.75]))

    def test_gradient_is_the_density_also_beside_a_point_mass(self) -> None:
        means, stds, value = random_mixture(5, 3)
        stds[0] = 0.0
        value.requires_grad_()
        (gradient,) = torch.autograd.grad(gaussian_mixture_cdf(means, stds, value).sum(), value)
        density = Normal(means[1:], stds[1:]).log_prob(value.detach()).exp().sum(0) / 5
        torch.testing.assert_close(gradient, density)


class TestQuantile:
    @pytest.mark.parametrize("level", [1e-6, 0.025, 0.5, 0.9, 0.999])
    def test_inverts_torch_mixture_cdf(self, level: float) -> None:
        means, stds, _ = random_mixture(9, 20)
        quantile = gaussian_mixture_quantile(means, stds, level)
        cdf = torch_mixture(means, stds).cdf(quantile)
        torch.testing.assert_close(cdf, torch.full_like(cdf, level), rtol=1e-9, atol=1e-12)

    def test_equals_sample_quantiles(self) -> None:
        means, stds, _ = random_mixture(4, 3)
        num_draws, level = 200_000, 0.8
        torch.manual_seed(0)
        draws = torch_mixture(means, stds).sample((num_draws,))
        below = (draws <= gaussian_mixture_quantile(means, stds, level)).double().mean(0)
        standard_error = math.sqrt(level * (1 - level) / num_draws)
        torch.testing.assert_close(below, torch.full_like(below, level), rtol=0, atol=4 * standard_error)

    def test_single_gaussian_is_exact(self) -> None:
        means, stds, _ = random_mixture(1, 5)
        expected = stats.norm.ppf(0.9, means[0].numpy(), stds[0].numpy())
        torch.testing.assert_close(gaussian_mixture_quantile(means, stds, 0.9), torch.from_numpy(expected))

    def test_sequence_of_levels_stacks(self) -> None:
        means, stds, _ = random_mixture(4, 3, 2)
        levels = [0.1, 0.5, 0.7]
        together = gaussian_mixture_quantile(means, stds, levels)
        assert together.shape == (3, 3, 2)
        for quantile, level in zip(together, levels, strict=True):
            torch.testing.assert_close(quantile, gaussian_mixture_quantile(means, stds, level), rtol=0, atol=0)

    def test_point_masses(self) -> None:
        means = torch.tensor([[3.0], [1.0], [2.0]])
        quantiles = gaussian_mixture_quantile(means, torch.zeros(3, 1), [0.2, 0.5, 0.9])
        torch.testing.assert_close(quantiles, torch.tensor([[1.0], [2.0], [3.0]]))

    def test_converges_to_float_precision_with_scales_far_apart(self) -> None:
        means = torch.tensor([[0.0], [0.0], [0.0]])
        stds = torch.tensor([[1e-2], [1e-2], [1e2]])
        exact = gaussian_mixture_quantile(means.double(), stds.double(), 0.7)
        torch.testing.assert_close(gaussian_mixture_quantile(means, stds, 0.7), exact.float(), rtol=1e-5, atol=0)

    def test_nan_stays_nan(self) -> None:
        quantile = gaussian_mixture_quantile(torch.tensor([[0.0], [torch.nan]]), torch.ones(2, 1), 0.5)
        assert quantile.isnan().all()

    @pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
    def test_level_out_of_range(self, level: float) -> None:
        with pytest.raises(ValueError, match="level must lie strictly between 0 and 1"):
            gaussian_mixture_quantile(torch.zeros(1, 1), torch.ones(1, 1), level)


class TestCentralInterval:
    def test_covers_values_between_the_quantiles(self) -> None:
        means, stds, target = random_mixture(5, 400)
        lower, upper = gaussian_mixture_quantile(means, stds, [0.1, 0.9])
        expected = ((target >= lower) & (target <= upper)).double()
        covered = central_interval_covers(means, stds, target, level=0.8)
        torch.testing.assert_close(covered, expected)
        assert 0 < covered.mean() < 1

    def test_point_mass_covers_itself_alone(self) -> None:
        covered = central_interval_covers(torch.zeros(3, 2), torch.zeros(3, 2), torch.tensor([0.0, 1e-6]))
        assert covered.tolist() == [1.0, 0.0]

    def test_nan_is_not_a_miss(self) -> None:
        assert central_interval_covers(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([torch.nan])).isnan()


class TestCRPS:
    def test_equals_numerical_integral(self) -> None:
        means, stds, target = random_mixture(5, 6)
        for column in range(6):
            mean, std, y = means[:, column].numpy(), stds[:, column].numpy(), float(target[column])

            def integrand(z: float, mean=mean, std=std, y=y) -> float:
                return float((stats.norm.cdf(z, mean, std).mean() - (z >= y)) ** 2)

            low, high = min(y, (mean - 10 * std).min()), max(y, (mean + 10 * std).max())
            expected, _ = integrate.quad(integrand, low, high, points=[y], limit=300)
            score = gaussian_mixture_crps(means[:, column], stds[:, column], target[column])
            assert float(score) == pytest.approx(expected, rel=1e-7)

    def test_agrees_with_torchmetrics_on_samples(self) -> None:
        means, stds, target = random_mixture(4, 3)
        torch.manual_seed(0)
        draws = torch_mixture(means, stds).sample((2000,)).T
        # torchmetrics' ensemble estimate is the CRPS of the draws' empirical distribution.
        expected = continuous_ranked_probability_score(draws, target)
        torch.testing.assert_close(gaussian_mixture_crps(means, stds, target).mean(), expected, rtol=0.02, atol=0)

    def test_one_component_equals_gaussian_closed_form(self) -> None:
        means, stds, target = random_mixture(1, 8)
        score = gaussian_mixture_crps(means, stds, target)
        torch.testing.assert_close(score, gaussian_crps(means[0], stds[0], target))

    def test_equal_components_equal_gaussian_closed_form(self) -> None:
        means, stds, target = random_mixture(1, 8)
        score = gaussian_mixture_crps(means.expand(6, -1), stds.expand(6, -1), target)
        torch.testing.assert_close(score, gaussian_crps(means[0], stds[0], target))

    def test_score_of_a_point_forecast_is_its_absolute_error(self) -> None:
        means, _, target = random_mixture(1, 8)
        score = gaussian_mixture_crps(means, torch.zeros_like(means), target)
        torch.testing.assert_close(score, (means[0] - target).abs())

    def test_point_masses_equal_the_ensemble_score(self) -> None:
        means, _, target = random_mixture(6, 8)
        expected = continuous_ranked_probability_score(means.T, target)
        score = gaussian_mixture_crps(means, torch.zeros_like(means), target).mean()
        torch.testing.assert_close(score, expected)

    def test_differs_from_the_moment_matched_gaussian(self) -> None:
        means, stds = torch.tensor([[-3.0], [3.0]]), torch.full((2, 1), 0.1)
        matched_std = (stds.square().mean(0) + means.var(0, correction=0)).sqrt()
        mixture = gaussian_mixture_crps(means, stds, torch.zeros(1))
        matched = gaussian_mixture_crps(torch.zeros(1, 1), matched_std.unsqueeze(0), torch.zeros(1))
        assert mixture > 2 * matched

    @pytest.mark.parametrize("max_elements", [1, 30, 10_000])
    def test_chunks_do_not_change_the_value(self, max_elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
        means, stds, target = random_mixture(9, 4, 3)
        expected = gaussian_mixture_crps(means, stds, target)
        monkeypatch.setattr(scoring, "_MAX_PAIR_ELEMENTS", max_elements)
        torch.testing.assert_close(gaussian_mixture_crps(means, stds, target), expected)

    def test_temporaries_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sizes = []
        folded_normal_mean = scoring._folded_normal_mean

        def recording(mean: Tensor, variance: Tensor) -> Tensor:
            sizes.append(mean.numel())
            return folded_normal_mean(mean, variance)

        monkeypatch.setattr(scoring, "_folded_normal_mean", recording)
        monkeypatch.setattr(scoring, "_MAX_PAIR_ELEMENTS", 64)
        gaussian_mixture_crps(*random_mixture(20, 10))
        target_term, *pair_terms = sizes
        assert target_term == 200
        assert max(pair_terms) <= 64
        assert sum(pair_terms) == 10 * 20 * 19 // 2

    def test_gradients_match_finite_differences(self) -> None:
        means, stds, target = (tensor.requires_grad_() for tensor in random_mixture(3, 2))
        assert torch.autograd.gradcheck(gaussian_mixture_crps, (means, stds, target))

    def test_gradients_stay_finite_at_zero_std(self) -> None:
        means, _, target = random_mixture(3, 2)
        means.requires_grad_()
        stds = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
        gaussian_mixture_crps(means, stds, target).sum().backward()
        assert means.grad is not None
        assert stds.grad is not None
        assert means.grad.isfinite().all()
        assert stds.grad.isfinite().all()

    @pytest.mark.parametrize("scale", [1e-12, 1e12])
    def test_scales_with_the_units(self, scale: float) -> None:
        means, stds, target = random_mixture(4, 5, dtype=torch.float32)
        scaled = gaussian_mixture_crps(means * scale, stds * scale, target * scale)
        torch.testing.assert_close(scaled, gaussian_mixture_crps(means, stds, target) * scale, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("stds_shape", "target_shape", "message"),
    [
        ((3, 4), (4, 1), r"stds must have the shape of means \[3, 4, 1\], got \[3, 4\]"),
        ((3, 4, 1), (4,), r"target must have the shape of one sample of means \[4, 1\], got \[4\]"),
    ],
)
@pytest.mark.parametrize("score", [gaussian_mixture_crps, central_interval_covers])
def test_mixture_shapes(score, stds_shape, target_shape, message) -> None:
    with pytest.raises(ValueError, match=message):
        score(torch.zeros(3, 4, 1), torch.ones(stds_shape), torch.zeros(target_shape))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_result_is_float32_or_better(dtype: torch.dtype) -> None:
    means, stds, target = (tensor.to(dtype) for tensor in random_mixture(4, 3))
    expected = torch.promote_types(dtype, torch.float32)
    mixture = means.to(expected), stds.to(expected), target.to(expected)
    for score in (gaussian_mixture_cdf, gaussian_mixture_crps, central_interval_covers):
        torch.testing.assert_close(score(means, stds, target), score(*mixture), rtol=0, atol=0)
    quantile = gaussian_mixture_quantile(means, stds, 0.3)
    torch.testing.assert_close(quantile, gaussian_mixture_quantile(*mixture[:2], 0.3), rtol=0, atol=0)
    torch.testing.assert_close(mixture_log_prob(means), mixture_log_prob(mixture[0]), rtol=0, atol=0)
    probs, labels = means.softmax(1), torch.tensor([0, 1, 2, 2])
    torch.testing.assert_close(brier_score(probs, labels), brier_score(probs.to(expected), labels), rtol=0, atol=0)
    assert top_label(probs, labels)[0].dtype == expected


class TestBrierScore:
    def test_hand_formula(self) -> None:
        probs, target = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]), torch.tensor([0, 1])
        expected = torch.tensor([0.3**2 + 0.2**2 + 0.1**2, 0.1**2 + 0.9**2 + 0.8**2])
        torch.testing.assert_close(brier_score(probs, target), expected)

    def test_two_classes_equal_twice_sklearn(self) -> None:
        positive = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        target = (torch.arange(50) % 3 == 0).long()
        expected = 2 * brier_score_loss(target.numpy(), positive.numpy())
        score = brier_score(torch.stack([1 - positive, positive], dim=1), target).mean()
        assert float(score) == pytest.approx(expected)

    def test_spatial_equals_pixel_by_pixel(self) -> None:
        probs = torch.randn(2, 3, 4, 5).softmax(1)
        target = torch.randint(3, (2, 4, 5))
        rows = brier_score(probs.movedim(1, -1).reshape(-1, 3), target.flatten())
        torch.testing.assert_close(brier_score(probs, target).flatten(), rows)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.bool])
    def test_any_integer_dtype(self, dtype: torch.dtype) -> None:
        probs = torch.tensor([[0.5, 0.5], [0.9, 0.1]])
        torch.testing.assert_close(brier_score(probs, torch.tensor([0, 1]).to(dtype)), torch.tensor([0.5, 1.62]))

    def test_input_is_not_modified(self) -> None:
        probs = torch.full((1, 2), 0.5)
        brier_score(probs, torch.tensor([0]))
        assert probs.tolist() == [[0.5, 0.5]]

    def test_float_labels_are_an_error(self) -> None:
        with pytest.raises(TypeError, match=r"target must hold integer class indices, got dtype torch\.float32"):
            brier_score(torch.ones(2, 2) / 2, torch.zeros(2))

    @pytest.mark.parametrize(
        ("probs_shape", "target_shape", "message"),
        [
            ((4,), (4,), r"class probabilities must have shape \[B, C\] or \[B, C, \.\.\.\], got \[4\]"),
            ((4, 2), (4, 1), r"target must have shape \[4\].*\[4, 2\], got \[4, 1\]"),
            ((4, 2, 3), (4,), r"target must have shape \[4, 3\].*\[4, 2, 3\], got \[4\]"),
        ],
    )
    def test_shapes(self, probs_shape, target_shape, message) -> None:
        with pytest.raises(ValueError, match=message):
            brier_score(torch.ones(probs_shape), torch.zeros(target_shape, dtype=torch.long))


class TestCalibrationError:
    @pytest.mark.parametrize("num_bins", [1, 5, 15])
    def test_equals_torchmetrics(self, num_bins: int) -> None:
        generator = torch.Generator().manual_seed(0)
        probs = (2 * torch.randn(300, 4, generator=generator)).softmax(1)
        target = torch.randint(4, (300,), generator=generator)
        bins = top_label_bins(*top_label(probs, target), num_bins)
        expected = multiclass_calibration_error(probs, target, num_classes=4, n_bins=num_bins, norm="l1")
        torch.testing.assert_close(expected_calibration_error(bins), expected)

    def test_bins_equal_a_histogram(self) -> None:
        confidence = torch.rand(500, generator=torch.Generator().manual_seed(0))
        correct = (confidence > 0.4).float()
        edges = np.linspace(0, 1, 8)
        expected = np.stack(
            [np.histogram(confidence, edges, weights=w)[0] for w in (np.ones(500), confidence, correct)]
        )
        bins = top_label_bins(confidence.view(50, 10), correct.view(50, 10), num_bins=7)
        torch.testing.assert_close(bins, torch.from_numpy(expected).float())

    def test_full_confidence_is_in_the_last_bin(self) -> None:
        bins = top_label_bins(torch.tensor([1.0, 1.0000001, 0.95]), torch.ones(3), num_bins=10)
        assert bins[0].tolist() == [0.0] * 9 + [3.0]

    def test_bins_include_their_upper_edge(self) -> None:
        bins = top_label_bins(torch.tensor([0.25, 0.5, 0.75]), torch.ones(3), num_bins=4)
        assert bins[0].tolist() == [1.0, 1.0, 1.0, 0.0]

    def test_no_predictions_give_nan(self) -> None:
        assert expected_calibration_error(torch.zeros(3, 15)).isnan()

    def test_nan_confidence_gives_nan(self) -> None:
        bins = top_label_bins(torch.tensor([torch.nan, 0.5]), torch.ones(2))
        assert expected_calibration_error(bins).isnan()

    def test_wrong_arguments_are_errors(self) -> None:
        with pytest.raises(ValueError, match=r"correct must have the shape of confidence \[2\], got \[3\]"):
            top_label_bins(torch.ones(2), torch.ones(3))
        with pytest.raises(ValueError, match="num_bins must be a positive integer, got 0"):
            top_label_bins(torch.ones(2), torch.ones(2), num_bins=0)
        with pytest.raises(ValueError, match=r"bins must have shape \[3, num_bins\], got \[2, 15\]"):
            expected_calibration_error(torch.ones(2, 15))
