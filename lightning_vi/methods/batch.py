"""The batches that methods understand."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning import LightningModule
from torch import Tensor

from lightning_vi.sampling import NetworkInput


def split_batch(batch: Any) -> tuple[NetworkInput, Tensor | None]:
    """Input and target of a batch.

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


def split_labelled_batch(batch: Any) -> tuple[NetworkInput, Tensor]:
    """Input and target of a batch that must have both.

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
    """A batch where a module is, by way of the module's own hooks.

    Args:
        module: Who will see it.
        batch: Any batch.

    Returns:
        The batch as a Trainer would hand it on.
    """
    batch = module.on_before_batch_transfer(batch, 0)
    return module.on_after_batch_transfer(module.transfer_batch_to_device(batch, module.device, 0), 0)


def _describe(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping with the keys {list(batch)}"
    if isinstance(batch, Sequence) and not isinstance(batch, str):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"
