"""Scores and predictions of a test set, from one run of the network."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from lightning_vi.core import Predictive, Predictor
from lightning_vi.core.batch import check_values, to_device
from lightning_vi.core.scoreboard import uncertainty_inputs
from lightning_vi.evaluation.scores import datum_losses, datum_scores
from lightning_vi.likelihoods import Prediction
from lightning_vi.methods import CalibratedMethod
from lightning_vi.noise import private_random_state
from lightning_vi.report.bootstrap import RowScores
from lightning_vi.sampling import evaluating


@dataclass(frozen=True)
class ScoredSet:
    """Predictions of a test set by one predictor, with their scores.

    Attributes:
        name: Name of the test set.
        scores: Metrics by name, as `Trainer.test` logs them without their prefix.
        intervals: Confidence intervals by name of the metric, where they are known.
        prediction: Predictions of all rows, on the CPU, with the targets of a regression last.
        target: Targets of all rows, [N, ...], with those of a regression last.
        observed: True for the elements of the targets that are not missing; None if none can be.
        uncertainty: Uncertainty of each row, [N].
        loss: Loss of each row, [N]; NaN if all targets are missing.
    """

    name: str
    scores: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]
    prediction: Prediction
    target: Tensor
    observed: Tensor | None
    uncertainty: Tensor
    loss: Tensor


@dataclass
class _Collected:
    """Scores and predictions of one predictor, collected from the batches of a test set."""

    board: RowScores
    predictions: list[Prediction] = field(default_factory=list)
    rows: list[tuple[Tensor, Tensor]] = field(default_factory=list)


def score(
    name: str,
    method: Predictor,
    calibrations: Mapping[str, CalibratedMethod],
    loader: Iterable[Any],
    advance: Callable[[], None],
) -> dict[str, ScoredSet]:
    """Scores a test set by a method and by calibrations of it, which share the runs of the network.

    Args:
        name: Name of the test set.
        method: The method.
        calibrations: Calibrations of the method by name.
        loader: Labeled batches.
        advance: Called after each batch.

    Returns:
        The scores of the method, by the name ``"method"``, and of the calibrations.
    """
    predictors = {"method": method, **calibrations}
    collected: dict[str, _Collected] = {}
    targets: list[Tensor] = []
    for wrapper in calibrations.values():
        wrapper.begin_test()
    with evaluating(method), private_random_state(0, method.device), torch.no_grad():
        for host_batch in loader:
            x, target, weight = method._labeled(to_device(method, host_batch))
            check_values(method.likelihood, x, target, weight)
            collected = collected or _boards(predictors, target)
            for rows, labels in method._parts(x, target, len(target)):
                predictive = method.predictive_distribution(rows, method.num_mc_samples_test, method.noise.seed)
                predictive.keep()
                for key, each in collected.items():
                    calibration = calibrations.get(key)
                    asked = predictive if calibration is None else calibration.applied(rows, predictive)
                    _collect(each, method, asked, labels)
                targets.append(_targets_last(labels, method).cpu())
            advance()
    target = torch.cat(targets)
    return {key: _scored(name, each, target, method) for key, each in collected.items()}


def _boards(predictors: Mapping[str, Predictor], target: Tensor) -> dict[str, _Collected]:
    """Boards with the test metrics of each predictor for targets like the given ones."""
    for predictor in predictors.values():
        predictor.add_metrics_for(target)
    return {key: _Collected(RowScores(each.test_metrics.clone(prefix=""))) for key, each in predictors.items()}


def _collect(collected: _Collected, method: Predictor, predictive: Predictive, labels: Tensor) -> None:
    likelihood = method.likelihood
    predictive = predictive.followed(labels)
    prediction, observed = predictive.prediction(), likelihood.observed(labels)
    collected.board.update(predictive.metric_inputs(labels) | uncertainty_inputs(prediction), observed)
    values = prediction.as_dict()
    uncertainty = datum_scores("pred_uct", values, likelihood, observed)
    collected.rows.append((uncertainty.cpu(), datum_losses(None, values, labels, likelihood).cpu()))
    dim = likelihood.prediction_dim
    is_moved = likelihood.task == "regression" and dim != -1
    collected.predictions.append(_on_cpu(prediction.moved(dim, -1) if is_moved else prediction))


def _targets_last(target: Tensor, method: Predictor) -> Tensor:
    """Targets of a regression with the targets in the last dimension, and labels as integers."""
    likelihood = method.likelihood
    return target.movedim(likelihood.prediction_dim, -1) if likelihood.task == "regression" else target


def _on_cpu(prediction: Prediction) -> Prediction:
    values: dict[str, Any] = {each.name: getattr(prediction, each.name) for each in fields(prediction)}
    moved: dict[str, Any] = {key: each.cpu() if isinstance(each, Tensor) else each for key, each in values.items()}
    return Prediction(**moved)


def _joined(parts: list[Prediction]) -> Prediction:
    values: dict[str, Any] = {}
    for each in fields(Prediction):
        first = getattr(parts[0], each.name)
        values[each.name] = (
            torch.cat([getattr(part, each.name) for part in parts]) if isinstance(first, Tensor) else first
        )
    return Prediction(**values)


def _scored(name: str, collected: _Collected, target: Tensor, method: Predictor) -> ScoredSet:
    uncertainty, loss = (torch.cat(column) for column in zip(*collected.rows, strict=True))
    return ScoredSet(
        name,
        collected.board.values(),
        collected.board.intervals(),
        _joined(collected.predictions),
        target,
        method.likelihood.observed(target),
        uncertainty,
        loss,
    )
