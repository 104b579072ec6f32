"""Files of unsigned bytes in idx format."""

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

from lightning_vi.errors import InputValueError

MAX_BYTES = 2**30
MAX_INFLATION = 1100
"""Deflate makes at most 1032 bytes of one."""
CHUNK = 2**20


def read_idx(folder: Path, name: str, num_dims: int) -> Tensor:
    """Reads a file: a magic number with the number of dimensions, the sizes, and the values.

    It reads no more than the header announces, in chunks.

    Args:
        folder: Folder of the file.
        name: Name of the file, which may have the suffix `.gz` in the folder.
        num_dims: Expected number of dimensions.

    Returns:
        The values, uint8.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file has another format, is cut off, empty or too large, or has more values than announced.
    """
    plain, zipped = folder / name, folder / f"{name}.gz"
    path = plain if plain.is_file() else zipped
    if not path.is_file():
        raise FileNotFoundError(f"found neither {name} nor {name}.gz in folder={str(folder)!r}")
    is_zipped = path == zipped
    file_size = path.stat().st_size
    with gzip.open(path) if is_zipped else path.open("rb") as file:
        try:
            return _read(cast(IO[bytes], file), num_dims, file_size * (MAX_INFLATION if is_zipped else 1))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            problem = f"is cut off or damaged ({error})"
        except ValueError as error:
            problem = str(error)
    raise InputValueError(f"{path.name} in folder={str(folder)!r} {problem}")


def _read(file: IO[bytes], num_dims: int, limit: int) -> Tensor:
    header = file.read(4 + 4 * num_dims)
    if header[:4] != bytes([0, 0, 8, num_dims]) or len(header) < 4 + 4 * num_dims:
        raise ValueError(f"is not an idx file of unsigned bytes with {num_dims} dimensions")
    sizes = [int(size) for size in np.frombuffer(header, ">u4", offset=4)]
    size = math.prod(sizes)
    if size == 0:
        raise ValueError(f"has no values: its sizes are {sizes}")
    if size > min(MAX_BYTES, limit):
        raise ValueError(f"announces {size} bytes, sizes {sizes}, which is more than it can hold or than {MAX_BYTES}")
    values = bytearray()
    while len(values) <= size and (chunk := file.read(min(CHUNK, size + 1 - len(values)))):
        values += chunk
    if len(values) != size:
        found = f"only {len(values)}" if len(values) < size else "more"
        raise ValueError(f"announces {size} values, sizes {sizes}, and has {found}")
    return torch.frombuffer(values, dtype=torch.uint8).reshape(sizes)
