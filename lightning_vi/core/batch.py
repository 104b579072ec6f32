"""Inputs and targets of batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from lightning_vi.sampling import NetworkInput


def split_batch(batch: Any) -> tuple[NetworkInput, Tensor | None]:
    """Splits a batch into input and target.

    Args:
        batch: ``(x, y)``, ``{"input": x, "target": y}``, or a tensor, the input alone; x may be a tuple or a
            dictionary of tensors.

    Returns:
        The input, and the target or None.

    Raises:
        TypeError: If the batch is none of these.
    """
    if isinstance(batch, Tensor):
        return batch, None
    if isinstance(batch, Mapping) and "input" in batch:
        return batch["input"], batch.get("target")
    if isinstance(batch, Sequence) and not isinstance(batch, str) and 1 <= len(batch) <= 2:
        return batch[0], batch[1] if len(batch) == 2 else None
    raise TypeError(f"a batch must be (x, y), {{'input': x, 'target': y}} or a tensor, got {_describe(batch)}")


def split_labeled_batch(batch: Any) -> tuple[NetworkInput, Tensor]:
    """Splits a labeled batch into input and target.

    Args:
        batch: ``(x, y)`` or ``{"input": x, "target": y}``.

    Returns:
        Input and target.

    Raises:
        TypeError: If the batch is neither, or has no target.
    """
    x, target = split_batch(batch)
    if target is None:
        raise TypeError(f"this step needs targets: (x, y) or {{'input': x, 'target': y}}, got {_describe(batch)}")
    return x, target


def to_device(module: LightningModule, batch: Any) -> Any:
    """Moves a batch to a module's device and its trainer's precision, by way of the module's hooks.

    Args:
        module: The module that will take the batch.
        batch: Any batch.

    Returns:
        The batch as a Trainer would give it to a step.
    """
    if module._trainer is not None:
        batch = module.trainer.precision_plugin.convert_input(batch)
    batch = module.on_before_batch_transfer(batch, 0)
    return module.on_after_batch_transfer(module.transfer_batch_to_device(batch, module.device, 0), 0)


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping with the keys {list(batch)}"
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"


def joined_batches(
    batches: Iterable[tuple[NetworkInput, Tensor]],
    num_outputs: int,
    max_rows: int = 2048,
    max_numbers: int = 2**18,
) -> Iterator[tuple[NetworkInput, Tensor]]:
    """Joins small batches into fewer large ones, in the same order.

    A pass over many rows costs little more than one over few.

    Args:
        batches: Inputs and targets.
        num_outputs: Number of network outputs for each element of a datum's target.
        max_rows: The most rows of a joined batch.
        max_numbers: The most numbers in its input, and in matrices over each datum's outputs; batches beyond one of
            these stay as they are.

    Yields:
        Pairs of input and target; batches are joined where the input is one tensor and shapes and types agree.
    """
    waiting: list[tuple[Tensor, Tensor]] = []
    num_rows, room, kind = 0, 0, None

    def joined() -> tuple[Tensor, Tensor]:
        inputs, targets = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*waiting, strict=True))
        waiting.clear()
        return inputs, targets

    for x, target in batches:
        rows = len(target)
        if waiting and not (isinstance(x, Tensor) and num_rows + rows <= room and _kind(x, target) == kind):
            yield joined()
        if not isinstance(x, Tensor):
            yield x, target
            continue
        if not waiting:
            num_rows, kind = 0, _kind(x, target)
            numbers = max(1, x[:1].numel(), (num_outputs * target[:1].numel()) ** 2)
            room = min(max_rows, max_numbers // numbers)
        waiting.append((x, target))
        num_rows += rows
    if waiting:
        yield joined()


def _kind(*pair: Tensor) -> list[Any]:
    return [(tensor.shape[1:], tensor.dtype, tensor.device) for tensor in pair]
