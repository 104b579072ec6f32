"""Small real data sets that ship with scikit-learn: nothing to download."""

from typing import Unpack

import numpy as np
import torch

from lightning_vi.datamodules._checks import check_seed
from lightning_vi.datamodules._split import split_rows
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, take_splits
from lightning_vi.datamodules.tabular import TabularDataModule


class DiabetesDataModule(TabularDataModule):
    """Regression of the progression of diabetes after one year on ten measurements of 442 patients.

    Source: scikit-learn's `load_diabetes(scaled=False)` (Efron, Hastie, Johnstone & Tibshirani 2004, "Least
    angle regression"). The target is the study's score, 25 to 346, in these units everywhere; inputs are
    standardised on the training rows, and methods standardise the target by `target_mean` and `target_std`.

    Args:
        batch_size: Rows per batch.
        val_fraction: Fraction of the rows for validation; 0 for none.
        test_fraction: Fraction of the rows for testing.
        calib_fraction: Fraction of the rows for calibration; 0 for none.
        split_seed: Seed of the split.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Standardised inputs, [N, 10] float32.
        Y_train, Y_val, Y_test, Y_calib: Progression scores, [N, 1] float32.

    Raises:
        ValueError: If the fractions leave a split without rows, or another argument is out of range.

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
    """Classification of 1797 handwritten digits, 8 x 8 pixels each.

    Source: scikit-learn's `load_digits` (UCI, "Optical Recognition of Handwritten Digits", test part). Every
    split keeps the proportions of the ten classes.

    Args:
        batch_size: Rows per batch.
        as_images: Whether the inputs are images rather than flat rows of pixels.
        val_fraction: Fraction of the rows for validation; 0 for none.
        test_fraction: Fraction of the rows for testing.
        calib_fraction: Fraction of the rows for calibration; 0 for none.
        split_seed: Seed of the split.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib: Grey values in [0, 1], [N, 64] float32, or [N, 1, 8, 8] as images.
        Y_train, Y_val, Y_test, Y_calib: Digits, [N] int64.
        num_classes: 10.

    Raises:
        ValueError: If the fractions leave a split without rows, or another argument is out of range.

    Example:
        >>> dm = DigitsDataModule(as_images=True)
        >>> dm.X_train.shape, dm.Y_train.dtype, dm.num_classes
        (torch.Size([1078, 1, 8, 8]), torch.int64, 10)
    """

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
