"""Inputs and targets of batches."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor

from lightning_vi.arguments import all_finite
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.sampling import NetworkInput, tensors

KEYS = ("input", "target", "weight")
"""Keys of a dictionary batch."""
LABELS = "labels"
"""Key of the targets in a batch of Hugging Face, whose other entries are inputs."""
MAIN_INPUTS = ("input_ids", "inputs_embeds", "pixel_values", "input_values", "input_features")
"""Keys by which a batch of Hugging Face is known if it has no targets."""


def split_batch(batch: Any) -> tuple[NetworkInput, Tensor | None]:
    """Splits a batch into input and target.

    Args:
        batch: ``(x, y)``, ``{"input": x, "target": y}`` or the input alone, a tensor; x may be a tuple or a dictionary
            of tensors. Or a batch of Hugging Face: ``{"input_ids": ..., "attention_mask": ..., "labels": y}``, whose
            other entries are the input; without `labels` it has one of `MAIN_INPUTS`. A dictionary may also have the
            key `weight`, see `sample_weight`.

    Returns:
        The input, and the target or None.

    Raises:
        TypeError: If the batch has another form.
        ValueError: If a dictionary with the key `input` has unknown keys.
    """
    if hasattr(batch, "__array__"):  # tensors, arrays and data frames
        return batch, None
    if isinstance(batch, Mapping) and "input" in batch:
        unknown = [key for key in batch if key not in KEYS]
        if unknown:
            raise InputValueError(f"a batch may have the keys {list(KEYS)}, got {unknown} too: it would have no effect")
        return batch["input"], batch.get("target")
    if isinstance(batch, Mapping) and "target" not in batch and any(key in batch for key in (LABELS, *MAIN_INPUTS)):
        inputs = {key: value for key, value in batch.items() if key not in (LABELS, "weight")}
        if not inputs:
            raise InputTypeError(f"a batch with labels needs inputs too, got {_describe(batch)}")
        return inputs, batch.get(LABELS)
    if isinstance(batch, Sequence) and not isinstance(batch, str) and 1 <= len(batch) <= 2:
        return batch[0], batch[1] if len(batch) == 2 else None
    raise InputTypeError(
        "a batch must be (x, y), {'input': x, 'target': y}, a tensor, or a dictionary with 'labels' or "
        f"{MAIN_INPUTS[0]!r}, got {_describe(batch)}"
    )


def split_labeled_batch(batch: Any) -> tuple[NetworkInput, Tensor]:
    """Splits a labeled batch into input and target.

    Args:
        batch: ``(x, y)``, ``{"input": x, "target": y}``, or a dictionary with `labels`, see `split_batch`.

    Returns:
        Input and target.

    Raises:
        TypeError: If the batch has another form, or no target.
    """
    x, target = split_batch(batch)
    if target is None or isinstance(target, str | Mapping):
        found = _describe(batch) if target is None else f"targets that are {_describe(target)}"
        raise InputTypeError(f"this step needs targets: (x, y) or {{'input': x, 'target': y}}, got {found}")
    return x, target


def sample_weight(batch: Any) -> Tensor | None:
    """Returns the weights of the rows of a labeled batch.

    Args:
        batch: ``{"input": x, "target": y, "weight": w}`` with w of shape [B], or a batch without weights.

    Returns:
        Shape [B], or None.

    Raises:
        TypeError: If the weights are no floating-point or integer tensor.
        ValueError: If they have another shape.
    """
    weight = batch.get("weight") if isinstance(batch, Mapping) else None
    if weight is None:
        return None
    if not isinstance(weight, Tensor) or weight.is_complex() or weight.dtype == torch.bool:
        found = f"a tensor of {weight.dtype}" if isinstance(weight, Tensor) else f"a {type(weight).__name__}"
        raise InputTypeError(f"weight must be a tensor of numbers, one for each row, got {found}")
    _, target = split_labeled_batch(batch)
    if weight.shape != target.shape[:1]:
        raise InputValueError(f"weight must have the shape {tuple(target.shape[:1])}, got {tuple(weight.shape)}")
    return weight


def check_values(
    likelihood: Likelihood, x: NetworkInput, target: Tensor, weight: Tensor | None = None, name: str = "inputs"
) -> None:
    """Checks the values of a labeled batch; this synchronizes with a GPU.

    Args:
        likelihood: The observation model.
        x: Input.
        target: Targets.
        weight: Weights of the rows.
        name: Name of the inputs in errors.

    Raises:
        ValueError: If an input is NaN or infinite, a target is outside of the support, or a weight is negative.
    """
    for tensor in tensors(x):
        if tensor.is_floating_point() and not all_finite(tensor):
            raise InputValueError(f"the {name} have NaN or infinite values")
    likelihood.check_values(target)
    if weight is not None and not ((weight >= 0) & weight.isfinite()).all():
        raise InputValueError("weight must hold finite numbers that are not negative, got others")


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


WeightedBatch = tuple[NetworkInput, Tensor, Tensor | None]
"""Inputs, targets and weights."""


def joined_batches(
    batches: Iterable[WeightedBatch],
    num_outputs: int,
    max_rows: int = 2048,
    max_numbers: int = 2**18,
) -> Iterator[WeightedBatch]:
    """Concatenates small batches into fewer large ones, in the same order.

    One pass over many rows costs little more than one over few rows.

    Args:
        batches: Inputs, targets, and weights or None.
        num_outputs: Number of network outputs for each element of a datum's target.
        max_rows: Maximum number of rows of a joined batch.
        max_numbers: Maximum number of elements of its input, and of matrices over each datum's outputs. Batches beyond
            one of these limits are unchanged.

    Yields:
        Inputs, targets and weights. Batches are joined if their inputs are single tensors and their shapes, types and
        devices agree.
    """
    pending: list[tuple[Tensor, Tensor, Tensor | None]] = []
    num_rows, allowed_rows, layout = 0, 0, None

    def joined() -> tuple[Tensor, Tensor, Tensor | None]:
        inputs, targets, weights = (_cat(parts) for parts in zip(*pending, strict=True))
        pending.clear()
        return inputs, targets, weights

    for x, target, weight in batches:
        rows = len(target)
        fits = isinstance(x, Tensor) and num_rows + rows <= allowed_rows and _layout(x, target, weight) == layout
        if pending and not fits:
            yield joined()
        if not isinstance(x, Tensor):
            yield x, target, weight
            continue
        if not pending:
            num_rows, layout = 0, _layout(x, target, weight)
            numbers = max(1, x[:1].numel(), (num_outputs * target[:1].numel()) ** 2)
            allowed_rows = min(max_rows, max_numbers // numbers)
        pending.append((x, target, weight))
        num_rows += rows
    if pending:
        yield joined()


def _cat(parts: Sequence[Any]) -> Any:
    return torch.cat(list(parts)) if len(parts) > 1 and parts[0] is not None else parts[0]


def _layout(*parts: Tensor | None) -> list[Any]:
    return [None if part is None else (part.shape[1:], part.dtype, part.device) for part in parts]
