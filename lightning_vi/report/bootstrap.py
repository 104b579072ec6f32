"""Bootstrap confidence intervals of metrics, from what each row of the test data adds to them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_vi.core.scoreboard import update
from lightning_vi.functional.intervals import wilson_interval
from lightning_vi.functional.scoring import top_label, top_label_bins
from lightning_vi.metrics import (
    Accuracy,
    ExpectedCalibrationError,
    IntervalCoverage,
    MeanScore,
    PredictionIntervalCoverage,
    PredictionSetCoverage,
    R2Score,
)
from lightning_vi.report.names import place_of

Floats = npt.NDArray[np.float64]
SHARES = (Accuracy, IntervalCoverage, PredictionIntervalCoverage, PredictionSetCoverage)
NUM_RESAMPLES, LEVEL = 1000, 0.95
MAX_DRAWN = 2**22
"""Most row numbers that are drawn at a time."""


@dataclass(frozen=True)
class RowTerms:
    """A metric as a function of sums over rows.

    Attributes:
        terms: What each row adds, [N, K].
        value: Maps sums, [K], to the metric.
        is_mean: True for a mean, whose resampled values have no bias.
    """

    terms: Floats
    value: Callable[[Floats], float]
    is_mean: bool = True


def bootstrap_interval(
    rows: RowTerms, *, level: float = LEVEL, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Computes a bootstrap confidence interval: the percentiles of the metric over resampled rows.

    Calibration errors of resampled rows are larger on average than that of the rows. For metrics that are no means, the
    interval is moved by this difference.

    Args:
        rows: The metric.
        level: Confidence level.
        num_resamples: Number of times that N rows are drawn with replacement.
        seed: Seed of the draws.

    Returns:
        The ends of the interval; NaN for fewer than two rows.
    """
    size = len(rows.terms)
    if size < 2:
        return float("nan"), float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        return _percentiles(rows, level, num_resamples, np.random.default_rng(seed))


