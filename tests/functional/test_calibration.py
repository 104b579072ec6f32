"""Temperatures, conformal quantiles and adaptive scores against brute force and loops."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.functional.calibration import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    adaptive_set_scores,
    best_temperature,
    conformal_quantile,
    log_odds_against,
    temper,
)


def logits_and_labels(size: int, temperature: float, num_classes: int = 4) -> tuple[Tensor, Tensor]:
    """Logits z, and labels from softmax(z / T)."""
    logits = 3 * torch.randn(size, num_classes, dtype=torch.float64)
    return logits, torch.multinomial((logits / temperature).softmax(1), 1).squeeze(1)


def nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    return torch.nn.functional.cross_entropy(logits / temperature, labels).item()


def fitted(logits: Tensor, labels: Tensor) -> float:
    return best_temperature(log_odds_against(logits.log_softmax(1), labels)).item()


@pytest.mark.parametrize("true_temperature", [0.3, 1.0, 2.5])
def test_temperature_is_recovered_up_to_its_standard_error(true_temperature: float) -> None:
    """The Fisher information of 1/T is the variance of the logits under the tempered probabilities."""
    size = 20_000
    logits, labels = logits_and_labels(size, true_temperature)
    probs = (logits / true_temperature).softmax(1)
    information = size * ((probs * logits**2).sum(1) - (probs * logits).sum(1) ** 2).mean().item()
    inverse = 1 / fitted(logits, labels)
    assert abs(inverse - 1 / true_temperature) < 4 / math.sqrt(information)
    assert 4 / math.sqrt(information) < 0.1 / true_temperature


@pytest.mark.parametrize("size", [12, 200])
@pytest.mark.parametrize("true_temperature", [0.8, 1.5, 5.0])
def test_temperature_agrees_with_a_numerical_search(size: int, true_temperature: float) -> None:
    logits, labels = logits_and_labels(size, true_temperature)
    found = scipy.optimize.minimize_scalar(
        lambda log_t: nll(logits, labels, math.exp(log_t)),
        bounds=(math.log(MIN_TEMPERATURE), math.log(MAX_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-10},
    )
    temperature = fitted(logits, labels)
    assert nll(logits, labels, temperature) <= found.fun + 1e-12
    assert temperature == pytest.approx(math.exp(found.x), rel=1e-4)


def test_slope_of_the_likelihood_is_zero_to_rounding() -> None:
    logits, labels = logits_and_labels(500, 2.0)
    inverse = torch.tensor(1 / fitted(logits, labels), dtype=torch.float64, requires_grad=True)
    torch.nn.functional.cross_entropy(logits * inverse, labels).backward()
    assert abs(inverse.grad.item()) < 1e-13


def test_float32_gives_the_same_temperature() -> None:
    logits, labels = logits_and_labels(500, 2.0)
    odds = log_odds_against(logits.float().log_softmax(1), labels)
    assert best_temperature(odds).dtype == torch.float32
    assert best_temperature(odds).item() == pytest.approx(fitted(logits, labels), rel=1e-5)


def test_positions_are_pooled() -> None:
    logits, labels = logits_and_labels(60, 2.0)
    expected = fitted(logits, labels)
    images = logits.view(10, 2, 3, 4).movedim(-1, 1)
    odds = log_odds_against(images.log_softmax(1), labels.view(10, 2, 3))
    assert odds.shape == images.shape
    assert best_temperature(odds).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scale", [1.0, 50.0, 2000.0])
def test_perfect_and_uninformative_predictions_stay_within_bounds(scale: float) -> None:
    logits = scale * torch.randn(30, 3)
    perfect = best_temperature(log_odds_against(logits.log_softmax(1), logits.argmax(1)))
    uninformative = best_temperature(log_odds_against(logits.log_softmax(1), logits.argmin(1)))
    assert MIN_TEMPERATURE * 0.999 <= perfect <= 1
    assert uninformative == pytest.approx(MAX_TEMPERATURE)
    assert perfect == pytest.approx(MIN_TEMPERATURE) or scale > 1


def test_uniform_predictions_have_temperature_one() -> None:
    assert best_temperature(log_odds_against(torch.full((5, 4), 0.25).log(), torch.arange(5) % 4)) == 1


def test_tempered_log_probabilities_are_those_of_tempered_logits() -> None:
    logits = torch.randn(6, 3, 2)
    assert_close(temper(logits.log_softmax(1), 2.5), (logits / 2.5).log_softmax(1))
    assert_close(temper(logits.log_softmax(-1), 2.5, dim=-1), (logits / 2.5).log_softmax(-1))
    assert_close(temper(torch.tensor([[1.0, 0.0, 0.0]]).log(), 3.0).exp(), torch.tensor([[1.0, 0.0, 0.0]]))


def test_probabilities_that_underflow_keep_their_log_odds() -> None:
    log_probs = torch.tensor([[0.0, -200.0], [-200.0, 0.0]]).log_softmax(1)
    assert log_probs.exp().amin() == 0
    odds = log_odds_against(log_probs, torch.tensor([1, 1]))
    assert odds.tolist() == [[200.0, 0.0], [-200.0, 0.0]]
    assert_close(temper(log_probs, 50.0), torch.tensor([[0.0, -4.0], [-4.0, 0.0]]).log_softmax(1))


def test_the_temperature_of_probabilities_that_underflow() -> None:
    """With 9 of 10 labels as predicted, the tempered log-odds 200 / T are log(9)."""
    log_probs = torch.tensor([[0.0, -200.0]]).log_softmax(1).expand(10, 2)
    temperature = best_temperature(log_odds_against(log_probs, torch.tensor([0] * 9 + [1])))
    assert temperature.item() == pytest.approx(200 / math.log(9), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_excluded_classes_do_not_change_the_temperature(dtype: torch.dtype) -> None:
    logits, labels = logits_and_labels(200, 2.0)
    masked = torch.cat([logits, torch.full((200, 1), -math.inf)], 1).to(dtype).log_softmax(1)
    assert best_temperature(log_odds_against(masked, labels)).item() == pytest.approx(fitted(logits, labels), rel=1e-5)
    assert log_odds_against(masked.half(), labels).isfinite().all()


@pytest.mark.parametrize("coverage", [0.05, 0.1, 0.5, 0.55, 0.7, 0.9, 0.95, 0.99])
def test_conformal_quantile_agrees_with_exact_arithmetic(coverage: float) -> None:
    exact = Fraction(str(coverage))
    for size in range(1, 130):
        scores = torch.randperm(size).double()
        rank = math.ceil((size + 1) * exact)
        expected = math.inf if rank > size else sorted(scores.tolist())[rank - 1]
        assert conformal_quantile(scores, coverage).item() == expected, (size, coverage)


def test_conformal_quantiles_of_several_targets_and_of_ties() -> None:
    scores = torch.tensor([[1.0, 5.0], [1.0, 7.0], [1.0, 6.0], [2.0, 8.0]])
    assert conformal_quantile(scores, 0.6).tolist() == [1.0, 7.0]
    assert conformal_quantile(scores, 0.8).tolist() == [2.0, 8.0]
    assert conformal_quantile(scores, 0.81).tolist() == [math.inf, math.inf]
    assert conformal_quantile(scores[:0], 0.5).tolist() == [math.inf, math.inf]


def loop_scores(probs: np.ndarray, penalty: float, allowed_size: int, uniform: float) -> list[float]:
    """Romano et al. (2020) and Angelopoulos et al. (2021), algorithm 2, class by class."""
    result = []
    for label in range(len(probs)):
        more_likely = [k for k in range(len(probs)) if (-probs[k], k) < (-probs[label], label)]
        rank = len(more_likely) + 1
        mass = sum(probs[k] for k in more_likely)
        result.append(mass + uniform * probs[label] + penalty * max(0, rank - allowed_size))
    return result


@pytest.mark.parametrize(("penalty", "allowed_size"), [(0.0, 1), (0.1, 1), (0.3, 2), (0.3, 0)])
def test_adaptive_scores_agree_with_a_loop(penalty: float, allowed_size: int) -> None:
    probs = torch.randn(40, 5, dtype=torch.float64).softmax(1)
    probs[:5] = torch.tensor([0.2, 0.3, 0.0, 0.3, 0.2])
    uniforms = torch.rand(40, 1, dtype=torch.float64)
    scores = adaptive_set_scores(probs, penalty, allowed_size, uniforms)
    plain = adaptive_set_scores(probs, penalty, allowed_size)
    for row in range(40):
        for actual, uniform in ((scores, uniforms[row].item()), (plain, 1.0)):
            expected = loop_scores(probs[row].numpy(), penalty, allowed_size, uniform)
            np.testing.assert_allclose(actual[row].numpy(), expected, rtol=0, atol=2**-20)


def test_adaptive_scores_of_positions() -> None:
    probs, uniforms = torch.randn(4, 3, 2, 5).softmax(1), torch.rand(4, 1, 2, 5)
    scores = adaptive_set_scores(probs, 0.2, 1, uniforms)
    flat = adaptive_set_scores(probs.movedim(1, -1).reshape(-1, 3), 0.2, 1, uniforms.movedim(1, -1).reshape(-1, 1))
    assert_close(scores.movedim(1, -1).reshape(-1, 3), flat)


def test_rounding_keeps_equal_scores_equal() -> None:
    """The score of the least probable class is 1 in every row."""
    probs = torch.randn(500, 7).softmax(1)
    assert (probs.sort(1, descending=True).values.cumsum(1)[:, -1] != 1).any()
    assert (adaptive_set_scores(probs).amax(1) == 1).all()
