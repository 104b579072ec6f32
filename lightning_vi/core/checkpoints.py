"""Checkpoints: their format version, the digest that finds damage, and reading them from a file."""

import hashlib
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from lightning_vi.errors import InputValueError

KEY = "lightning_vi"
"""Key of a checkpoint under which its format version and its digests are stored."""
FORMAT_VERSION = 1
"""Version of the format; it increases when older versions of the package could misread a checkpoint."""
READ_FIRST = {"hyper_parameters", "pytorch-lightning_version"}
"""Entries that Lightning uses or changes before `LightningModule.on_load_checkpoint`."""
MIGRATED = {"pytorch-lightning_version", "loops", "callbacks", "epoch", "global_step", "optimizer_states"}
"""Entries that another version of Lightning may rewrite when it reads a checkpoint."""


def seal(checkpoint: dict[str, Any]) -> None:
    """Stores the format version and a digest of each entry in a checkpoint.

    Args:
        checkpoint: A complete checkpoint; changed in place.
    """
    # A name counts too: pickle writes it once, so that a changed one would be the same in both places.
    digests = {name: digest((name, value)) for name, value in checkpoint.items() if name != KEY}
    checkpoint[KEY] = {"format_version": FORMAT_VERSION, "digests": digests}


def is_whole(strategy: Strategy) -> bool:
    """Returns whether a strategy writes the checkpoint as it is, in one file.

    Args:
        strategy: Strategy of a Trainer.

    Returns:
        False for strategies that write shards, for which a digest of one process says nothing.
    """
    return type(strategy).save_checkpoint is Strategy.save_checkpoint


def verify(
    checkpoint: Mapping[str, Any],
    origin: str = "the checkpoint",
    *,
    unread: Collection[str] = (),
    only: Collection[str] | None = None,
) -> None:
    """Raises an error if a checkpoint is damaged or of a newer format.

    A checkpoint without a digest is accepted with a note.

    Args:
        checkpoint: The checkpoint.
        origin: Its name in messages.
        unread: Entries to leave out.
        only: Entries to compare; None for all.

    Raises:
        ValueError: If an entry differs from what was saved, or the format is newer than this version of the package.
    """
    if KEY not in checkpoint:
        rank_zero_info(f"{origin} has no digest, so damage would not be noticed; saving it again adds one")
        return
    seal = checkpoint[KEY]
    version, digests = (seal.get(name) if isinstance(seal, Mapping) else None for name in ("format_version", "digests"))
    if not isinstance(version, int) or not isinstance(digests, Mapping | None):
        raise InputValueError(f"{origin} is damaged: its entry {KEY!r} cannot be read; use another checkpoint")
    if version > FORMAT_VERSION:
        raise InputValueError(
            f"{origin} has the format version {version}, but this version of lightning_vi reads versions up to "
            f"{FORMAT_VERSION}: update lightning_vi"
        )
    skipped = {*unread, *(MIGRATED if "legacy_pytorch-lightning_version" in checkpoint else ())}
    damaged = [
        name
        for name, expected in (digests or {}).items()
        if name not in skipped
        and (only is None or name in only)
        and (name not in checkpoint or digest((name, checkpoint[name])) != expected)
    ]
    if damaged:
        raise InputValueError(
            f"{origin} is damaged: {', '.join(map(repr, damaged))} differ from what was saved; use another checkpoint"
        )


def digest(value: Any) -> str:
    """Computes a digest of nested containers of tensors, arrays, numbers and strings.

    Args:
        value: The containers. Other objects count with the name of their type alone.

    Returns:
        The SHA-256 digest, in hexadecimal.

    Raises:
        ValueError: If a container has itself inside, or is nested too deep.

    Example:
        >>> digest({"a": torch.zeros(2)}) == digest({"a": torch.zeros(2)}), digest([0]) == digest([0.0])
        (True, False)
    """
    hasher = hashlib.sha256()
    try:
        _update(hasher, value)
    except RecursionError as error:
        raise InputValueError("the checkpoint is damaged: an entry contains itself; use another checkpoint") from error
    return hasher.hexdigest()


def _update(hasher: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().flatten()
        flat = torch.view_as_real(flat).flatten() if flat.is_complex() else flat
        hasher.update(f"{value.dtype}{list(value.shape)}".encode())
        # One element may have any stride, but a view of its bytes needs the stride 1.
        hasher.update(flat.as_strided(flat.shape, (1,)).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray):
        hasher.update(f"{value.dtype}{list(value.shape)}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        hasher.update(f"mapping {len(value)}".encode())
        for key, item in value.items():
            _update(hasher, key)
            _update(hasher, item)
    elif isinstance(value, list | tuple | set | frozenset):
        hasher.update(f"{'set' if isinstance(value, set | frozenset) else 'sequence'} {len(value)}".encode())
        for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
            _update(hasher, item)
    elif isinstance(value, str | bytes):
        data = value.encode() if isinstance(value, str) else value
        hasher.update(f"{type(value).__name__} {len(data)} ".encode() + data)
    elif value is None or isinstance(value, int | float | complex | np.generic | torch.dtype | torch.device):
        hasher.update(f"{type(value).__name__} {value!r};".encode())
    else:
        hasher.update(type(value).__qualname__.encode())


def check_file(path: Path, argument: str = "checkpoint_path") -> dict[str, Any]:
    """Reads a checkpoint file, and checks the entries that Lightning reads first.

    Args:
        path: Path of the file.
        argument: Name of the argument that holds the path, for messages.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint, or damaged.
    """
    checkpoint = read_checkpoint(path, argument)
    if "pytorch-lightning_version" not in checkpoint:
        raise InputValueError(f"{argument}={str(path)!r} is not a Lightning checkpoint: it has no version of Lightning")
    verify(checkpoint, f"{argument}={str(path)!r}", only=READ_FIRST)
    return checkpoint


def read_checkpoint(path: Path, argument: str = "checkpoint_path") -> dict[str, Any]:
    """Reads a checkpoint file, which can hold nothing that runs code.

    Args:
        path: Path of the file.
        argument: Name of the argument that holds the path, for messages.

    Returns:
        The checkpoint, on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a Lightning checkpoint, or holds other objects than tensors and plain values.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{argument} must be the file of a Lightning checkpoint, got {str(path)!r}")
    try:
        checkpoint = torch.load(path, map_location=_on_cpu, weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise InputValueError(
            f"{argument}={str(path)!r} is not a checkpoint that torch.load(..., weights_only=True) can read"
            + _reason(error)
        ) from None
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise InputValueError(f"{argument}={str(path)!r} is not a Lightning checkpoint: it has no 'state_dict'")
    return checkpoint


def _on_cpu(storage: Any, location: str) -> Any:
    torch.device(location)  # raises an error for the name of no device
    return storage


def _reason(error: Exception) -> str:
    """Names the objects that a checkpoint must not hold."""
    found = re.search(r"[Uu]nsupported (?:global: )?GLOBAL ([\w.]+)", str(error))
    return f": it holds {found.group(1)}, which may run code" if found else ""
