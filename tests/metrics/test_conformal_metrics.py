"""Metrics of prediction intervals and prediction sets against values counted by hand."""

import pytest
import torch

from lightning_vi.metrics import (
    PredictionIntervalCoverage,
    PredictionIntervalWidth,
    PredictionSetCoverage,
    PredictionSetSize,
)

LOWER, UPPER = torch.tensor([[0.0, 1.0], [0.0, -torch.inf]]), torch.tensor([[1.0, 1.0], [3.0, 5.0]])
TARGET = torch.tensor([[1.0, 1.5], [-0.1, 5.0]])
SETS = torch.tensor([[True, False, False], [True, True, True], [False, True, False], [False, False, True]])
LABELS = torch.tensor([0, 2, 0, 1])


def test_endpoints_belong_to_the_interval() -> None:
    coverage, width = PredictionIntervalCoverage(), PredictionIntervalWidth()
    coverage.update(LOWER, UPPER, TARGET)
    assert coverage.compute() == 2 / 4
    width.update(LOWER[:, :1], UPPER[:, :1])
    assert width.compute() == 2.0
    width.update(LOWER, UPPER)
    assert width.compute() == torch.inf


def test_nan_is_outside_of_the_interval() -> None:
    coverage = PredictionIntervalCoverage()
    coverage.update(LOWER, UPPER, TARGET * torch.nan)
    assert coverage.compute() == 0


def test_coverage_and_size_of_sets() -> None:
    coverage, size = PredictionSetCoverage(), PredictionSetSize()
    coverage.update(SETS, LABELS)
    size.update(SETS)
    assert coverage.compute() == 2 / 4
    assert size.compute() == 6 / 4


def test_coverage_and_size_of_sets_of_pixels() -> None:
    coverage, size = PredictionSetCoverage(), PredictionSetSize()
    coverage.update(SETS.T.unsqueeze(0), LABELS.unsqueeze(0))
    size.update(SETS.T.unsqueeze(0))
    assert coverage.compute() == 2 / 4
    assert size.compute() == 6 / 4


def test_mismatched_shapes_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"lower must have the shape of target \[2, 2\], got \[2, 1\]"):
        PredictionIntervalCoverage().update(LOWER[:, :1], UPPER, TARGET)
    with pytest.raises(ValueError, match=r"upper must have the shape of target \[2, 2\], got \[2, 1\]"):
        PredictionIntervalCoverage().update(LOWER, UPPER[:, :1], TARGET)
    with pytest.raises(ValueError, match=r"lower must have the shape of upper \[2, 2\], got \[1, 2\]"):
        PredictionIntervalWidth().update(LOWER[:1], UPPER)
    with pytest.raises(ValueError, match=r"one class of pred_set must have the shape of target \[3\], got \[4\]"):
        PredictionSetCoverage().update(SETS, LABELS[:3])
