"""Confidence intervals against closed forms, SciPy and scikit-learn."""

import numpy as np
import pytest
import torch
from helpers import normal
from scipy.stats import bootstrap
from sklearn.metrics import r2_score
from torchmetrics import MetricCollection

from lightning_vi.metrics import classification_metrics, regression_metrics
from lightning_vi.report.bootstrap import RowScores, RowTerms, bootstrap_interval


def mean_of(values: np.ndarray) -> RowTerms:
    return RowTerms(np.stack([values, np.ones_like(values)], 1), lambda sums: sums[0] / sums[1])


def scored(metrics: MetricCollection, inputs: dict[str, torch.Tensor], observed: torch.Tensor | None) -> RowScores:
    board = RowScores(metrics)
    for rows in (slice(0, 30), slice(30, None)):
        part = {name: value[:, rows] if name in ("log_prob", "means", "stds") else value[rows]
                for name, value in inputs.items()}  # fmt: skip
        board.update(part, None if observed is None else observed[rows])
    return board


def regression_inputs(rows: int = 80) -> dict[str, torch.Tensor]:
    target = 100 + normal(rows, 2)
    means = target + 0.5 * normal(3, rows, 2)
    stds = torch.full_like(means, 0.7)
    log_prob = torch.distributions.Normal(means, stds).log_prob(target).sum(-1)
    return {"preds": means.mean(0), "target": target, "means": means, "stds": stds, "log_prob": log_prob}


def test_the_interval_of_a_mean_is_that_of_scipy() -> None:
    values = np.random.default_rng(1).exponential(size=200)
    ours = bootstrap_interval(mean_of(values), num_resamples=500, seed=3)
    theirs = bootstrap(
        (values,), np.mean, n_resamples=500, method="percentile", rng=np.random.default_rng(3)
    ).confidence_interval
    assert ours == pytest.approx(tuple(theirs), rel=1e-9)


def test_the_interval_of_a_mean_agrees_with_the_normal_distribution() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    low, high = bootstrap_interval(mean_of(values), num_resamples=2000)
    error = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - error, abs=0.1 * error)
    assert high == pytest.approx(values.mean() + error, abs=0.1 * error)


def test_too_few_rows_have_no_interval() -> None:
    assert np.isnan(bootstrap_interval(mean_of(np.ones(1)))).all()


@pytest.mark.parametrize("masked", [False, True])
def test_the_terms_of_the_rows_give_the_metrics_of_a_regression(masked: bool) -> None:
    inputs = regression_inputs()
    observed = torch.arange(160).reshape(80, 2) % 5 != 0 if masked else None
    board = scored(regression_metrics("test_", num_targets=2), inputs, observed)
    values = board.values()
    assert list(values)[:3] == ["nll", "rmse", "crps"]
    for name, metric in board.metrics.items():
        rows = board._row_terms(name, metric)
        assert len(rows.terms) == 80
        assert rows.value(rows.terms.sum(0)) == pytest.approx(values[name.removeprefix("test_")], rel=1e-4)


def test_a_resampled_metric_is_that_of_the_resampled_rows() -> None:
    inputs = regression_inputs()
    board = scored(regression_metrics("test_", num_targets=2), inputs, None)
    drawn = np.random.default_rng(0).integers(0, 80, 80)
    counts = np.bincount(drawn, minlength=80)
    preds, target = inputs["preds"].numpy()[drawn], inputs["target"].numpy()[drawn]
    expected = {"rmse": np.sqrt(((preds - target) ** 2).mean()), "r2": r2_score(target, preds)}
    for name, value in expected.items():
        rows = board._row_terms(f"test_{name}", board.metrics[f"test_{name}"])
        assert rows.value(counts @ rows.terms) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_the_terms_of_the_rows_give_the_metrics_of_a_classification(masked: bool) -> None:
    probs = (2 * normal(80, 4, 3)).softmax(1)
    target = (normal(80, 3).abs() * 2).long().clamp(max=3)
    inputs = {"preds": probs, "target": target, "log_prob": normal(2, 80, 3)}
    observed = torch.arange(240).reshape(80, 3) % 4 != 0 if masked else None
    board = scored(classification_metrics("test_", num_classes=4), inputs, observed)
    values = board.values()
    for name, metric in board.metrics.items():
        rows = board._row_terms(name, metric)
        assert rows.value(rows.terms.sum(0)) == pytest.approx(values[name.removeprefix("test_")], rel=1e-4)


def test_a_biased_metric_is_inside_its_interval() -> None:
    probs = torch.full((60, 2), 0.5)
    probs[:, 0] += torch.linspace(0.01, 0.49, 60)
    probs[:, 1] = 1 - probs[:, 0]
    target = (torch.rand(60, generator=torch.Generator().manual_seed(0)) > probs[:, 0]).long()
    board = RowScores(classification_metrics("test_", num_classes=2))
    board.update({"preds": probs, "target": target, "log_prob": normal(1, 60)}, None)
    low, high = board.intervals()["ece"]
    assert 0 <= low < board.values()["ece"] < high


def test_metrics_without_rows_have_a_value_alone() -> None:
    from lightning_vi.metrics import AURC

    board = RowScores(MetricCollection({"area": AURC()}, compute_groups=False))
    board.update({"uncertainty": torch.arange(4.0), "loss": torch.ones(4)}, None)
    assert board.values()["area"] == pytest.approx(1.0)
    assert board.intervals() == {}
