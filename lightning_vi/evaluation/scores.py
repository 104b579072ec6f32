"""Scores and losses of each datum from a prediction dictionary."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.scoring import top_label
from lightning_vi.likelihoods import Likelihood

Score: TypeAlias = str | Callable[[Mapping[str, Tensor]], Tensor]
"""A key of the dictionary of `predict_step`, or a function of it that returns one score per datum, [B]."""

Loss: TypeAlias = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""A function of the dictionary of `predict_step` and the target that returns one loss per datum, [B]."""

_STD_KEYS = {"pred_uct", "epistemic_uct", "aleatoric_uct"}


def check_score(score: Score) -> None:
    """Raises a `TypeError` unless the score is a string or a function."""
    if not isinstance(score, str) and not callable(score):
        raise InputTypeError(f"score must be a key of predict_step's dictionary or a function, got {score!r}")


def datum_scores(
    score: Score, prediction: Mapping[str, Tensor], likelihood: Likelihood, observed: Tensor | None = None
) -> Tensor:
    """Returns the score of each datum of a batch.

    Args:
        score: Key or function.
        prediction: Dictionary of `predict_step`.
        likelihood: Likelihood of the method; uncertainties are standard deviations in regression.
        observed: True for the elements of the target that are not missing, shape [B, ...]; None if none can be.

    Returns:
        Scores, shape [B]. Several elements per datum are reduced to the root mean square of standard deviations, and to
        the mean of other quantities, over the observed elements if the score has one for each.

    Raises:
        ValueError: If the key does not exist, or the result does not have one row per datum.
    """
    if not isinstance(score, str):
        return _check_rows("score", score(prediction), prediction)
    if score not in prediction:
        raise InputValueError(
            f"score must be one of the keys {sorted(prediction)} of predict_step's dictionary, or a function, "
            f"got {score!r}"
        )
    values = prediction[score]
    if not isinstance(values, Tensor) or values.shape[:1] != prediction["pred"].shape[:1]:
        raise InputValueError(f"score {score!r} must be a tensor with one row per datum, got {_describe(values)}")
    elements = _flatten_elements(values).to(torch.promote_types(values.dtype, torch.float32))
    if elements.shape[1] == 1:
        return elements[:, 0]
    observed = observed if observed is not None and observed.shape == values.shape else None
    if likelihood.task == "regression" and score in _STD_KEYS:
        return _mean(elements.square(), observed).sqrt()
    return _mean(elements, observed)


def datum_losses(loss: Loss | None, prediction: Mapping[str, Tensor], target: Tensor, likelihood: Likelihood) -> Tensor:
    """Returns the loss of each datum of a batch.

    Args:
        loss: A function; None for the 0-1 loss in classification and the squared error of the mean in regression.
        prediction: Dictionary of `predict_step`.
        target: Targets, shape [B, ...].
        likelihood: Likelihood of the method.

    Returns:
        Losses, shape [B]; default losses are averaged over the observed elements of a datum, and NaN if there is none.

    Raises:
        ValueError: If shapes do not match, or a target is invalid for the likelihood.
        TypeError: If class labels are not integers.
    """
    if loss is not None:
        return _check_rows("loss", loss(prediction, target), prediction)
    pred, observed = prediction["pred"], likelihood.observed(target)
    if likelihood.task == "classification":
        losses = 1 - top_label(pred, likelihood.metric_target(target))[1]
    elif target.shape != pred.shape:
        raise InputValueError(f"the targets must have the shape of pred {list(pred.shape)}, got {list(target.shape)}")
    else:
        losses = (pred - target).square()
    likelihood.check_values(target)
    return _mean(_flatten_elements(losses), observed)


def _flatten_elements(values: Tensor) -> Tensor:
    """Returns values of shape [B, ...] as [B, number of elements]."""
    return values.unsqueeze(-1).flatten(1)


def _mean(elements: Tensor, observed: Tensor | None) -> Tensor:
    """Returns the mean over the observed elements of each datum, from [B, number of elements]."""
    if observed is None:
        return elements.mean(1)
    mask = _flatten_elements(observed)
    return torch.where(mask, elements, elements.new_zeros(())).sum(1) / mask.sum(1)


def _check_rows(name: str, values: object, prediction: Mapping[str, Tensor]) -> Tensor:
    expected = list(prediction["pred"].shape[:1])
    if not isinstance(values, Tensor) or list(values.shape) != expected:
        raise InputValueError(f"{name} must return one number per datum, shape {expected}, got {_describe(values)}")
    return values


def _describe(values: object) -> str:
    return f"shape {list(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
