"""LightningDataModules of toy problems, differential equations, tables and benchmark data.

The splits are available from construction: `X_train`, `Y_train`, and the same for `val`, `test` and `calib`. Targets
are in their original units. See `ArrayDataModule` for the common interface.

In all shapes, N is the number of rows, F the number of input features, D the number of targets and C the number of
classes.
"""

from lightning_vi.datamodules.adr import ADR1DDataModule
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions
from lightning_vi.datamodules.bundled import DiabetesDataModule, DigitsDataModule
from lightning_vi.datamodules.calibration import CalibrationDataModule
from lightning_vi.datamodules.elastic_bar import ElasticBar1DDataModule
from lightning_vi.datamodules.functions import FunctionDataModule
from lightning_vi.datamodules.graph import GraphDataModule
from lightning_vi.datamodules.heat import Heat2DDataModule
from lightning_vi.datamodules.mnist import MNISTDataModule
from lightning_vi.datamodules.new_table import NewTableDataModule
from lightning_vi.datamodules.series import SeriesDataModule
from lightning_vi.datamodules.tabular import TabularDataModule
from lightning_vi.datamodules.toy import ToyHeteroscedasticDataModule, TwoMoonsDataModule
from lightning_vi.datamodules.toy_graph import ToyGraphDataModule
from lightning_vi.datamodules.toy_series import ToySeriesDataModule
from lightning_vi.datamodules.toy_text import ToyTextDataModule
from lightning_vi.datamodules.transport import Transport2DDataModule
from lightning_vi.datamodules.uci import UCIDataModule
from lightning_vi.datamodules.waves import WavesDataModule

__all__ = [
    "ADR1DDataModule",
    "ArrayDataModule",
    "CalibrationDataModule",
    "DiabetesDataModule",
    "DigitsDataModule",
    "ElasticBar1DDataModule",
    "FunctionDataModule",
    "GraphDataModule",
    "Heat2DDataModule",
    "LoaderOptions",
    "MNISTDataModule",
    "NewTableDataModule",
    "SeriesDataModule",
    "TabularDataModule",
    "ToyGraphDataModule",
    "ToyHeteroscedasticDataModule",
    "ToySeriesDataModule",
    "ToyTextDataModule",
    "Transport2DDataModule",
    "TwoMoonsDataModule",
    "UCIDataModule",
    "WavesDataModule",
]
