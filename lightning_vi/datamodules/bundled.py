"""Small real data sets that are part of scikit-learn."""

from typing import Unpack

import numpy as np
import torch

from lightning_vi.datamodules._checks import check_seed
from lightning_vi.datamodules._split import split_rows
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, take_splits
from lightning_vi.datamodules.tabular import TabularDataModule


class DiabetesDataModule(TabularDataModule):
    """Diabetes data set: progression after one year, predicted from ten measurements of 442 patients.

    Source: `sklearn.datasets.load_diabetes(scaled=False)` (Efron, Hastie, Johnstone & Tibshirani 2004, "Least angle
    regression"). The target is a progression score between 25 and 346, kept in original units; inputs are standardized
    on the training rows, and methods standardize the target by `target_mean` and `target_std`.

    Args:
        batch_size: Number of rows per batch.
        val_fraction: Fraction of the rows for validation; 0 for none.
        test_fraction: Fraction of the rows for testing.
        calib_fraction: Fraction of the rows for calibration; 0 for none.
        split_seed: Seed of the split.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Standardized inputs, [N, 10] float32.
        Y_train, Y_val, Y_test, Y_calib: Progression scores, [N, 1] float32.

    Raises:
        ValueError: If a split is empty, or an argument is out of range.

    Example:
        >>> dm = DiabetesDataModule()
        >>> dm.input_names[:3], dm.X_train.shape, dm.Y_test.shape
        (['age', 'sex', 'bmi'], torch.Size([266, 10]), torch.Size([88, 1]))
    """

    def __init__(
        self,
        batch_size: int = 32,
        *,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        calib_fraction: float = 0.1,
        split_seed: int = 42,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        from sklearn.datasets import load_diabetes

        super().__init__(
            load_diabetes(as_frame=True, scaled=False).frame,
            target_columns="target",
            task="regression",
            val_fraction=val_fraction,
            test_fraction=test_fraction,
            calib_fraction=calib_fraction,
            split_seed=split_seed,
            batch_size=batch_size,
            **loader_options,
        )


class DigitsDataModule(ArrayDataModule):
    """Digits data set: classification of 1797 handwritten digits of 8 x 8 pixels.

    Source: `sklearn.datasets.load_digits` (UCI, "Optical Recognition of Handwritten Digits", test part). The splits are
    stratified by class.

    Args:
        batch_size: Number of rows per batch.
        as_images: If True, inputs are images, [N, 1, 8, 8]; otherwise flat rows of pixels, [N, 64].
        val_fraction: Fraction of the rows for validation; 0 for none.
        test_fraction: Fraction of the rows for testing.
        calib_fraction: Fraction of the rows for calibration; 0 for none.
        split_seed: Seed of the split.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Gray values in [0, 1], float32, [N, 64] or [N, 1, 8, 8].
        Y_train, Y_val, Y_test, Y_calib: Digits, [N] int64.
        num_classes: 10.

    Raises:
        ValueError: If a split is empty, or an argument is out of range.

    Example:
        >>> dm = DigitsDataModule(as_images=True)
        >>> dm.X_train.shape, dm.Y_train.dtype, dm.num_classes
        (torch.Size([1078, 1, 8, 8]), torch.int64, 10)
    """

    image_shape = (1, 8, 8)

    def __init__(
        self,
        batch_size: int = 32,
        *,
        as_images: bool = False,
        val_fraction: float = 0.1,
        test_fraction: float = 0.2,
        calib_fraction: float = 0.1,
        split_seed: int = 42,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        fractions = {"test": test_fraction, "val": val_fraction, "calib": calib_fraction}
        rows = split_rows(np.arange(len(labels)), fractions, check_seed("split_seed", split_seed), strata=labels)
        inputs = torch.tensor(pixels / 16.0, dtype=torch.float32)
        super().__init__(
            **take_splits(
                inputs.reshape(-1, 1, 8, 8) if as_images else inputs,
                torch.tensor(labels, dtype=torch.int64),
                rows,
            ),
            num_classes=10,
            batch_size=batch_size,
            **loader_options,
        )
