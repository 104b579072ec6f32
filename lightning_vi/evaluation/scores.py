"""From a prediction dictionary to one number for each datum."""

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor

from lightning_vi.functional.scoring import top_label
from lightning_vi.likelihoods import Likelihood

Score: TypeAlias = str | Callable[[Mapping[str, Tensor]], Tensor]
"""A key of the dictionary that `predict_step` returns, or a function from it to one number for each datum, [B]."""

Loss: TypeAlias = Callable[[Mapping[str, Tensor], Tensor], Tensor]
"""A function from the dictionary that `predict_step` returns and the target to one number for each datum, [B]."""

_STANDARD_DEVIATIONS = {"pred_uct", "epistemic_uct", "aleatoric_uct"}


def check_score(score: Score) -> None:
    """Refuses what can be no score, before anything is predicted.

    Args:
        score: What the caller gave.

    Raises:
        TypeError: If it is neither a string nor a function.
    """
    if not isinstance(score, str) and not callable(score):
        raise TypeError(f"score must be a key of predict_step's dictionary or a function, got {score!r}")


def datum_scores(score: Score, prediction: Mapping[str, Tensor], likelihood: Likelihood) -> Tensor:
    """One score for each datum of a batch.

    Args:
        score: Which one.
        prediction: What `predict_step` returned.
        likelihood: The method's; it tells whether uncertainties are standard deviations.

    Returns:
        Shape [B]: for a datum with several elements the root mean square of standard deviations, and the mean of
        anything else.

    Raises:
        ValueError: If the key is not there, or the result does not have a row for each datum.
    """
    if not isinstance(score, str):
        return _check_rows("score", score(prediction), prediction)
    if score not in prediction:
        raise ValueError(
            f"score must be one of the keys {sorted(prediction)} of predict_step's dictionary, or a function, "
            f"got {score!r}"
        )
    values = prediction[score]
    if not isinstance(values, Tensor) or values.shape[:1] != prediction["pred"].shape[:1]:
        raise ValueError(f"score {score!r} must be a tensor with a row for each datum, got {_describe(values)}")
    elements = _in_rows(values).to(torch.promote_types(values.dtype, torch.float32))
    if elements.shape[1] == 1:
        return elements[:, 0]
    if likelihood.task == "regression" and score in _STANDARD_DEVIATIONS:
        return elements.square().mean(1).sqrt()
    return elements.mean(1)


def datum_losses(loss: Loss | None, prediction: Mapping[str, Tensor], target: Tensor, likelihood: Likelihood) -> Tensor:
    """One loss for each datum of a batch.

    Args:
        loss: A function, or None for the error of the most probable class or the squared error of the mean.
        prediction: What `predict_step` returned.
        target: Shape [B, ...].
        likelihood: The method's; it tells classification from regression.

    Returns:
        Shape [B]; the mean over a datum's elements without a function.

    Raises:
        ValueError: If shapes do not fit, or a target is impossible.
        TypeError: If labels are no integers.
    """
    if loss is not None:
        return _check_rows("loss", loss(prediction, target), prediction)
    pred = prediction["pred"]
    if likelihood.task == "classification":
        losses = 1 - top_label(pred, target)[1]
    elif target.shape != pred.shape:
        raise ValueError(f"the targets must have the shape of pred {list(pred.shape)}, got {list(target.shape)}")
    else:
        losses = (pred - target).square()
    likelihood.check_values(target)
    return _in_rows(losses).mean(1)


def _in_rows(values: Tensor) -> Tensor:
    return values.unsqueeze(-1).flatten(1)


def _check_rows(name: str, values: object, prediction: Mapping[str, Tensor]) -> Tensor:
    expected = list(prediction["pred"].shape[:1])
    if not isinstance(values, Tensor) or list(values.shape) != expected:
        raise ValueError(f"{name} must return one number for each datum, shape {expected}, got {_describe(values)}")
    return values


def _describe(values: object) -> str:
    return f"shape {list(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
