"""Inputs of single test rows as a reader knows them: columns of the table, numbers, or images."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from lightning_vi.core.batch import split_batch
from lightning_vi.datamodules import ArrayDataModule, TabularDataModule
from lightning_vi.report.facts import Facts

MAX_INPUTS = 16
CHANNELS = (1, 3)


def rows_at(loader: Iterable[Any], places: Sequence[int]) -> Tensor | None:
    """Reads single rows of a dataloader.

    Args:
        loader: The batches, in a fixed order.
        places: Numbers of the rows.

    Returns:
        The inputs of these rows, in the order of `places`; None if a row has several inputs.
    """
    found: dict[int, Tensor] = {}
    first = 0
    for batch in loader:
        x = split_batch(batch)[0]
        if not isinstance(x, Tensor):
            return None
        found |= {place: x[place - first] for place in places if first <= place < first + len(x)}
        first += len(x)
        if len(found) == len(set(places)):
            break
    return torch.stack([found[place] for place in places])


def as_pictures(data: Any, x: Tensor) -> Tensor | None:
    """Returns inputs as images [N, C, H, W] or [N, H, W]; None if they are none."""
    shape = getattr(data, "image_shape", None)
    if shape is not None and x[0].numel() == torch.Size(shape).numel():
        return x.reshape(-1, *shape)
    is_image = x.dim() == 4 and x.shape[1] in CHANNELS and min(x.shape[2:]) > 3
    return x if is_image else None


def row_names(facts: Facts, places: Sequence[int]) -> tuple[str, list[Any]]:
    """Returns the name of the row identifiers of the first test set, and those of some rows."""
    found = getattr(facts.datamodule, "predict_row_ids", None)
    if found is None or len(found[1]) != len(facts.first.target):
        return "row", list(places)
    return str(found[0]), [found[1][place] for place in places]


def input_columns(facts: Facts, x: Tensor, places: Sequence[int]) -> tuple[list[str], list[list[Any]]]:
    """Returns names and values of the inputs of some rows of the first test set.

    Args:
        facts: What is known.
        x: Their inputs as the network sees them.
        places: Numbers of the rows.

    Returns:
        The names, and one list for each row; columns of the table where there is one, else numbers in original units;
        nothing if there are too many.
    """
    data, state = facts.data, facts.method.data_state
    if isinstance(data, TabularDataModule) and (state is None or data._is_seen(state)):
        numbers = data.row_indices["test"][list(places)].numpy()
        frame = data.table().iloc[numbers][data.input_names[:MAX_INPUTS]]
        return [str(name) for name in frame.columns], frame.to_numpy(dtype=object).tolist()
    if x.dim() != 2 or x.shape[1] > MAX_INPUTS:
        return [], [[] for _ in places]
    if isinstance(data, ArrayDataModule) and data.input_mean is not None and data.input_std is not None:
        x = x * data.input_std + data.input_mean
    names = list(getattr(data, "feature_names", None) or [])
    if len(names) != x.shape[1]:
        names = ["x"] if x.shape[1] == 1 else [f"x {place}" for place in range(x.shape[1])]
    return [str(name) for name in names], x.tolist()
