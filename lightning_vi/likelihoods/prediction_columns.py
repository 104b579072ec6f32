"""Columns of predictions in tables: one naming for data frames and files."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Columns = dict[str, Any]


def prediction_columns(
    values: Mapping[str, Tensor],
    *,
    is_classifier: bool,
    target: Tensor | None = None,
    classes: Sequence[Any] | None = None,
) -> Columns:
    """Returns the columns of a prediction, one row per datum.

    Args:
        values: Dictionary of `predict_step`. Samples are left out.
        is_classifier: Whether `pred` are probabilities [B, C, ...], so that there is a column of classes.
        target: Targets, shape [B, ...].
        classes: Labels by the number of the class.

    Returns:
        Arrays [B] by name: `class` in classification, the keys of the dictionary, and `target`. Quantities with
        several elements per datum have one column per element: `pred_0`, `pred_1`, ...
    """
    classes = classes if is_classifier else None
    columns = element_columns("class", values["pred"].argmax(1), classes) if is_classifier else {}
    for key, value in values.items():
        if key != "samples":
            columns |= element_columns(key, value)
    return columns if target is None else columns | element_columns("target", target, classes)


def element_columns(name: str, values: Tensor, labels: Sequence[Any] | None = None) -> Columns:
    """Returns one column per element of a datum.

    Args:
        name: Name of the column, or the beginning of the names of several.
        values: Shape [B, ...].
        labels: Labels by number, if `values` are such numbers.

    Returns:
        Arrays [B] by name.
    """
    rows = values.detach().cpu().flatten(1) if values.dim() > 1 else values.detach().cpu().unsqueeze(1)
    arrays = (rows.float() if rows.dtype in (torch.bfloat16, torch.float16) else rows).numpy()
    if labels is not None:
        by_number = np.empty(len(labels), dtype=object)
        by_number[:] = list(labels)
        arrays = by_number[arrays]
    if arrays.shape[1] == 1:
        return {name: arrays[:, 0]}
    return {f"{name}_{element}": arrays[:, element] for element in range(arrays.shape[1])}
