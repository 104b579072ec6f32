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
from lightning_vi.datamodules.class_subset import ClassSubsetDataModule
from lightning_vi.datamodules.deblurring import DeblurringDataModule
from lightning_vi.datamodules.elastic_bar import ElasticBar1DDataModule
from lightning_vi.datamodules.functions import FunctionDataModule
from lightning_vi.datamodules.graph import GraphDataModule
from lightning_vi.datamodules.heat import Heat2DDataModule
from lightning_vi.datamodules.mnist import FashionMNISTDataModule, MNISTDataModule
from lightning_vi.datamodules.new_table import NewTableDataModule
from lightning_vi.datamodules.photos import PhotoPatchesDataModule
from lightning_vi.datamodules.series import SeriesDataModule
from lightning_vi.datamodules.shapes import ShapesDataModule
from lightning_vi.datamodules.shifted import ShiftedDataModule, ShiftedDataset, shifted_loader, shifted_test_sets
from lightning_vi.datamodules.shifts import shift_images
from lightning_vi.datamodules.tabular import TabularDataModule
from lightning_vi.datamodules.toy import ToyHeteroscedasticDataModule, TwoMoonsDataModule
from lightning_vi.datamodules.toy_graph import ToyGraphDataModule
from lightning_vi.datamodules.toy_labels import ToyMultiLabelDataModule, ToyOrdinalDataModule
from lightning_vi.datamodules.toy_series import ToySeriesDataModule
from lightning_vi.datamodules.toy_text import ToyTextDataModule
from lightning_vi.datamodules.transport import Transport2DDataModule
from lightning_vi.datamodules.uci import UCIDataModule
from lightning_vi.datamodules.waves import WavesDataModule

__all__ = [
    "ADR1DDataModule",
    "ArrayDataModule",
    "CalibrationDataModule",
    "ClassSubsetDataModule",
    "DeblurringDataModule",
    "DiabetesDataModule",
    "DigitsDataModule",
    "ElasticBar1DDataModule",
    "FashionMNISTDataModule",
    "FunctionDataModule",
    "GraphDataModule",
    "Heat2DDataModule",
    "LoaderOptions",
    "MNISTDataModule",
    "NewTableDataModule",
    "PhotoPatchesDataModule",
    "SeriesDataModule",
    "ShapesDataModule",
    "ShiftedDataModule",
    "ShiftedDataset",
    "TabularDataModule",
    "ToyGraphDataModule",
    "ToyHeteroscedasticDataModule",
    "ToyMultiLabelDataModule",
    "ToyOrdinalDataModule",
    "ToySeriesDataModule",
    "ToyTextDataModule",
    "Transport2DDataModule",
    "TwoMoonsDataModule",
    "UCIDataModule",
    "WavesDataModule",
    "shift_images",
    "shifted_loader",
    "shifted_test_sets",
]
