"""Datamodule of some of the classes of another one."""

from collections.abc import Sequence
from typing import Unpack

import torch

from lightning_vi.datamodules._rows import Sample
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions
from lightning_vi.errors import InputTypeError, InputValueError


class ClassSubsetDataModule(ArrayDataModule):
    """Rows of some of the classes of another datamodule, in all of its splits.

    Two subsets without a common class are an in-distribution and an out-of-distribution set: train on the one, and
    detect the test rows of the other. Inputs are scaled as those of the whole data set are.

    Args:
        data: A datamodule with class labels.
        classes: Labels to keep, at least two. Label `classes[i]` becomes i.
        batch_size: Number of rows per batch; that of `data` by default.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        classes: Labels of `data` that are kept.
        X_train, X_val, X_test, X_calib: Inputs, as those of `data`.
        Y_train, Y_val, Y_test, Y_calib: Labels 0..C-1, [N] int64.

    Raises:
        TypeError: If `data` is no `ArrayDataModule` with class labels.
        ValueError: If `classes` has fewer than two labels, an unknown one, or one twice; or a split has no row left.

    Example:
        >>> from lightning_vi.datamodules import DigitsDataModule
        >>> dm = ClassSubsetDataModule(DigitsDataModule(), classes=[8, 9])
        >>> dm.Y_test.unique(), dm.num_classes
        (tensor([0, 1]), 2)
    """

    def __init__(
        self,
        data: ArrayDataModule,
        classes: Sequence[int],
        *,
        batch_size: int | None = None,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        if not isinstance(data, ArrayDataModule) or data.num_classes is None or data.Y_train.dim() != 1:
            raise InputTypeError(f"data must be an ArrayDataModule with class labels [N], got a {type(data).__name__}")
        labels = list(classes)
        wrong = [label for label in labels if label not in range(data.num_classes)]
        if len(labels) < 2 or wrong or len(set(labels)) < len(labels):
            raise InputValueError(
                f"classes must have at least two different labels from 0 to {data.num_classes - 1}, got {labels}"
            )
        places = torch.full((data.num_classes,), -1)
        places[labels] = torch.arange(len(labels))

        def subset(split: str) -> Sample:
            found = places[getattr(data, f"Y_{split}")]
            if not (found >= 0).any():
                raise InputValueError(f"the split {split!r} of {type(data).__name__} has no row of classes={labels}")
            return getattr(data, f"X_{split}")[found >= 0], found[found >= 0]

        options: LoaderOptions = {
            "num_workers": data.num_workers,
            "pin_memory": data.pin_memory,
            "shuffle_seed": data.shuffle_seed,
            **loader_options,
        }
        super().__init__(
            train=subset("train"),
            test=subset("test"),
            val=None if data.X_val is None else subset("val"),
            calib=None if data.X_calib is None else subset("calib"),
            num_classes=len(labels),
            batch_size=data.batch_size if batch_size is None else batch_size,
            **options,
        )
        self.classes = tuple(labels)
        self.image_shape = data.image_shape
        self.input_mean, self.input_std = data.input_mean, data.input_std
