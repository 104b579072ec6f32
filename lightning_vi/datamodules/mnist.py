"""MNIST and data sets in the same file format."""

from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from lightning_vi.datamodules._checks import check_int, check_seed
from lightning_vi.datamodules._idx import read_idx
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
        num_classes: Number of classes C of the labels 0..C-1.
        val_fraction: Fraction of the training images held out for validation.
        split_seed: Seed of the validation split.
        batch_size: Number of images per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test: Images, [N, 1, 28, 28] float32.
        Y_train, Y_val, Y_test: Labels 0..C-1, [N] int64.
        input_mean, input_std: Mean and standard deviation of all training pixels, scalar tensors.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If a file is not in idx format, is cut off, empty or larger than 1 GiB; the numbers of images and
            labels differ; a label is not below `num_classes`; or an argument is out of range.

    Example:
        >>> dm = MNISTDataModule("data/mnist")  # doctest: +SKIP
        >>> dm.X_train.shape  # doctest: +SKIP
        torch.Size([60000, 1, 28, 28])
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        num_classes: int = 10,
        val_fraction: float = 0.0,
        split_seed: int = 42,
        batch_size: int = 128,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        path = Path(folder).expanduser()
        check_int("num_classes", num_classes, at_least=2, at_most=256)
        images, labels = _read(path, "train", num_classes)
        test_images, test_labels = _read(path, "t10k", num_classes)
        rows = split_rows(np.arange(len(images)), {"val": val_fraction}, check_seed("split_seed", split_seed))
        std, mean = torch.std_mean(images.float())
        std = torch.where(std > 0, std, 1.0)

        def pairs(inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
            return ((inputs.float() - mean) / std).unsqueeze(1), targets.long()

        super().__init__(
            train=pairs(images[rows["train"]], labels[rows["train"]]),
            test=pairs(test_images, test_labels),
            val=pairs(images[rows["val"]], labels[rows["val"]]) if "val" in rows else None,
            num_classes=num_classes,
            batch_size=batch_size,
            **loader_options,
        )
        self.input_mean, self.input_std = mean, std


class FashionMNISTDataModule(MNISTDataModule):
    """Fashion-MNIST (Xiao, Rasul & Vollgraf, 2017): ten kinds of clothing in the format of MNIST, from a local folder.

    Files, arguments and attributes are those of `MNISTDataModule`; nothing is downloaded. As an out-of-distribution set
    of a method that was trained on MNIST, or the reverse, images are standardized as the training images were.

    Attributes:
        class_names: Names of the classes 0..9.

    Example:
        >>> dm = FashionMNISTDataModule("data/fashion-mnist")  # doctest: +SKIP
        >>> dm.class_names[int(dm.Y_train[0])]  # doctest: +SKIP
        'ankle boot'
    """

    class_names = ("t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")


def _read(folder: Path, part: str, num_classes: int) -> tuple[Tensor, Tensor]:
    """Reads the images [N, H, W] and labels [N] of one part."""
    images = read_idx(folder, f"{part}-images-idx3-ubyte", num_dims=3)
    labels = read_idx(folder, f"{part}-labels-idx1-ubyte", num_dims=1)
    if len(images) != len(labels):
        raise InputValueError(
            f"folder={str(folder)!r}: {part}-images-idx3-ubyte has {len(images)} images, but "
            f"{part}-labels-idx1-ubyte has {len(labels)} labels"
        )
    if (largest := int(labels.max())) >= num_classes:
        raise InputValueError(
            f"folder={str(folder)!r}: {part}-labels-idx1-ubyte has labels up to {largest}, but "
            f"num_classes={num_classes} allows 0 to {num_classes - 1}; give num_classes if the data set has more"
        )
    return images, labels
