"""A few rows of the training data, seen before the training, and what follows from them: scaling of the targets."""

import copy
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_vi.core.batch import split_batch
from lightning_vi.noise import private_random_state
from lightning_vi.sampling import NetworkInput

MAX_ROWS, MIN_ROWS, MAX_NUMBERS = 1024, 64, 2**22
"""Bounds of the number of rows, and of their numbers of inputs where that leaves enough rows."""
CHUNK = 64
MAX_MEAN, MIN_STD, MAX_STD = 0.5, 0.5, 2.0
"""Targets within these bounds are of order one and stay as they are."""


class TrainingSample(NamedTuple):
    """Rows of the training data.

    Attributes:
        inputs: Shape [n, F]; None for inputs of another form.
        targets: Shape [n, ...].
        batches: Inputs and targets of some of these rows, in their own form.
    """

    inputs: Tensor | None
    targets: Tensor
    batches: list[tuple[NetworkInput, Tensor]]


def training_sample(dataloader: Any, *, rows_only: bool = False, target_dim: int = -1) -> TrainingSample | None:
    """Reads evenly spaced rows of the data of a dataloader, the same ones in every process.

    It indexes a shallow copy of the dataset, so that the dataloader, its sampler and its workers do not notice, and
    restores the global random states of PyTorch, NumPy and Python.

    Args:
        dataloader: A dataloader, or any other object.
        rows_only: Whether to read no more than one row if the inputs are not rows of numbers, [B, F].
        target_dim: Dimension of the D targets, which becomes the last one of `targets`.

    Returns:
        At most `MAX_ROWS` rows; None for iterable datasets, datasets that cannot be indexed by numbers, samplers of
        other classes than PyTorch's, batches without targets and other objects than a dataloader.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> data = TensorDataset(torch.arange(5000.0).unsqueeze(1), torch.ones(5000, 1))
        >>> sample = training_sample(DataLoader(data, batch_size=10, shuffle=True))
        >>> sample.inputs[:3, 0], len(sample.targets)
        (tensor([ 0.,  5., 10.]), 1000)
    """
    if not isinstance(dataloader, DataLoader) or isinstance(dataloader.dataset, IterableDataset):
        return None
    with _global_random_states():
        try:
            rows = _row_numbers(dataloader)
            batches, probe = _batches(dataloader, rows, rows_only) if rows else ([], [])
            if not batches or not all(isinstance(target, Tensor) for _, target in batches):
                return None
            inputs = [x for x, _ in batches]
            are_rows = all(isinstance(x, Tensor) and x.dim() == 2 and x.is_floating_point() for x in inputs)
            # Rows of sequences may differ in length.
            targets = torch.cat([y.movedim(target_dim, -1).flatten(0, -2) if y.dim() > 1 else y for _, y in batches])
            return TrainingSample(torch.cat(inputs) if are_rows else None, targets, probe)
        except (TypeError, KeyError, IndexError, NotImplementedError, RuntimeError):
            return None


def find_scaling(targets: Tensor, num_targets: int) -> tuple[Tensor, Tensor] | None:
    """Finds mean and standard deviation of targets that are not of order one.

    Args:
        targets: Shape [n, ..., D]. NaN and infinite values are left out.
        num_targets: D.

    Returns:
        Mean and standard deviation [D]: 0 and 1 for each target whose mean is at most 0.5 and whose standard deviation
        is between 0.5 and 2. None for targets of another form.

    Example:
        >>> find_scaling(torch.tensor([[10.0, 0.0], [30.0, 1.0]]), 2)
        (tensor([20.,  0.]), tensor([10.,  1.]))
    """
    if not targets.is_floating_point() or targets.dim() < 2 or targets.shape[-1] != num_targets:
        return None
    values = targets.detach().cpu().double().flatten(0, -2)
    values = values.where(values.isfinite(), torch.nan)
    mean = values.nanmean(0).nan_to_num(0.0)
    std = (values - mean).square().nanmean(0).sqrt().nan_to_num(1.0)
    std = torch.where(std > 1e-12 * (mean.abs() + 1e-30), std, 1.0)
    is_order_one = (mean.abs() <= MAX_MEAN) & (std >= MIN_STD) & (std <= MAX_STD)
    mean, std = torch.where(is_order_one, 0.0, mean), torch.where(is_order_one, 1.0, std)
    return mean.float(), std.float()


def _row_numbers(dataloader: DataLoader[Any]) -> Sequence[Any] | None:
    """The numbers of the rows that the sampler takes, None for samplers that are not known."""
    if type(dataloader.batch_sampler) is not BatchSampler:
        return None
    sampler: Any = dataloader.batch_sampler.sampler
    if isinstance(sampler, DistributedSampler):
        sampler = getattr(sampler.dataset, "_sampler", None)
    if isinstance(sampler, SubsetRandomSampler):
        return sampler.indices
    if sampler is None or isinstance(sampler, SequentialSampler | RandomSampler | WeightedRandomSampler):
        return range(len(dataloader.dataset))  # type: ignore[arg-type]
    return sampler if isinstance(sampler, Sequence) else None


Batches = list[tuple[Any, Any]]


def _batches(dataloader: DataLoader[Any], rows: Sequence[Any], rows_only: bool) -> tuple[Batches, Batches]:
    """Batches of rows, without inputs that are no rows of numbers, and batches of a few of these rows.

    They are no larger than those of the dataloader, whose collate function may not take more.
    """
    dataset = _detached(dataloader.dataset)

    def read(numbers: Sequence[Any]) -> tuple[Any, Any]:
        items = [int(number) for number in numbers]
        samples = dataset.__getitems__(items) if hasattr(dataset, "__getitems__") else [dataset[i] for i in items]
        return split_batch(dataloader.collate_fn(samples))

    x, _ = read(rows[:1])
    are_rows = isinstance(x, Tensor) and x.dim() == 2
    if rows_only and not are_rows:
        return [], []
    size = x.numel() if isinstance(x, Tensor) else 1
    count = min(len(rows), MAX_ROWS, max(MIN_ROWS, MAX_NUMBERS // max(size, 1)))
    chosen, step = _evenly(rows, count), min(CHUNK, dataloader.batch_size or 1)
    few = _evenly(chosen, CHUNK)
    batches = [read(chosen[first : first + step]) for first in range(0, len(chosen), step)]
    probe = [] if rows_only else [read(few[first : first + step]) for first in range(0, len(few), step)]
    return batches if are_rows else [(None, target) for _, target in batches], probe


def _evenly(rows: Sequence[Any], count: int) -> Sequence[Any]:
    return rows[:: math.ceil(len(rows) / count)]


def _detached(dataset: Any) -> Any:
    """A shallow copy, and of the datasets inside of it, on which lazily opened files are opened."""
    twin = copy.copy(dataset)
    inner = getattr(twin, "dataset", None)
    if inner is not None and hasattr(inner, "__getitem__"):
        twin.dataset = _detached(inner)
    return twin


@contextmanager
def _global_random_states() -> Iterator[None]:
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        with private_random_state(0, torch.device("cpu")):
            yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)
