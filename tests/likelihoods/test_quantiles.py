"""Predicted quantiles: the pinball loss against brute force, and predictions."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch.testing import assert_close

from lightning_vi.functional import RunningMoments
from lightning_vi.likelihoods import Quantiles

LEVELS = (0.1, 0.35, 0.5, 0.8)
MEAN, STD = torch.tensor([100.0, -3.0]), torch.tensor([25.0, 0.2])


@pytest.mark.parametrize("size", [9, 40])
def test_best_constant_is_the_empirical_quantile(size: int) -> None:
    """The mean pinball loss is minimal at an order statistic of the data."""
    y = torch.distributions.StudentT(2.0).sample((size, 1)).double()
    likelihood = Quantiles(LEVELS)
    for index, level in enumerate(LEVELS):
        losses = []
        for candidate in y[:, 0]:
            constant = y.new_zeros(len(LEVELS))
            constant[index] = candidate
            losses.append(likelihood.point_loss(constant.expand(1, size, len(LEVELS)), y).item())
        best = np.array(losses).min()
        optimal = [value for value, loss in zip(y[:, 0].tolist(), losses, strict=True) if loss < best + 1e-12]
        assert min(optimal) == pytest.approx(np.quantile(y.numpy(), level, method="inverted_cdf"))


def test_loss_agrees_with_a_loop() -> None:
    likelihood = Quantiles(LEVELS, num_targets=2)
    outputs, y = torch.randn(1, 7, 3, 8, dtype=torch.float64), torch.randn(7, 3, 2, dtype=torch.float64)
    expected = 0.0
    for row in range(7):
        for position in range(3):
            for index, level in enumerate(LEVELS):
                for target in range(2):
                    u = (y[row, position, target] - outputs[0, row, position, 2 * index + target]).item()
                    expected += level * u if u > 0 else (level - 1) * u
    assert likelihood.point_loss(outputs, y).item() == pytest.approx(expected / 7)


def test_loss_is_in_the_units_of_the_network() -> None:
    plain, scaled = Quantiles(LEVELS, 2), Quantiles(LEVELS, 2)
    scaled.set_target_scaling(MEAN, STD)
    outputs, y = torch.randn(1, 7, 8), torch.randn(7, 2)
    assert_close(scaled.point_loss(outputs, y * STD + MEAN), plain.point_loss(outputs, y), rtol=1e-4, atol=1e-4)


def test_crossing_quantiles_are_sorted_for_predictions_only() -> None:
    likelihood = Quantiles((0.25, 0.5, 0.75))
    crossed = torch.tensor([[[3.0, 1.0, 2.0]]])
    assert likelihood.quantiles(crossed).flatten().tolist() == [1.0, 2.0, 3.0]
    mean, _ = likelihood.predictive_moments(crossed)
    assert mean.item() == 2.0
    y = torch.tensor([[0.0]])
    assert likelihood.point_loss(crossed, y).item() == pytest.approx(0.75 * 3 + 0.5 * 1 + 0.25 * 2)


def test_quantiles_of_a_gaussian_give_its_moments() -> None:
    likelihood = Quantiles(LEVELS, 2)
    likelihood.set_target_scaling(MEAN, STD)
    center, spread = torch.randn(6, 2), torch.rand(6, 2) + 0.1
    z = torch.tensor(scipy.stats.norm.ppf(LEVELS), dtype=torch.float32)
    outputs = torch.cat([center + each * spread for each in z], -1).unsqueeze(0)
    means, variances = likelihood.predictive_moments(outputs)
    assert_close(means[0], center * STD + MEAN)
    assert_close(variances[0].sqrt(), spread * STD)
    assert_close(likelihood.quantiles(outputs)[0, :, 3], (center + z[3] * spread) * STD + MEAN)
    y = torch.randn(6, 2) * STD + MEAN
    expected = torch.distributions.Normal(means[0], spread * STD).log_prob(y).sum(1)
    assert_close(likelihood.log_prob(outputs, y)[0], expected, rtol=1e-4, atol=1e-4)
    moments = RunningMoments()
    moments.update(means)
    prediction = likelihood.prediction(moments, variances.mean(0))
    assert_close(prediction.total_var, prediction.aleatoric_var)


def test_equal_quantiles_have_the_smallest_spread() -> None:
    _, variance = Quantiles().predictive_moments(torch.ones(1, 2, 3))
    assert_close(variance.sqrt(), torch.full((1, 2, 1), 1e-3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": (0.0, 0.5, 0.9)}, r"levels must lie strictly between 0 and 1, got \(0.0, 0.5, 0.9\)"),
        ({"levels": (0.1, 0.5, 1.0)}, "levels must lie strictly between 0 and 1"),
        ({"levels": (0.9, 0.5, 0.1)}, "levels must be in ascending order, each once"),
        ({"levels": (0.1, 0.5, 0.5, 0.9)}, "levels must be in ascending order, each once"),
        ({"levels": (0.1, 0.9)}, "levels must have 0.5, and one on either side of it"),
        ({"levels": (0.5, 0.9)}, "levels must have 0.5, and one on either side of it"),
        ({"levels": ()}, "levels must have 0.5, and one on either side of it"),
        ({"num_targets": 0}, "num_targets must be positive, got 0"),
    ],
)
def test_wrong_arguments_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Quantiles(**options)


def test_wrong_widths_are_errors() -> None:
    likelihood = Quantiles(num_targets=2)
    with pytest.raises(ValueError, match="needs network outputs of width 6, got 3"):
        likelihood.check(torch.zeros(1, 4, 3), torch.zeros(4, 2))
