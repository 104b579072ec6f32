"""Inputs and targets of batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from lightning_vi.errors import InputTypeError
from lightning_vi.sampling import NetworkInput


def split_batch(batch: Any) -> tuple[NetworkInput, Tensor | None]:
    """Splits a batch into input and target.

    Args:
        batch: ``(x, y)``, ``{"input": x, "target": y}`` or the input alone, a tensor; x may be a tuple or a dictionary
            of tensors.

    Returns:
        The input, and the target or None.

    Raises:
        TypeError: If the batch has another form.
    """
    if hasattr(batch, "__array__"):  # tensors, arrays and data frames
        return batch, None
    if isinstance(batch, Mapping) and "input" in batch:
        return batch["input"], batch.get("target")
    if isinstance(batch, Sequence) and not isinstance(batch, str) and 1 <= len(batch) <= 2:
        return batch[0], batch[1] if len(batch) == 2 else None
    raise InputTypeError(f"a batch must be (x, y), {{'input': x, 'target': y}} or a tensor, got {_describe(batch)}")


def split_labeled_batch(batch: Any) -> tuple[NetworkInput, Tensor]:
    """Splits a labeled batch into input and target.

    Args:
        batch: ``(x, y)`` or ``{"input": x, "target": y}``.

    Returns:
        Input and target.

    Raises:
        TypeError: If the batch has another form, or no target.
    """
    x, target = split_batch(batch)
    if target is None:
        raise InputTypeError(f"this step needs targets: (x, y) or {{'input': x, 'target': y}}, got {_describe(batch)}")
    return x, target


def to_device(module: LightningModule, batch: Any) -> Any:
    """Moves a batch to a module's device, in its trainer's precision and through its transfer hooks.

    Args:
        module: The module that receives the batch.
        batch: Any batch.

    Returns:
        The batch as a Trainer passes it to a step.
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
    """Concatenates small batches into fewer large ones, in the same order.

    One pass over many rows costs little more than one over few rows.

    Args:
        batches: Inputs and targets.
        num_outputs: Number of network outputs for each element of a datum's target.
        max_rows: Maximum number of rows of a joined batch.
        max_numbers: Maximum number of elements of its input, and of matrices over each datum's outputs. Batches beyond
            one of these limits are unchanged.

    Yields:
        Pairs of input and target. Batches are joined if their inputs are single tensors and their shapes, types and
        devices agree.
    """
    pending: list[tuple[Tensor, Tensor]] = []
    num_rows, allowed_rows, layout = 0, 0, None

    def joined() -> tuple[Tensor, Tensor]:
        inputs, targets = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*pending, strict=True))
        pending.clear()
        return inputs, targets

    for x, target in batches:
        rows = len(target)
        fits = isinstance(x, Tensor) and num_rows + rows <= allowed_rows and _layout(x, target) == layout
        if pending and not fits:
            yield joined()
        if not isinstance(x, Tensor):
            yield x, target
            continue
        if not pending:
            num_rows, layout = 0, _layout(x, target)
            numbers = max(1, x[:1].numel(), (num_outputs * target[:1].numel()) ** 2)
            allowed_rows = min(max_rows, max_numbers // numbers)
        pending.append((x, target))
        num_rows += rows
    if pending:
        yield joined()


def _layout(*pair: Tensor) -> list[Any]:
    return [(tensor.shape[1:], tensor.dtype, tensor.device) for tensor in pair]
