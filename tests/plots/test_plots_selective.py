"""Drawn data of the risk-coverage and score plots against independent computations."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from lightning_vi.evaluation import SelectivePrediction
from lightning_vi.plots import plot_ood_scores, plot_risk_coverage

RNG = np.random.default_rng(0)
LOSS = RNG.exponential(size=200)
USEFUL, USELESS = LOSS + RNG.exponential(size=200), RNG.normal(size=200)
INSIDE, OUTSIDE = RNG.normal(size=300), 1 + RNG.normal(size=70)


def risks(uncertainty: np.ndarray, loss: np.ndarray) -> np.ndarray:
    return np.cumsum(loss[np.argsort(uncertainty)]) / np.arange(1, len(loss) + 1)


def test_several_scores_share_one_optimal_ranking() -> None:
    ax = plot_risk_coverage({"useful": USEFUL, "useless": USELESS}, LOSS).axes[0]
    expected = [risks(ranking, LOSS) for ranking in (USEFUL, USELESS, LOSS)]
    for line, risk in zip(ax.lines, expected, strict=True):
        np.testing.assert_allclose(line.get_xdata(), np.arange(1, 201) / 200)
        np.testing.assert_allclose(line.get_ydata(), risk)
    labels = ["useful", "useless", "Best order"]
    areas = [f"{label}, AURC = {risk.mean():.3g}" for label, risk in zip(labels, expected, strict=True)]
    assert [line.get_label() for line in ax.lines] == areas
    assert [line.is_dashed() for line in ax.lines] == [False, False, True]


def test_several_methods_have_their_own_optimal_rankings() -> None:
    other = 3 * LOSS[::-1]
    ax = plot_risk_coverage({"a": USEFUL, "b": USELESS}, {"b": other, "a": LOSS}).axes[0]
    pairs = [(USEFUL, LOSS), (LOSS, LOSS), (USELESS, other), (other, other)]
    for line, pair in zip(ax.lines, pairs, strict=True):
        np.testing.assert_allclose(line.get_ydata(), risks(*pair))
    assert [line.is_dashed() for line in ax.lines] == [False, True, False, True]
    assert ax.lines[0].get_color() == ax.lines[1].get_color() != ax.lines[2].get_color() == ax.lines[3].get_color()


def test_a_single_curve_needs_no_name() -> None:
    ax = plot_risk_coverage(USEFUL, LOSS > 1).axes[0]
    risk = risks(USEFUL, (LOSS > 1).astype(float))
    assert ax.lines[0].get_label() == f"AURC = {risk.mean():.3g}"
    assert len(ax.lines) == 2


def test_many_points_are_thinned_and_outliers_at_small_coverage_do_not_set_the_limits() -> None:
    loss = np.ones(50_000)
    loss[0] = 1000.0
    ax = plot_risk_coverage(np.arange(50_000), loss).axes[0]
    assert len(ax.lines[0].get_xdata()) <= 2000
    assert ax.lines[0].get_xdata()[-1] == 1
    assert ax.get_ylim()[1] < 2


@pytest.mark.parametrize("count", [1, 2])
def test_few_points_without_any_loss(count: int) -> None:
    assert plot_risk_coverage(np.arange(count), np.zeros(count)).axes[0].lines[0].get_ydata().tolist() == [0] * count


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (({}, LOSS), "uncertainty must have at least one curve, got none"),
        (({"a": USEFUL}, {"b": LOSS}), r"loss must have the names of uncertainty, \['a'\], got \['b'\]"),
        ((USEFUL, {"b": LOSS}), r"loss must have the names of uncertainty, \[''\], got \['b'\]"),
        (({"a": USEFUL}, LOSS[1:]), r"loss must have shape \[200\] or \[200, 1\], as long as uncertainty of a, got"),
        ((USEFUL.reshape(100, 2), LOSS), r"uncertainty must have shape \[N\] or \[N, 1\], got \(100, 2\)"),
        (({"a": USEFUL, "b": USEFUL * np.nan}, LOSS), "uncertainty of b must be finite, got 200 NaN"),
    ],
)
def test_risk_coverage_rejects_invalid_input(arguments: tuple[Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_risk_coverage(*arguments)


def test_histograms_are_normalized_and_share_their_bins() -> None:
    ax = plot_ood_scores(INSIDE, OUTSIDE, n_bins=11).axes[0]
    edges = np.linspace(min(INSIDE.min(), OUTSIDE.min()), max(INSIDE.max(), OUTSIDE.max()), 12)
    for container, scores in zip(ax.containers, (INSIDE, OUTSIDE), strict=True):
        np.testing.assert_allclose([bar.get_x() for bar in container], edges[:-1])
        np.testing.assert_allclose(
            [bar.get_height() for bar in container], np.histogram(scores, edges)[0] / len(scores), atol=1e-12
        )


def test_metrics_in_the_title_equal_scikit_learn() -> None:
    area = roc_auc_score(np.repeat([0, 1], [300, 70]), np.concatenate([INSIDE, OUTSIDE]))
    threshold = np.sort(OUTSIDE)[70 - 67]  # 67 of 70 is the smallest number that reaches 95%
    rate = np.mean(threshold <= INSIDE)
    ax = plot_ood_scores(INSIDE, OUTSIDE).axes[0]
    assert ax.get_title(loc="right") == f"AUROC = {area:.3f}, FPR95 = {rate:.3f}"


def test_equal_scores_and_invalid_bins() -> None:
    assert plot_ood_scores(np.zeros(4), np.zeros(3)).axes[0].get_title(loc="right") == "AUROC = 0.500, FPR95 = 1.000"
    with pytest.raises(ValueError, match="n_bins must be at least 1, got 0"):
        plot_ood_scores(INSIDE, OUTSIDE, n_bins=0)


def test_results_of_selective_prediction_bring_their_losses_and_their_name() -> None:
    scores = torch.rand(20), torch.rand(20)
    result = SelectivePrediction(0.0, 0.0, 0.0, scores[0], scores[0], scores[0], scores[1], "squared error")
    ours = plot_risk_coverage(result).axes[0]
    theirs = plot_risk_coverage(*scores, loss_name="squared error").axes[0]
    assert ours.get_ylabel() == theirs.get_ylabel() == "risk (mean squared error of the data kept)"
    for drawn, expected in zip(ours.lines, theirs.lines, strict=True):
        np.testing.assert_array_equal(drawn.get_xydata(), expected.get_xydata())
    several = plot_risk_coverage({"a": result, "b": result}).axes[0]
    assert [str(line.get_label()).split(",")[0] for line in several.lines] == ["a", "a", "b", "b"]
    with pytest.raises(TypeError, match="loss must be given"):
        plot_risk_coverage(scores[0])
    with pytest.raises(TypeError, match="results of selective_prediction have their losses"):
        plot_risk_coverage(result, scores[1])
