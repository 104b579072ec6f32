"""LightningDataModules of toy problems, tables and benchmark data.

The splits are available from construction: `X_train`, `Y_train`, and the same for `val`, `test` and `calib`. Targets
are in their original units. See `ArrayDataModule` for the common interface.

In all shapes, N is the number of rows, F the number of input features, D the number of targets and C the number of
classes.
"""

from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions
from lightning_vi.datamodules.bundled import DiabetesDataModule, DigitsDataModule
from lightning_vi.datamodules.calibration import CalibrationDataModule
from lightning_vi.datamodules.mnist import MNISTDataModule
from lightning_vi.datamodules.new_table import NewTableDataModule
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
    "NewTableDataModule",
    "TabularDataModule",
    "ToyHeteroscedasticDataModule",
    "TwoMoonsDataModule",
    "UCIDataModule",
]
