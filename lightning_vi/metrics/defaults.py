"""Collections of metrics that methods log by default.

A collection is updated with all quantities of a batch at once; each metric picks its arguments by name::

    collection.update(log_prob=..., means=..., stds=..., preds=..., target=...)

Compute groups are disabled (``compute_groups=False``): torchmetrics would merge two metrics permanently if their states
happened to agree after the first batch.
"""

from typing import Literal, get_args

from torchmetrics import Metric, MetricCollection

from lightning_vi.errors import InputValueError
from lightning_vi.metrics.classification import Accuracy, BrierScore, ExpectedCalibrationError
from lightning_vi.metrics.likelihood import NegativeLogLikelihood
from lightning_vi.metrics.mixture import IntervalCoverage, IntervalWidth, MixtureCRPS
from lightning_vi.metrics.multi_label import ExactMatch, LabelF1Score
from lightning_vi.metrics.ordered_classes import ClassDistance, RankedProbabilityScore
from lightning_vi.metrics.point import MeanAbsoluteError, R2Score, RootMeanSquaredError
from lightning_vi.metrics.segmentation import MeanIoU
from lightning_vi.metrics.uncertainty import EpistemicShare, MutualInformation

__all__ = [
    "Scope",
    "Task",
    "classification_metrics",
    "default_metrics",
    "multi_label_metrics",
    "ordered_class_metrics",
    "point_classification_metrics",
    "point_regression_metrics",
    "regression_metrics",
    "segmentation_metrics",
    "uncertainty_metrics",
]

Task = Literal["regression", "classification"]
Scope = Literal["point", "full"]


def regression_metrics(
    prefix: str = "", *, num_targets: int = 1, interval_level: float = 0.95, target_dim: int = -1
) -> MetricCollection:
    """Returns ``rmse``, ``mae``, ``r2``, ``nll``, ``crps``, ``coverage`` and ``interval_width``.

    ``update`` takes ``log_prob [S, B]``, ``means`` and ``stds [S, B, ..., D]``, ``preds`` and ``target [B, ..., D]``,
    and a ``mixture`` if the components are not Gaussian.

    Args:
        prefix: prefix of each name, such as ``"test_"``.
        num_targets: number of targets D.
        interval_level: probability mass of the intervals of coverage and width, strictly between 0 and 1.
        target_dim: dimension of the targets: -1, or 1 for images ``[B, D, H, W]``.

    Returns:
        The collection; ``compute`` returns a dictionary such as ``{"test_rmse": ..., "test_nll": ...}``.

    Raises:
        ValueError: if ``num_targets`` is not positive or ``interval_level`` is outside (0, 1).

    Example:
        >>> sorted(regression_metrics("test_"))
        ['test_coverage', 'test_crps', 'test_interval_width', 'test_mae', 'test_nll', 'test_r2', 'test_rmse']
    """
    return _collection(
        prefix,
        rmse=RootMeanSquaredError(),
        mae=MeanAbsoluteError(),
        r2=R2Score(num_targets, target_dim),
        nll=NegativeLogLikelihood(),
        crps=MixtureCRPS(),
        coverage=IntervalCoverage(interval_level),
        interval_width=IntervalWidth(interval_level),
    )


def point_regression_metrics(prefix: str = "") -> MetricCollection:
    """Returns ``rmse``, which is cheap enough for every training step.

    ``update`` takes ``preds`` and ``target [B, ..., D]``; other keyword arguments are ignored.

    Args:
        prefix: prefix of each name, such as ``"train_"``.

    Returns:
        The collection.

    Example:
        >>> list(point_regression_metrics("train_"))
        ['train_rmse']
    """
    return _collection(prefix, rmse=RootMeanSquaredError())


def classification_metrics(prefix: str = "", *, num_classes: int) -> MetricCollection:
    """Returns ``accuracy``, ``nll``, ``brier`` and ``ece``.

    ``update`` takes ``log_prob [S, B]`` or ``[S, B, ...]``, ``preds [B, C]`` or ``[B, C, ...]``
    (probabilities) and ``target [B]`` or ``[B, ...]`` (class indices).

    Args:
        prefix: prefix of each name, such as ``"test_"``.
        num_classes: number of classes C; 2 for binary classification.

    Returns:
        The collection.

    Example:
        >>> sorted(classification_metrics("test_", num_classes=10))
        ['test_accuracy', 'test_brier', 'test_ece', 'test_nll']
    """
    return _collection(
        prefix,
        accuracy=Accuracy(num_classes),
        nll=NegativeLogLikelihood(),
        brier=BrierScore(num_classes),
        ece=ExpectedCalibrationError(num_classes),
    )


def point_classification_metrics(prefix: str = "", *, num_classes: int) -> MetricCollection:
    """Returns ``accuracy``, which is cheap enough for every training step.

    ``update`` takes ``preds [B, C]`` or ``[B, C, ...]`` (probabilities or logits) and ``target [B]`` or
    ``[B, ...]`` (class indices); other keyword arguments are ignored.

    Args:
        prefix: prefix of each name, such as ``"train_"``.
        num_classes: number of classes C; 2 for binary classification.

    Returns:
        The collection.

    Example:
        >>> list(point_classification_metrics("train_", num_classes=10))
        ['train_accuracy']
    """
    return _collection(prefix, accuracy=Accuracy(num_classes))


