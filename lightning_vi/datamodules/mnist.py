"""MNIST and data sets in the same file format."""

import gzip
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from lightning_vi.datamodules._checks import check_seed
from lightning_vi.datamodules._split import split_rows
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions
from lightning_vi.errors import InputValueError


class MNISTDataModule(ArrayDataModule):
    """MNIST (LeCun et al., 1998), or a data set in the same format such as Fashion-MNIST, from a local folder.

    The folder has the four files `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, `t10k-images-idx3-ubyte` and
    `t10k-labels-idx1-ubyte`, optionally with the suffix `.gz`. Nothing is downloaded. Pixels are standardized with the
    mean and the standard deviation of all training pixels.

    Args:
        folder: Folder of the files.
        val_fraction: Fraction of the training images held out for validation.
        split_seed: Seed of the validation split.
        batch_size: Number of images per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test: Images, [N, 1, 28, 28] float32.
        Y_train, Y_val, Y_test: Labels 0 to 9, [N] int64.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If a file is not in idx format, or an argument is out of range.

    Example:
        >>> dm = MNISTDataModule("data/mnist")  # doctest: +SKIP
        >>> dm.X_train.shape  # doctest: +SKIP
        torch.Size([60000, 1, 28, 28])
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        val_fraction: float = 0.0,
        split_seed: int = 42,
        batch_size: int = 128,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        path = Path(folder).expanduser()
        images, labels = (_read(path, f"train-{kind}") for kind in (IMAGES, LABELS))
        test_images, test_labels = (_read(path, f"t10k-{kind}") for kind in (IMAGES, LABELS))
        rows = split_rows(np.arange(len(images)), {"val": val_fraction}, check_seed("split_seed", split_seed))
        mean, std = images.float().mean(), images.float().std()

        def pairs(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return ((inputs.float() - mean) / std).unsqueeze(1), targets.long()

        super().__init__(
            train=pairs(images[rows["train"]], labels[rows["train"]]),
            test=pairs(test_images, test_labels),
            val=pairs(images[rows["val"]], labels[rows["val"]]) if "val" in rows else None,
            num_classes=int(labels.max()) + 1,
            batch_size=batch_size,
            **loader_options,
        )


IMAGES, LABELS = "images-idx3-ubyte", "labels-idx1-ubyte"


def _read(folder: Path, name: str) -> Tensor:
    """Reads an idx file of unsigned bytes: a magic number with the number of dimensions, the sizes, and the values."""
    plain, zipped = folder / name, folder / f"{name}.gz"
    if not plain.is_file() and not zipped.is_file():
        raise FileNotFoundError(f"found neither {name} nor {name}.gz in folder={str(folder)!r}")
    data = plain.read_bytes() if plain.is_file() else gzip.decompress(zipped.read_bytes())
    num_dims = data[3] if len(data) > 3 and data[:3] == b"\x00\x00\x08" else 0
    sizes = np.frombuffer(data, ">u4", num_dims, 4).astype(np.int64) if len(data) >= 4 + 4 * num_dims else np.zeros(1)
    if num_dims == 0 or len(data) != 4 + 4 * num_dims + int(sizes.prod()):
        raise InputValueError(f"{name} in folder={str(folder)!r} is not an idx file of unsigned bytes")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=4 + 4 * num_dims).reshape(sizes).copy())
