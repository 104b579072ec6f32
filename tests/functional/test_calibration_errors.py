"""Calibration errors of class probabilities against loops, brute-force kernels and scipy."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_vi import functional
from lightning_vi.functional.scoring import top_label, top_label_bins


def predictions(size: int = 400, num_classes: int = 4, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(size)
    logits = torch.randn(size, num_classes, generator=generator, dtype=torch.float64)
    target = torch.multinomial(logits.softmax(1), 1, generator=generator).squeeze(1)
    return (scale * logits).softmax(1), target


def gap(probs: np.ndarray, hits: np.ndarray) -> float:
    return abs(float(np.mean(probs) - np.mean(hits))) if len(probs) else 0.0


def test_maximum_error_is_the_largest_gap_of_a_bin() -> None:
    probs, target = predictions()
    confidence, correct = (each.numpy() for each in top_label(probs, target))
    edges = [(confidence > low / 15) & (confidence <= (low + 1) / 15) for low in range(15)]
    expected = max(gap(confidence[inside], correct[inside]) for inside in edges)
    bins = top_label_bins(torch.tensor(confidence), torch.tensor(correct))
    assert float(functional.maximum_calibration_error(bins)) == pytest.approx(expected)
    assert functional.maximum_calibration_error(torch.zeros(3, 4)).isnan()


@pytest.mark.parametrize("num_bins", [1, 7, 15])
def test_adaptive_error_over_bins_of_equal_mass(num_bins: int) -> None:
    probs, target = predictions(size=15 * 28)
    confidence, correct = (each.numpy() for each in top_label(probs, target))
    order = np.argsort(confidence)
    parts = np.split(order, num_bins)
    expected = np.mean([gap(confidence[part], correct[part]) for part in parts])
    ours = functional.adaptive_calibration_error(torch.tensor(confidence), torch.tensor(correct), num_bins)
    assert float(ours) == pytest.approx(expected)


def test_adaptive_error_does_not_depend_on_the_order_of_ties() -> None:
    confidence = torch.tensor([0.5] * 4 + [0.9] * 6)
    correct = torch.tensor([1.0, 0, 0, 0, 1, 1, 1, 0, 0, 0])
    errors = {
        round(float(functional.adaptive_calibration_error(confidence[order], correct[order], 5)), 6)
        for order in (torch.randperm(10) for _ in range(5))
    }
    assert errors == {round((4 * 0.25 + 6 * 0.4) / 10, 6)}
    fewer = functional.adaptive_calibration_error(confidence[:1], correct[:1], num_bins=15)
    assert float(fewer) == 0.5


def test_classwise_error_and_brier_parts_equal_loops() -> None:
    probs, target = predictions()
    bins = functional.class_bins(probs, target, num_bins=10)
    error = reliability = resolution = uncertainty = binned_score = 0.0
    for index in range(4):
        p, hits = probs[:, index].numpy(), (target == index).double().numpy()
        means = np.empty_like(p)
        for low in range(10):
            inside = (p > low / 10) & (p <= (low + 1) / 10)
            if inside.any():
                means[inside] = p[inside].mean()
                error += inside.mean() * gap(p[inside], hits[inside]) / 4
                reliability += inside.mean() * gap(p[inside], hits[inside]) ** 2
                resolution += inside.mean() * (hits[inside].mean() - hits.mean()) ** 2
        uncertainty += hits.mean() * (1 - hits.mean())
        binned_score += np.mean((means - hits) ** 2)
    assert float(functional.classwise_calibration_error(bins)) == pytest.approx(error)
    parts = functional.brier_decomposition(bins)
    assert [float(part) for part in parts] == pytest.approx([reliability, resolution, uncertainty])
    # Murphy's identity for probabilities that are replaced by the mean of their bin.
    assert reliability - resolution + uncertainty == pytest.approx(binned_score)


def test_brier_parts_sum_to_the_score_of_discrete_probabilities() -> None:
    generator = torch.Generator().manual_seed(1)
    first = torch.randint(0, 10, (500,), generator=generator) / 10 + 0.05
    probs, target = torch.stack([first, 1 - first], 1), torch.randint(0, 2, (500,), generator=generator)
    parts = functional.brier_decomposition(functional.class_bins(probs, target, num_bins=10))
    score = (probs - torch.nn.functional.one_hot(target, 2)).square().sum(1).mean()
    assert_close(parts.reliability - parts.resolution + parts.uncertainty, score)


def test_class_bins_of_pixels_and_masks() -> None:
    probs, target = predictions(24, 3)
    pixels, labels = probs.view(4, 2, 3, 3).movedim(-1, 1), target.view(4, 2, 3)
    assert_close(functional.class_bins(pixels, labels), functional.class_bins(probs, target))
    observed = torch.arange(24) % 3 > 0
    expected = functional.class_bins(probs[observed], target[observed])
    assert_close(functional.class_bins(pixels, labels, observed=observed.view(4, 2, 3)), expected)


def brute_force_smooth_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Reflected Gaussian kernels at each datum, adaptive quadrature, and the root of error minus width."""
    shifts = np.arange(-3, 4)
    images = np.concatenate([confidence + 2 * shift for shift in shifts] + [2 * shift - confidence for shift in shifts])
    residual = np.tile(correct - confidence, 2 * len(shifts)) / len(confidence)

    def error(width: float) -> float:
        grid = np.linspace(0, 1, 2001)
        values = np.zeros_like(grid)
        for image, weight in zip(images, residual, strict=True):
            near = np.abs(grid - image) < 9 * width
            values[near] += weight * np.exp(-0.5 * ((grid[near] - image) / width) ** 2)
        return float(scipy.integrate.simpson(np.abs(values), x=grid)) / (width * math.sqrt(2 * math.pi))

    return float(scipy.optimize.brentq(lambda width: error(width) - width, 1e-3, 1.0, xtol=1e-6))


