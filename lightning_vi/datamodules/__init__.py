"""Toy and real data as LightningDataModules.

Every datamodule holds its splits from construction on: `X_train`, `Y_train`, and the same for `val`, `test`
and `calib`. Targets are in their original units; see `ArrayDataModule` for the contract that all of them
share.
"""

from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions
from lightning_vi.datamodules.bundled import DiabetesDataModule, DigitsDataModule
from lightning_vi.datamodules.calibration import CalibrationDataModule
from lightning_vi.datamodules.mnist import MNISTDataModule
from lightning_vi.datamodules.tabular import TabularDataModule
from lightning_vi.datamodules.toy import ToyHeteroscedasticDataModule, TwoMoonsDataModule
from lightning_vi.datamodules.uci import UCIDataModule

__all__ = [
    "ArrayDataModule",
    "CalibrationDataModule",
    "DiabetesDataModule",
    "DigitsDataModule",
    "LoaderOptions",
    "MNISTDataModule",
    "TabularDataModule",
    "ToyHeteroscedasticDataModule",
    "TwoMoonsDataModule",
    "UCIDataModule",
]
