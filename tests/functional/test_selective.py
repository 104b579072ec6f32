"""Selective prediction and detection against their definitions and scikit-learn."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from lightning_vi.functional import (
    area_under_risk_coverage,
    auroc,
    excess_area_under_risk_coverage,
    false_positive_rate,
    risk_coverage_curve,
)
from lightning_vi.functional.selective import count_that_reaches

SCORES = st.lists(st.integers(0, 6), min_size=1, max_size=30)


def risks_of_order(losses: list[float]) -> list[float]:
    return [math.fsum(losses[:k]) / k for k in range(1, len(losses) + 1)]


def risks_over_all_orders_of_ties(uncertainty: list[float], loss: list[float]) -> np.ndarray:
    """The mean risk at each coverage over all orders of the rows by certainty."""
    orders = [
        order
        for order in itertools.permutations(range(len(loss)))
        if all(uncertainty[i] <= uncertainty[j] for i, j in itertools.pairwise(order))
    ]
    return np.mean([risks_of_order([loss[i] for i in order]) for order in orders], axis=0)


def best_area(loss: list[float]) -> float:
    return min(float(np.mean(risks_of_order(list(order)))) for order in itertools.permutations(loss))


def labels_and_scores(scores_in: Tensor, scores_out: Tensor) -> tuple[np.ndarray, np.ndarray]:
    labels = np.concatenate([np.zeros(len(scores_in)), np.ones(len(scores_out))])
    return labels, torch.cat([scores_in, scores_out]).double().numpy()


class TestRiskCoverage:
    @pytest.mark.parametrize(
        "uncertainty",
        [[3, 1, 2, 5, 4, 0], [1, 1, 1, 1, 1, 1], [0, 1, 1, 0, 2, 2], [7, 7, 7, 1, 2, 3], [0, 0, 0, 0, 1, 1]],
    )
    @pytest.mark.parametrize("loss", [[0, 1, 1, 0, 1, 0], [0.3, 2.5, 0.0, 7.0, 1.1, 0.7], [0, 0, 0, 0, 0, 0]])
    def test_curve_and_areas_average_over_all_orders_of_ties(self, uncertainty: list[float], loss: list[float]) -> None:
        expected = risks_over_all_orders_of_ties(uncertainty, loss)
        scores, losses = torch.tensor(uncertainty, dtype=torch.float64), torch.tensor(loss, dtype=torch.float64)
        coverage, risk = risk_coverage_curve(scores, losses)
        np.testing.assert_allclose(coverage, np.arange(1, 7) / 6)
        np.testing.assert_allclose(risk, expected, atol=1e-14)
        np.testing.assert_allclose(area_under_risk_coverage(scores, losses), expected.mean())
        excess = excess_area_under_risk_coverage(scores, losses)
        np.testing.assert_allclose(excess, expected.mean() - best_area(loss), atol=1e-14)

    @settings(deadline=None)
    @given(st.data(), SCORES)
    def test_order_of_the_rows_does_not_matter(self, data: st.DataObject, uncertainty: list[int]) -> None:
        losses = data.draw(st.lists(st.integers(0, 3), min_size=len(uncertainty), max_size=len(uncertainty)))
        order = data.draw(st.permutations(range(len(uncertainty))))
        scores, loss = torch.tensor(uncertainty).float(), torch.tensor(losses).float()
        torch.testing.assert_close(
            risk_coverage_curve(scores[order], loss[order]), risk_coverage_curve(scores, loss), rtol=1e-6, atol=1e-6
        )

    @settings(deadline=None)
    @given(SCORES)
    def test_only_the_order_of_the_scores_matters(self, uncertainty: list[int]) -> None:
        scores = torch.tensor(uncertainty, dtype=torch.float64)
        loss = torch.arange(len(uncertainty)) % 3
        assert area_under_risk_coverage(scores, loss) == area_under_risk_coverage(scores.exp() - 5, loss)

    def test_one_tie_has_the_mean_loss_at_every_coverage(self) -> None:
        _, risk = risk_coverage_curve(torch.zeros(8), torch.tensor([1.0, 0, 0, 0, 0, 0, 0, 1]))
        assert risk.tolist() == [0.25] * 8

    def test_excess_of_the_best_and_the_worst_order(self) -> None:
        loss = torch.tensor([0.0, 0.0, 1.0, 0.0, 3.0])
        assert excess_area_under_risk_coverage(loss, loss) == 0
        assert excess_area_under_risk_coverage(loss.exp(), loss) == 0
        worst = excess_area_under_risk_coverage(-loss, loss)
        assert worst == pytest.approx(float(np.mean(risks_of_order([3, 1, 0, 0, 0]))) - best_area(loss.tolist()))

    def test_float32_is_accurate_for_many_rows(self) -> None:
        count = 300_000
        uncertainty = torch.arange(count).flip(0) // 3
        loss = 1 + 0.5 * torch.sin(torch.arange(count, dtype=torch.float64))
        area = area_under_risk_coverage(uncertainty.float(), loss.float())
        averaged = np.repeat(loss.numpy().reshape(-1, 3).mean(1), 3)[::-1]
        expected = (np.cumsum(averaged) / np.arange(1, count + 1)).mean()
        assert area.dtype == torch.float32
        assert float(area) == pytest.approx(expected, rel=1e-6)

    def test_infinite_uncertainty_comes_last_and_infinite_loss_is_infinite_risk(self) -> None:
        uncertainty = torch.tensor([math.inf, 0.0, math.inf, -math.inf])
        _, risk = risk_coverage_curve(uncertainty, torch.tensor([4.0, 1.0, 2.0, 0.0]))
        assert risk.tolist() == pytest.approx([0, 1 / 2, 4 / 3, 7 / 4])
        _, risk = risk_coverage_curve(torch.arange(4.0), torch.tensor([1.0, math.inf, 1.0, 1.0]))
        assert risk.tolist() == [1, math.inf, math.inf, math.inf]

    def test_nan_gives_nan(self) -> None:
        nan, fine = torch.tensor([0.1, math.nan, 0.3]), torch.tensor([0.0, 1.0, 0.0])
        assert risk_coverage_curve(nan, fine)[1].isnan().all()
        assert area_under_risk_coverage(fine, nan).isnan()
        assert excess_area_under_risk_coverage(nan, fine).isnan()

    def test_gradient_of_the_loss(self) -> None:
        loss = torch.tensor([0.3, 0.2, 0.9, 0.4], dtype=torch.float64, requires_grad=True)
        uncertainty = torch.tensor([0.0, 1.0, 1.0, 2.0])
        assert torch.autograd.gradcheck(lambda loss: area_under_risk_coverage(uncertainty, loss), loss)

    @pytest.mark.parametrize(
        ("uncertainty", "loss", "message"),
        [
            (torch.zeros(2, 1), torch.zeros(2, 1), r"uncertainty must have shape \[N\] with N >= 1, got \[2, 1\]"),
            (torch.zeros(0), torch.zeros(0), r"uncertainty must have shape \[N\] with N >= 1, got \[0\]"),
            (torch.zeros(2), torch.zeros(3), r"loss must have the shape of uncertainty \[2\], got \[3\]"),
            (torch.zeros(2), torch.zeros(2, 1), r"loss must have the shape of uncertainty \[2\], got \[2, 1\]"),
        ],
    )
    def test_wrong_shapes_are_errors(self, uncertainty: Tensor, loss: Tensor, message: str) -> None:
        for function in (risk_coverage_curve, area_under_risk_coverage):
            with pytest.raises(ValueError, match=message):
                function(uncertainty, loss)


class TestDetection:
    @settings(deadline=None)
    @given(SCORES, SCORES)
    def test_auroc_counts_pairs(self, scores_in: list[int], scores_out: list[int]) -> None:
        wins = [Fraction(1 + (b > a) - (b < a), 2) for a in scores_in for b in scores_out]
        area = auroc(torch.tensor(scores_in), torch.tensor(scores_out))
        assert float(area) == pytest.approx(float(sum(wins) / len(wins)), abs=1e-7)

    @settings(deadline=None)
    @given(SCORES, SCORES, st.sampled_from([0.05, 0.5, 0.8, 0.95, 1.0]))
    def test_equal_scikit_learn(self, scores_in: list[int], scores_out: list[int], rate: float) -> None:
        inside, outside = torch.tensor(scores_in).double(), torch.tensor(scores_out).double()
        labels, scores = labels_and_scores(inside, outside)
        assert float(auroc(inside, outside)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
        false_positives, true_positives, _ = roc_curve(labels, scores, drop_intermediate=False)
        expected = false_positives[np.argmax(true_positives >= rate)]
        assert float(false_positive_rate(inside, outside, rate)) == pytest.approx(expected, abs=1e-12)

    def test_equal_scikit_learn_on_many_float32_scores(self) -> None:
        generator = torch.Generator().manual_seed(0)
        inside = torch.randn(40_000, generator=generator)
        outside = (0.5 + torch.randn(70_000, generator=generator)).round(decimals=1)
        labels, scores = labels_and_scores(inside, outside)
        assert float(auroc(inside, outside)) == pytest.approx(roc_auc_score(labels, scores), abs=1e-7)
        false_positives, true_positives, _ = roc_curve(labels, scores, drop_intermediate=False)
        expected = false_positives[np.argmax(true_positives >= 0.95)]
        assert float(false_positive_rate(inside, outside)) == pytest.approx(expected, abs=1e-7)

    def test_separated_and_equal_scores(self) -> None:
        near, far = torch.linspace(0, 1, 7), torch.linspace(2, 3, 3)
        assert (auroc(near, far), auroc(far, near), auroc(near, near)) == (1, 0, 0.5)
        assert (false_positive_rate(near, far), false_positive_rate(far, near)) == (0, 1)

    def test_number_of_pairs_beyond_the_integers_of_float32(self) -> None:
        assert auroc(torch.zeros(30_011), torch.ones(30_013)) == 1
        assert auroc(torch.zeros(30_011), torch.zeros(30_013)) == 0.5

    def test_exchanged_classes(self) -> None:
        inside, outside = torch.tensor([0.0, 1.0, 2.0, 5.0]), torch.tensor([1.0, 3.0, 4.0])
        torch.testing.assert_close(auroc(-outside, -inside), auroc(inside, outside))
        # Three quarters of the in-distribution data have scores up to 2, and so has one of three others.
        assert float(false_positive_rate(-outside, -inside, 0.75)) == pytest.approx(1 / 3)
        assert float(false_positive_rate(inside, outside, 0.75)) == pytest.approx(3 / 4)

    @pytest.mark.parametrize("position", [0, 1])
    def test_nan_gives_nan(self, position: int) -> None:
        scores = [torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1.0])]
        scores[position][1] = math.nan
        assert auroc(*scores).isnan()
        assert false_positive_rate(*scores).isnan()

    @pytest.mark.parametrize("rate", [0.0, -0.5, 1.5, math.nan, 95])
    def test_wrong_rate_is_an_error(self, rate: float) -> None:
        with pytest.raises(ValueError, match=r"true_positive_rate must be above 0 and at most 1, got "):
            false_positive_rate(torch.zeros(2), torch.zeros(2), rate)

    @pytest.mark.parametrize("function", [auroc, false_positive_rate])
    def test_wrong_shapes_are_errors(self, function) -> None:
        with pytest.raises(ValueError, match=r"scores_in must have shape \[N\] with N >= 1, got \[2, 1\]"):
            function(torch.zeros(2, 1), torch.zeros(2))
        with pytest.raises(ValueError, match=r"scores_out must have shape \[N\] with N >= 1, got \[0\]"):
            function(torch.zeros(2), torch.zeros(0))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int64])
@pytest.mark.parametrize(
    "function", [area_under_risk_coverage, excess_area_under_risk_coverage, auroc, false_positive_rate]
)
def test_dtypes_and_tensors_without_values(function, dtype: torch.dtype) -> None:
    a, b = torch.tensor([0, 3, 1, 2, 2], dtype=dtype), torch.tensor([1, 4, 0, 2, 7], dtype=dtype)
    value = function(a, b)
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(value) == pytest.approx(float(function(a.double(), b.double())))
    assert function(a.to("meta"), b.to("meta")).device.type == "meta"


@pytest.mark.parametrize("total", [1, 2, 7, 20, 60, 99, 100, 1000, 12_345])
def test_smallest_count_that_reaches_the_share(total: int) -> None:
    for share in [*np.linspace(0.005, 1, 200), 1e-9]:
        expected = next(count for count in range(1, total + 1) if count / total >= share)
        assert count_that_reaches(float(share), total) == expected