def _percentiles(
    rows: RowTerms, level: float, num_resamples: int, generator: np.random.Generator
) -> tuple[float, float]:
    size = len(rows.terms)
    at_once = max(MAX_DRAWN // size, 1)
    values: list[float] = []
    while len(values) < num_resamples:
        drawn = generator.integers(0, size, (min(at_once, num_resamples - len(values)), size))
        counts = np.stack([np.bincount(each, minlength=size) for each in drawn])
        values += map(rows.value, counts @ rows.terms)
    tail = (1 - level) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    if rows.is_mean:
        return float(low), float(high)
    bias = np.nanmean(values) - rows.value(rows.terms.sum(0))
    floor = 0.0 if np.nanmin(values) >= 0 else -np.inf
    return float(max(low - bias, floor)), float(high - bias)


@dataclass
class RowScores:
    """Metrics of a test set, with what each row adds to them.

    Args:
        metrics: The metrics; they are copied.
    """

    metrics: MetricCollection
    _parts: dict[str, list[Tensor]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.metrics = self.metrics.clone()
        self.metrics.reset()
        for name, metric in self.metrics.items():
            self._parts[name] = []
            if isinstance(metric, MeanScore):
                # Scores pass through this method with one row per datum, whatever the metric is made from.
                metric.__dict__["_accumulate"] = partial(self._record, name, metric)

    def update(self, inputs: Mapping[str, Any], observed: Tensor | None) -> None:
        """Adds a batch.

        Args:
            inputs: See `Likelihood.metric_inputs`.
            observed: True for the elements of the target that are not missing; None if none can be.
        """
        update(self.metrics, inputs, observed)
        for name, metric in self.metrics.items():
            if isinstance(metric, ExpectedCalibrationError):
                self._parts[name].append(_bins_of_rows(metric, inputs["preds"], inputs["target"], observed))
            elif isinstance(metric, R2Score):
                dim = metric.target_dim
                preds, target = (inputs[key].movedim(dim, -1) for key in ("preds", "target"))
                seen = None if observed is None else observed.movedim(dim, -1)
                self._parts[name].append(_moments_of_rows(preds, target, seen))

    def values(self) -> dict[str, float]:
        """Returns the metrics by name, the most important one first; those that are no numbers are left out."""
        found = {_plain(name): torch.as_tensor(value) for name, value in self.metrics.compute().items()}
        return {name: float(found[name]) for name in sorted(found, key=place_of) if found[name].numel() == 1}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """Returns the confidence intervals of the metrics that are functions of sums over rows, by name."""
        known = {name: self._row_terms(name, metric) for name, metric in self.metrics.items() if self._parts[name]}
        return {_plain(name): self._interval(name, rows) for name, rows in known.items()}

    def _interval(self, name: str, rows: RowTerms) -> tuple[float, float]:
        """The bootstrap interval; Wilson's for a share of 0 or 1, which is the same in all resamples."""
        total = rows.terms.sum(0)
        if isinstance(self.metrics[name], SHARES) and len(rows.terms) > 1 and total[0] in (0.0, total[1]):
            ends = wilson_interval(torch.tensor(total[0] / total[1] * len(rows.terms)), torch.tensor(len(rows.terms)))
            return float(ends[0]), float(ends[1])
        return bootstrap_interval(rows)

    def _record(self, name: str, metric: MeanScore, scores: Tensor, observed: Tensor | None = None) -> None:
        rows = scores.detach().double().reshape(len(scores), -1)
        if observed is None:
            total, count = rows.sum(1), torch.full_like(rows[:, 0], rows.shape[1])
        else:
            mask = observed.expand_as(scores).reshape(len(scores), -1)
            total, count = torch.where(mask, rows, 0).sum(1), mask.sum(1).double()
        self._parts[name].append(torch.stack([total, count], 1).cpu())
        MeanScore._accumulate(metric, scores, observed)

    def _row_terms(self, name: str, metric: Metric) -> RowTerms:
        terms = torch.cat(self._parts[name]).numpy()
        if isinstance(metric, MeanScore):
            return RowTerms(terms, lambda sums: float(metric._summarize(torch.tensor(sums[0] / sums[1]))))
        if isinstance(metric, ExpectedCalibrationError):
            return RowTerms(terms, partial(_calibration_error, metric.num_bins), is_mean=False)
        seen, total, square, error = np.split(terms, 4, axis=1)
        center = total.sum(0) / seen.sum(0).clip(1)  # around which the sums of squares do not cancel
        columns = [seen, total - center * seen, square - 2 * center * total + center**2 * seen, error]
        return RowTerms(np.concatenate(columns, 1), _r2, is_mean=False)


def _plain(name: str) -> str:
    return name.removeprefix("test_")


def _bins_of_rows(metric: ExpectedCalibrationError, preds: Tensor, target: Tensor, observed: Tensor | None) -> Tensor:
    """Bins of each row, [B, 3 M]."""
    confidence, correct = top_label(preds, target if observed is None else target * observed)
    rows = [
        top_label_bins(confidence[row], correct[row], metric.num_bins, None if observed is None else observed[row])
        for row in range(len(target))
    ]
    return torch.stack(rows).flatten(1).double().cpu()


def _calibration_error(num_bins: int, sums: Floats) -> float:
    count, confidence, correct = sums.reshape(3, num_bins)
    return float(np.abs(correct - confidence).sum() / count.sum())


def _moments_of_rows(preds: Tensor, target: Tensor, observed: Tensor | None) -> Tensor:
    """Counts, sums of targets, of their squares, and of squared errors of each row, [B, 4 D]."""
    width = target.shape[-1] if target.dim() > 1 else 1
    mask = torch.ones_like(target, dtype=torch.bool) if observed is None else observed
    y = torch.where(mask, target, 0).double().reshape(len(target), -1, width)
    error = torch.where(mask, preds - target, 0).double().reshape(len(target), -1, width)
    seen = mask.reshape(len(target), -1, width).double()
    return torch.cat([seen.sum(1), y.sum(1), y.square().sum(1), error.square().sum(1)], 1).cpu()


def _r2(sums: Floats) -> float:
    count, total, square, error = sums.reshape(4, -1)
    deviation = square - total**2 / count
    return float(np.where(deviation == 0, error == 0, 1 - error / np.where(deviation == 0, 1, deviation)).mean())
