"""Predictions as validated arrays: results of `predict`, dictionaries of `predict_step`, or arrays by the same keys."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.plots._arrays import Array, Floats, as_floats, as_labels, as_probs


@runtime_checkable
class SupportsAsDict(Protocol):
    """Interface of a `Prediction`, as far as the plots need it."""

    @property
    def metadata(self) -> dict[str, Any]:
        """Facts about the prediction."""
        ...

    def as_dict(self) -> dict[str, Tensor]:
        """Returns the dictionary of `predict_step`."""
        ...


PredictionLike: TypeAlias = SupportsAsDict | Mapping[str, Any]
"""A `Prediction`, a dictionary of `predict_step`, or a dictionary of arrays with these keys."""


@dataclass(frozen=True)
class RegressionPrediction:
    """Arrays of a prediction of D targets, each [N, D]; None for what it does not have.

    Attributes:
        mean: point predictions.
        std: predictive standard deviations.
        lower: lower ends of intervals.
        upper: upper ends of intervals.
        interval: name of the intervals, with their level if it is known.
        center: what `mean` is, "mean" or "median".
    """

    mean: Floats
    std: Floats | None
    lower: Floats | None
    upper: Floats | None
    interval: str
    center: str

    def require_std(self) -> Floats:
        """Returns the standard deviations; `ValueError` if there are none or one is zero."""
        if self.std is None:
            raise InputValueError("prediction must have 'pred_uct', the predictive standard deviations")
        if (self.std == 0).any():
            raise InputValueError(
                f"pred_uct must be positive, got {np.count_nonzero(self.std == 0)} zeros of {self.std.size} values: "
                "a prediction without uncertainty has no calibration"
            )
        return self.std


def as_dict(prediction: PredictionLike, name: str = "prediction") -> dict[str, Any]:
    """Returns the dictionary of a prediction; `TypeError` or `ValueError` if it is none."""
    if isinstance(prediction, SupportsAsDict):
        return dict(prediction.as_dict())
    if not isinstance(prediction, Mapping):
        raise InputTypeError(
            f"{name} must be a result of predict or predict_step, or a dictionary such as "
            f"{{'pred': mean, 'pred_uct': std}}, got {type(prediction).__name__}"
        )
    if "pred" not in prediction:
        raise InputValueError(f"{name} must have the key 'pred', got {sorted(map(str, prediction))}")
    return dict(prediction)


def metadata(prediction: PredictionLike) -> Mapping[str, Any]:
    """Returns the metadata of a `Prediction`; empty for dictionaries."""
    return prediction.metadata if isinstance(prediction, SupportsAsDict) else {}


def is_classification(prediction: PredictionLike, target: Array, name: str = "prediction") -> bool:
    """Returns True for probabilities [N, C] or [N, C, ...] of labels, which have no dimension of classes."""
    values = as_dict(prediction, name)
    return "probs_var" in values or np.ndim(values["pred"]) == np.ndim(target) + 1


def regression(prediction: PredictionLike, name: str = "prediction") -> RegressionPrediction:
    """Returns the arrays of a regression, [B, ..., D] or [B], with one row for each position."""
    values, facts = as_dict(prediction, name), metadata(prediction)
    if "probs_var" in values:
        raise InputTypeError(f"{name} must be that of a regression, got one of a classifier")
    mean = as_rows(values["pred"], "pred")
    arrays: dict[str, Floats | None] = {}
    for key in ("pred_uct", "lower", "upper"):
        arrays[key] = None if values.get(key) is None else as_rows(values[key], key, shape=mean.shape, like="pred")
    if (std := arrays["pred_uct"]) is not None and (std < 0).any():
        raise InputValueError(f"pred_uct holds standard deviations and must not be negative, got {std.min():g}")
    level = facts.get("interval_level")
    return RegressionPrediction(
        mean,
        std,
        arrays["lower"],
        arrays["upper"],
        interval=interval_name(level),
        center=facts.get("center", "mean"),
    )


def interval_name(level: float | None) -> str:
    """Returns the name of prediction intervals in a legend."""
    if level is None:
        return "Prediction interval"
    if not 0 < level < 1:
        raise InputValueError(f"interval_level must lie strictly between 0 and 1, got {level!r}")
    return f"{percent(level)} prediction interval"


def percent(share: float) -> str:
    """Returns `share` as a percentage with at most one digit after the point."""
    return f"{round(100 * share, 1):g}%"


def classification(
    prediction: PredictionLike | Array, target: Array, name: str = "prediction"
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Returns probabilities [N, C] and labels [N], with one row for each position."""
    is_prediction = isinstance(prediction, Mapping | SupportsAsDict)
    probs = as_floats(as_dict(prediction, name)["pred"] if is_prediction else prediction, "pred")  # type: ignore[arg-type]
    labels = as_floats(target, "target")
    if probs.ndim > 2:
        positions = (probs.shape[0], *probs.shape[2:])
        if labels.shape != positions:
            raise InputValueError(
                f"target must have shape {positions}, that of {name} without classes, got {labels.shape}"
            )
        probs, labels = np.moveaxis(probs, 1, -1).reshape(-1, probs.shape[1]), labels.ravel()
    probabilities = as_probs(probs, "pred" if is_prediction else name)
    return probabilities, as_labels(
        labels, "target", num_classes=probabilities.shape[1], length=len(probabilities), like=name
    )


def as_rows(value: Array, name: str, *, shape: tuple[int, ...] | None = None, like: str = "") -> Floats:
    """Returns values [B, ..., D] or [B] as [N, D]; `shape` is the required [N, D], that of argument `like`."""
    floats = as_floats(value, name)
    rows = floats.reshape(-1, 1) if floats.ndim < 2 else floats.reshape(-1, floats.shape[-1])
    if shape is not None and rows.shape != shape:
        raise InputValueError(
            f"{name} must have {shape[0]} rows and {shape[1]} columns, the shape of {like}, got {floats.shape}"
        )
    return rows


def names_of_targets(names: Sequence[str] | None, count: int, default: str) -> list[str]:
    """Returns one name for each of `count` targets: `names`, or `default`, numbered if there are several."""
    if names is None:
        return [default] if count == 1 else [f"{default} {number}" for number in range(count)]
    if isinstance(names, str):
        names = [names]
    if len(names) != count:
        raise InputValueError(f"target_names must have one name for each of the {count} targets, got {list(names)}")
    return list(names)


def class_names_of(names: Sequence[str] | None, num_classes: int) -> list[str]:
    """Returns one name for each class: `names`, or the numbers."""
    if names is None:
        return [str(number) for number in range(num_classes)]
    if len(names) != num_classes:
        raise InputValueError(
            f"class_names must have one name for each of the {num_classes} classes, got {list(names)}"
        )
    return [str(name) for name in names]