def default_metrics(
    task: Task,
    prefix: str = "",
    *,
    num_outputs: int,
    scope: Scope = "full",
    interval_level: float = 0.95,
    target_dim: int = -1,
) -> MetricCollection:
    """Returns the default metrics of a task.

    Args:
        task: ``"regression"`` or ``"classification"``.
        prefix: prefix of each name, such as ``"val_"``.
        num_outputs: number of targets (regression) or of classes (classification).
        scope: ``"point"`` scores the point prediction only and is cheap, for training steps; ``"full"`` also scores
            the predictive distribution, for validation and test.
        interval_level: probability mass of the intervals of coverage and width; used by regression in full scope.
        target_dim: dimension of the targets of a regression: -1, or 1 for images ``[B, D, H, W]``.

    Returns:
        The collection.

    Raises:
        ValueError: if ``task`` or ``scope`` is unknown, ``num_outputs`` is not a positive integer, or
            ``interval_level`` is outside (0, 1).

    Example:
        >>> import torch
        >>> metrics = default_metrics("regression", "train_", num_outputs=1, scope="point")
        >>> metrics.update(preds=torch.zeros(2, 1), target=torch.ones(2, 1), means=torch.zeros(5, 2, 1))
        >>> metrics.compute()["train_rmse"]
        tensor(1.)
    """
    _check_choice("task", task, get_args(Task))
    _check_choice("scope", scope, get_args(Scope))
    if not isinstance(num_outputs, int) or num_outputs < 1:
        raise InputValueError(f"num_outputs must be a positive integer, got {num_outputs!r}")
    if task == "classification":
        build = classification_metrics if scope == "full" else point_classification_metrics
        return build(prefix, num_classes=num_outputs)
    if scope == "point":
        return point_regression_metrics(prefix)
    return regression_metrics(prefix, num_targets=num_outputs, interval_level=interval_level, target_dim=target_dim)


def ordered_class_metrics(prefix: str = "") -> MetricCollection:
    """Returns ``mae`` and ``rps`` of ordered classes, which methods log beside those of all classes.

    ``update`` takes ``preds [B, C]`` or ``[B, C, ...]`` (probabilities) and ``target [B]`` or ``[B, ...]`` (class
    numbers).

    Args:
        prefix: prefix of each name, such as ``"test_"``.

    Returns:
        The collection.

    Example:
        >>> sorted(ordered_class_metrics("test_"))
        ['test_mae', 'test_rps']
    """
    return _collection(prefix, mae=ClassDistance(), rps=RankedProbabilityScore())


def multi_label_metrics(prefix: str = "", *, num_labels: int) -> MetricCollection:
    """Returns ``f1`` and ``exact_match`` of several labels, which methods log beside those of single labels.

    ``update`` takes ``preds [B, 2, L, ...]`` (probabilities) and ``target [B, L, ...]`` (0 or 1).

    Args:
        prefix: prefix of each name, such as ``"test_"``.
        num_labels: number of labels L.

    Returns:
        The collection.

    Example:
        >>> sorted(multi_label_metrics("test_", num_labels=3))
        ['test_exact_match', 'test_f1']
    """
    return _collection(prefix, f1=LabelF1Score(num_labels), exact_match=ExactMatch())


def segmentation_metrics(prefix: str = "", *, num_classes: int) -> MetricCollection:
    """Returns ``miou``, which methods log beside the other scores of labels with positions ``[B, H, W]``.

    ``update`` takes ``preds [B, C, ...]`` (probabilities) and ``target [B, ...]`` (class indices).

    Args:
        prefix: prefix of each name, such as ``"test_"``.
        num_classes: number of classes C.

    Returns:
        The collection.

    Example:
        >>> list(segmentation_metrics("test_", num_classes=3))
        ['test_miou']
    """
    return _collection(prefix, miou=MeanIoU(num_classes))


def uncertainty_metrics(task: Task, prefix: str = "") -> MetricCollection:
    """Returns the size of the epistemic uncertainty that methods log beside their scores.

    For regression it is ``epistemic_share``, whose ``update`` takes ``epistemic_var`` and ``total_var [B, ..., D]``;
    for classification ``mutual_information``, whose ``update`` takes ``mutual_information [B]`` or ``[B, ...]``.

    Args:
        task: ``"regression"`` or ``"classification"``.
        prefix: prefix of each name, such as ``"val_"``.

    Returns:
        The collection.

    Raises:
        ValueError: if ``task`` is unknown.

    Example:
        >>> list(uncertainty_metrics("regression", "test_"))
        ['test_epistemic_share']
    """
    _check_choice("task", task, get_args(Task))
    if task == "classification":
        return _collection(prefix, mutual_information=MutualInformation())
    return _collection(prefix, epistemic_share=EpistemicShare())


def _collection(prefix: str, **metrics: Metric) -> MetricCollection:
    return MetricCollection(dict(metrics), prefix=prefix or None, compute_groups=False)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputValueError(f"{name} must be one of {list(choices)}, got {value!r}")
