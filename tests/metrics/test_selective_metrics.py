"""Ranking metrics against scikit-learn and plain loops."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score, roc_curve
from torch import Tensor

from lightning_vi import functional
from lightning_vi.metrics import AURC, OODAUROC, ExcessAURC, OODFalsePositiveRate

CUTS = [0, 1, 40, 40, 300]


def data() -> tuple[Tensor, Tensor]:
    """Scores, every second one rounded so that there are ties, and binary labels; large scores are more often 1."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(300, generator=generator)
    scores[::2] = scores[::2].round(decimals=1)
    return scores, (torch.rand(300, generator=generator) < scores.sigmoid()).long()


def test_selective_metrics_equal_the_functions_of_all_data() -> None:
    uncertainty, loss = data()
    area, excess = AURC(), ExcessAURC()
    for start, stop in itertools.pairwise(CUTS):
        for metric in (area, excess):
            metric.update(uncertainty[start:stop], loss[start:stop])
    assert area.compute() == functional.area_under_risk_coverage(uncertainty, loss)
    assert excess.compute() == functional.excess_area_under_risk_coverage(uncertainty, loss)
    assert 0.05 < float(excess.compute()) < float(area.compute()) < float(loss.float().mean())


def test_aurc_without_ties_equals_a_loop() -> None:
    uncertainty, loss = torch.randperm(50, generator=torch.Generator().manual_seed(0)).float(), torch.rand(50)
    order = np.argsort(uncertainty.numpy())
    expected = np.mean([np.mean(loss.double().numpy()[order[:k]]) for k in range(1, 51)])
    assert float(AURC()(uncertainty, loss)) == pytest.approx(expected, rel=1e-6)


def test_detection_metrics_equal_scikit_learn() -> None:
    scores, target = data()
    area, rate = OODAUROC(), OODFalsePositiveRate(0.8)
    for start, stop in itertools.pairwise(CUTS):
        area.update(scores[start:stop], target[start:stop])
        rate.update(scores[start:stop], target[start:stop].bool())
    assert float(area.compute()) == pytest.approx(roc_auc_score(target, scores), abs=1e-6)
    false_positives, true_positives, _ = roc_curve(target, scores, drop_intermediate=False)
    expected = false_positives[np.argmax(true_positives >= 0.8)]
    assert float(rate.compute()) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_data_of_one_class_are_nan(label: int) -> None:
    for metric in (OODAUROC(), OODFalsePositiveRate()):
        metric.update(torch.rand(5), torch.full((5,), label))
        assert metric.compute().isnan()


def test_invalid_arguments_are_rejected_and_change_nothing() -> None:
    with pytest.raises(ValueError, match=r"true_positive_rate must be above 0 and at most 1, got 95"):
        OODFalsePositiveRate(95)
    metric, detector = AURC(), OODAUROC()
    with pytest.raises(ValueError, match=r"uncertainty and loss must have the same shape \[B\], got .*\[2\].*\[3\]"):
        metric.update(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"scores and target must have the same shape \[B\], got .*\[2, 1\]"):
        detector.update(torch.zeros(2, 1), torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(TypeError, match=r"target must hold integers 0 and 1 or booleans, got dtype torch.float32"):
        detector.update(torch.zeros(2), torch.zeros(2))
    assert metric.loss == metric.uncertainty == detector.scores == detector.target == []
