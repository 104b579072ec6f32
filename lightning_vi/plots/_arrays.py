"""Conversion of tensors and arrays to validated float64 NumPy arrays; errors name the argument."""

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from lightning_vi.errors import InputValueError

Array: TypeAlias = torch.Tensor | npt.NDArray[Any]
Floats: TypeAlias = npt.NDArray[np.float64]


def as_floats(value: Array, name: str) -> Floats:
    """Returns a float64 copy of `value` (any shape); `ValueError` if it is empty or not finite."""
    if isinstance(value, torch.Tensor):
        value = value.detach().to(device="cpu", dtype=torch.float64).numpy()
    floats = np.array(value, dtype=np.float64)
    if floats.size == 0:
        raise InputValueError(f"{name} is empty: its shape is {floats.shape}")
    if not np.isfinite(floats).all():
        bad = int(np.count_nonzero(~np.isfinite(floats)))
        raise InputValueError(f"{name} must be finite, got {bad} NaN or infinite of {floats.size} values")
    return floats


def as_vector(value: Array, name: str, *, length: int | None = None, like: str = "") -> Floats:
    """Returns `value`, [N] or [N, 1], as [N]; `length` is the required N, the length of argument `like`."""
    floats = as_floats(value, name)
    if floats.ndim == 2 and floats.shape[1] == 1:
        floats = floats[:, 0]
    if floats.ndim != 1:
        raise InputValueError(f"{name} must have shape [N] or [N, 1], got {floats.shape}; pass one column at a time")
    if length is not None and len(floats) != length:
        raise InputValueError(
            f"{name} must have shape [{length}] or [{length}, 1], as long as {like}, got {np.shape(value)}"
        )
    return floats


def as_std(value: Array, name: str, *, length: int, like: str) -> Floats:
    """Returns standard deviations as [N]; `ValueError` if one is negative."""
    std = as_vector(value, name, length=length, like=like)
    if (std < 0).any():
        raise InputValueError(f"{name} holds standard deviations and must not be negative, got {std.min():g}")
    return std


def as_points(value: Array, name: str) -> Floats:
    """Returns points in the plane, [N, 2]."""
    points = as_floats(value, name)
    if points.ndim != 2 or points.shape[1] != 2:
        raise InputValueError(f"{name} must have shape [N, 2], got {points.shape}")
    return points


def as_probs(value: Array, name: str) -> Floats:
    """Returns class probabilities as [N, C], C >= 2; [N] and [N, 1] are the probabilities of class 1 of two."""
    probs = as_floats(value, name)
    if probs.ndim == 1:
        probs = probs[:, None]
    if probs.ndim != 2:
        raise InputValueError(f"{name} must have shape [N, C], or [N] for two classes, got {probs.shape}")
    if probs.shape[1] == 1:
        probs = np.concatenate([1 - probs, probs], axis=1)
    sums = probs.sum(axis=1)
    if probs.min() < -1e-6 or not np.allclose(sums, 1, atol=1e-2):
        raise InputValueError(
            f"{name} must be probabilities that sum to 1 over the classes (softmax applied to logits), "
            f"got values in [{probs.min():g}, {probs.max():g}] with sums in [{sums.min():g}, {sums.max():g}]"
        )
    return probs


def as_labels(
    value: Array, name: str, *, num_classes: int, length: int | None = None, like: str = ""
) -> npt.NDArray[np.int64]:
    """Returns class labels 0, ..., C - 1 as [N]."""
    labels = as_vector(value, name, length=length, like=like)
    if (labels != np.round(labels)).any() or labels.min() < 0 or labels.max() >= num_classes:
        raise InputValueError(
            f"{name} must hold class labels 0 to {num_classes - 1}, got values in [{labels.min():g}, {labels.max():g}]"
        )
    return labels.astype(np.int64)
