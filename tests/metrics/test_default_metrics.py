"""The default collections of metrics: names, arguments, independent states and a real process group."""

import socket
from typing import Any

import pytest
import torch
from helpers import end_process_group
from torch import Tensor, distributed, multiprocessing
from torchmetrics import MetricCollection

from lightning_vi.metrics import (
    classification_metrics,
    default_metrics,
    point_classification_metrics,
    point_regression_metrics,
    regression_metrics,
)

REGRESSION_NAMES = {"rmse", "mae", "r2", "nll", "crps", "coverage", "interval_width"}
CLASSIFICATION_NAMES = {"accuracy", "nll", "brier", "ece"}


def regression_batch(num_data: int = 12, num_samples: int = 3, shape: tuple[int, ...] = (2,)) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(num_samples, num_data, *shape, generator=generator)
    return {
        "log_prob": -torch.rand(num_samples, num_data, generator=generator),
        "means": means,
        "stds": 0.5 + torch.rand(means.shape, generator=generator),
        "preds": means.mean(0),
        "target": torch.randn(num_data, *shape, generator=generator),
    }


def classification_batch(num_classes: int, pixels: tuple[int, ...] = ()) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "log_prob": -torch.rand(3, 12, *pixels, generator=generator),
        "preds": torch.randn(12, num_classes, *pixels, generator=generator).softmax(1),
        "target": torch.randint(num_classes, (12, *pixels), generator=generator),
    }


@pytest.mark.parametrize(
    ("task", "scope", "names"),
    [
        ("regression", "full", REGRESSION_NAMES),
        ("regression", "point", {"rmse"}),
        ("classification", "full", CLASSIFICATION_NAMES),
        ("classification", "point", {"accuracy"}),
    ],
)
def test_names_have_the_prefix_and_values_are_finite(task: Any, scope: Any, names: set[str]) -> None:
    batch = regression_batch() if task == "regression" else classification_batch(2)
    metrics = default_metrics(task, "test_", num_outputs=2, scope=scope)
    metrics.update(**batch)
    values = metrics.compute()
    assert set(values) == {f"test_{name}" for name in names}
    assert all(value.isfinite() for value in values.values())


def test_default_metrics_selects_the_builder() -> None:
    pairs: list[tuple[MetricCollection, MetricCollection]] = [
        (regression_metrics("a_", num_targets=2), default_metrics("regression", "a_", num_outputs=2)),
        (point_regression_metrics("a_"), default_metrics("regression", "a_", num_outputs=2, scope="point")),
        (classification_metrics("a_", num_classes=2), default_metrics("classification", "a_", num_outputs=2)),
        (
            point_classification_metrics("a_", num_classes=2),
            default_metrics("classification", "a_", num_outputs=2, scope="point"),
        ),
    ]
    for built, picked in pairs:
        assert {name: type(metric) for name, metric in built.items()} == {
            name: type(metric) for name, metric in picked.items()
        }


def test_no_prefix() -> None:
    assert set(regression_metrics()) == REGRESSION_NAMES


def test_arguments_reach_the_metrics() -> None:
    metrics = default_metrics("regression", num_outputs=3, interval_level=0.5)
    assert metrics["r2"].num_targets == 3
    assert metrics["coverage"].level == metrics["interval_width"].level == 0.5
    metrics = default_metrics("classification", num_outputs=4)
    assert {metrics[name].num_classes for name in ("accuracy", "brier", "ece")} == {4}


@pytest.mark.parametrize(("num_samples", "shape"), [(1, (1,)), (5, (4, 3, 2))])
def test_regression_with_leading_dimensions(shape: tuple[int, ...], num_samples: int) -> None:
    metrics = regression_metrics(num_targets=shape[-1])
    metrics.update(**regression_batch(num_samples=num_samples, shape=shape))
    assert all(value.isfinite() for value in metrics.compute().values())


def test_classification_of_pixels() -> None:
    metrics = classification_metrics(num_classes=7)
    metrics.update(**classification_batch(7, (4, 5)))
    assert all(value.isfinite() for value in metrics.compute().values())


def test_a_single_row() -> None:
    metrics = regression_metrics(num_targets=2)
    metrics.update(**regression_batch(num_data=1))
    values = metrics.compute()
    assert values.pop("r2").isnan()
    assert all(value.isfinite() for value in values.values())


def test_metrics_that_agree_on_the_first_batch_do_not_share_states() -> None:
    metrics = regression_metrics()
    point = {"log_prob": torch.zeros(1, 1), "means": torch.zeros(1, 1, 1), "stds": torch.zeros(1, 1, 1)}
    metrics.update(**point, preds=torch.zeros(1, 1), target=torch.zeros(1, 1))
    metrics.update(**point, preds=torch.zeros(1, 1), target=torch.full((1, 1), 2.0))
    values = metrics.compute()
    assert [float(values[name]) for name in ("mae", "crps", "nll", "coverage")] == [1.0, 1.0, 0.0, 0.5]
    assert float(values["rmse"]) == pytest.approx(2**0.5)


def test_a_clone_with_another_prefix_is_independent() -> None:
    validation = regression_metrics("val_", num_targets=2)
    test = validation.clone(prefix="test_")
    validation.update(**regression_batch())
    assert not any(metric.update_called for metric in test.values())
    assert "test_rmse" in test.keys()  # noqa: SIM118 - `in metrics` ignores the prefix


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "ranking"}, r"task must be one of \['regression', 'classification'\], got 'ranking'"),
        ({"scope": "some"}, r"scope must be one of \['point', 'full'\], got 'some'"),
        ({"num_outputs": 0}, "num_outputs must be a positive integer, got 0"),
        ({"interval_level": 95}, "level must lie strictly between 0 and 1, got 95"),
    ],
)
def test_invalid_arguments_are_rejected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        default_metrics(**{"task": "regression", "num_outputs": 1, **arguments})


def _score_a_share(rank: int, port: int, shares: list[tuple[int, int]], path: str) -> None:
    distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=len(shares), rank=rank)
    start, stop = shares[rank]
    batch = regression_batch()
    sampled = {"log_prob", "means", "stds"}
    metrics = regression_metrics(num_targets=2)
    metrics.update(**{k: v[:, start:stop] if k in sampled else v[start:stop] for k, v in batch.items()})
    torch.save(metrics.compute(), f"{path}/{rank}.pt")
    end_process_group()


@pytest.mark.thorough
def test_two_processes_agree_with_one(tmp_path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shares = [(0, 3), (3, 12)]
    multiprocessing.start_processes(_score_a_share, (port, shares, str(tmp_path)), nprocs=2, start_method="spawn")
    metrics = regression_metrics(num_targets=2)
    metrics.update(**regression_batch())
    for rank in range(2):
        torch.testing.assert_close(torch.load(tmp_path / f"{rank}.pt"), metrics.compute())