@pytest.mark.parametrize(("size", "scale"), [(60, 3.0), (90, 1.0), (40, 0.2)])
def test_smooth_error_equals_brute_force(size: int, scale: float) -> None:
    confidence, correct = top_label(*predictions(size, 3, scale))
    nodes = functional.residual_nodes(confidence, correct)
    expected = brute_force_smooth_error(confidence.numpy(), correct.numpy())
    assert expected > 0.01
    assert float(functional.smooth_calibration_error(nodes)) == pytest.approx(expected, rel=2e-3)


def test_smooth_error_of_one_confidence_and_of_a_shift() -> None:
    """All data at one confidence have the plain gap; a confidence that is too large by 0.2 everywhere has 0.2."""
    single = functional.residual_nodes(torch.full((8,), 0.75), torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]))
    assert float(functional.smooth_calibration_error(single)) == pytest.approx(0.5, abs=1e-4)
    confidence = torch.linspace(0.2, 1, 4001, dtype=torch.float64)
    shifted = functional.residual_nodes(confidence, confidence - 0.2)
    assert float(functional.smooth_calibration_error(shifted)) == pytest.approx(0.16 / 0.8, abs=2e-4)
    calibrated = functional.residual_nodes(confidence, confidence)
    assert float(functional.smooth_calibration_error(calibrated)) < 1e-6
    assert functional.smooth_calibration_error(torch.zeros_like(calibrated)).isnan()


def test_smooth_error_is_continuous_where_bins_jump() -> None:
    confidence, correct = torch.full((100,), 0.5), torch.arange(100) % 2
    below, above = confidence - 1e-4 * correct, confidence + 1e-4 * correct
    jumps, smooth = [], []
    for moved in (below, above):
        jumps.append(float(functional.classwise_calibration_error(top_label_bins(moved, correct, 2)[:, None])))
        smooth.append(float(functional.smooth_calibration_error(functional.residual_nodes(moved, correct.float()))))
    assert abs(jumps[1] - jumps[0]) > 0.4
    assert abs(smooth[1] - smooth[0]) < 1e-3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: functional.maximum_calibration_error(torch.zeros(2, 5)), r"bins must have shape \[3, num_bins\]"),
        (lambda: functional.classwise_calibration_error(torch.zeros(3, 5)), r"bins must have shape \[3, C, num_bins\]"),
        (lambda: functional.smooth_calibration_error(torch.zeros(2, 5)), r"nodes must have shape \[2, 2049\]"),
        (lambda: functional.residual_nodes(torch.zeros(2), torch.zeros(3)), "correct must have the shape of"),
        (lambda: functional.adaptive_calibration_error(torch.zeros(0), torch.zeros(0)), r"the same shape \[N\]"),
        (
            lambda: functional.adaptive_calibration_error(torch.zeros(2), torch.zeros(2), 0),
            "num_bins must be a positive",
        ),
        (lambda: functional.class_bins(torch.zeros(2, 3), torch.zeros(3).long()), r"target must have shape \[2\]"),
    ],
)
def test_invalid_arguments(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
    with pytest.raises(TypeError, match="target must hold integer class indices"):
        functional.class_bins(torch.zeros(2, 3), torch.zeros(2))
