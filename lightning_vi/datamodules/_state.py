"""State of a datamodule in a checkpoint: what new data need to be treated as the training data were."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_vi.errors import InputValueError

DataState = dict[str, Any]
KEY = "data_state"
VERSION = 2
"""Version 1 has tables of numbers alone."""


def digest(*arrays: NDArray[Any] | Tensor | None) -> str:
    """Returns a digest of the shapes, types and values of arrays.

    Args:
        *arrays: Any arrays, or None.

    Returns:
        A hexadecimal number.
    """
    total = hashlib.blake2b(digest_size=16)
    for array in arrays:
        if array is None:
            total.update(b"none")
            continue
        total.update(f"{array.dtype}{list(array.shape)}".encode())
        if isinstance(array, Tensor):
            array = array.detach().cpu().flatten().contiguous().view(torch.uint8).numpy()
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def read_data_state(checkpoint: str | Path) -> DataState | None:
    """Reads the state of the training data from a checkpoint.

    Args:
        checkpoint: Path of a Lightning checkpoint.

    Returns:
        The state; None if the method was not trained on a datamodule of this package.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint.
    """
    path = Path(checkpoint).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint={str(checkpoint)!r}: file not found ({path.absolute()}).")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, ValueError, pickle.UnpicklingError):
        raise InputValueError(
            f"checkpoint={str(checkpoint)!r} is not a checkpoint that torch.load(..., weights_only=True) can read."
        ) from None
    if not isinstance(content, Mapping) or "state_dict" not in content:
        raise InputValueError(f"checkpoint={str(checkpoint)!r} is not a Lightning checkpoint: it has no 'state_dict'.")
    return content.get(KEY)


def check_version(state: Mapping[str, Any], kind: str) -> None:
    """Raises an error unless a state is of a version that can be read, and of this kind of data.

    Args:
        state: The state.
        kind: `"table"` or `"arrays"`.

    Raises:
        ValueError: If it is not.
    """
    if state.get("version") not in range(1, VERSION + 1):
        raise InputValueError(
            f"the checkpoint's state of the data has version {state.get('version')!r}, and this version of "
            f"lightning_vi reads versions up to {VERSION}: update lightning_vi, or fit again"
        )
    if state.get("kind") != kind:
        raise InputValueError(
            f"the method was trained on {state.get('kind')!r} data of {state.get('datamodule')}, got {kind!r} data"
        )
