"""Argument checks of the datamodules."""

from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

MAX_SEED = 2**32 - 1


def check_int(name: str, value: object, at_least: int, at_most: int | None = None) -> int:
    """Returns `value` as an int; raises a `ValueError` unless it is an integer (not a bool) within the bounds."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        number = int(value)
        if number >= at_least and (at_most is None or number <= at_most):
            return number
    bounds = f">= {at_least}" if at_most is None else f"between {at_least} and {at_most}"
    raise InputValueError(f"{name} must be an integer {bounds}, got {value!r}.")


def check_seed(name: str, value: object) -> int:
    """Returns `value`; raises a `ValueError` unless NumPy, scikit-learn and PyTorch all accept it as a seed."""
    return check_int(name, value, at_least=0, at_most=MAX_SEED)


def check_not_negative(name: str, value: float) -> float:
    """Returns `value`; raises a `ValueError` unless it is finite and at least 0."""
    if not 0.0 <= value < float("inf"):
        raise InputValueError(f"{name} must be finite and at least 0, got {value!r}.")
    return value


def check_split(
    name: str, rows: object, num_classes: int | None, ignore_index: int | None = None
) -> tuple[Tensor, Tensor]:
    """Returns the rows of one split; raises a `ValueError` unless they are valid inputs and targets.

    Args:
        name: Name of the split, such as `train`.
        rows: Inputs [N, ...features] and targets, [N, D] or [N, ..., D] floating, or class labels [N, ...] int64;
            tensors or arrays.
        num_classes: Number of classes C, or None for regression.
        ignore_index: Label of elements without a class, or None.
    """
    parts = [_as_tensor(part) for part in rows] if isinstance(rows, tuple | list) else []
    if [isinstance(part, Tensor) for part in parts] != [True, True]:
        found = [type(part).__name__ for part in rows] if isinstance(rows, tuple | list) else type(rows).__name__
        raise InputValueError(f"{name} must be a pair of tensors or arrays (inputs, targets), got {found}.")
    inputs, targets = parts
    if inputs.ndim < 2 or not inputs.is_floating_point():
        raise InputValueError(
            f"X_{name} must be a floating-point tensor of shape [N, ...features], "
            f"got {inputs.dtype} of shape {list(inputs.shape)}."
        )
    _check_targets(name, targets, num_classes, ignore_index)
    if len(inputs) != len(targets) or len(inputs) == 0:
        raise InputValueError(
            f"X_{name} and Y_{name} must hold the same number of rows, at least one, "
            f"got {len(inputs)} and {len(targets)}."
        )
    for letter, values in (("X", inputs), ("Y", targets)):
        if values.is_floating_point() and not bool(values.isfinite().all()):
            bad = int((~values.isfinite()).sum())
            remedy = "Fill them in, or leave these rows out"
            if letter == "Y" and bool(values.isnan().any()):
                remedy += '; or give a DataLoader of the tensors to a method whose likelihood has missing="ignore"'
            raise InputValueError(f"{letter}_{name} must be finite, got {bad} NaN or infinite values. {remedy}.")
    return inputs, targets


def _as_tensor(values: Any) -> Any:
    """Copies a NumPy array of numbers to a float32 or int64 tensor; returns all else as it is."""
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "biuf":
        return values
    return torch.from_numpy(values.astype(np.float32 if values.dtype.kind == "f" else np.int64))


def _check_targets(name: str, targets: Tensor, num_classes: int | None, ignore_index: int | None) -> None:
    found = f"got {targets.dtype} of shape {list(targets.shape)}"
    if num_classes is None:
        if targets.ndim < 2 or not targets.is_floating_point():
            raise InputValueError(
                f"Y_{name} must be a floating-point tensor of shape [N, D] when num_classes is None "
                f"(regression), {found}."
            )
        return
    if targets.ndim < 1 or targets.dtype != torch.int64:
        raise InputValueError(
            f"Y_{name} must hold int64 class labels of shape [N] when num_classes={num_classes}, {found}."
        )
    known = targets if ignore_index is None else targets[targets != ignore_index]
    if known.numel() and (int(known.min()) < 0 or int(known.max()) >= num_classes):
        ignored = "" if ignore_index is None else f", or ignore_index = {ignore_index}"
        raise InputValueError(
            f"Y_{name} must hold labels between 0 and num_classes - 1 = {num_classes - 1}{ignored}, "
            f"got labels from {int(known.min())} to {int(known.max())}."
        )
