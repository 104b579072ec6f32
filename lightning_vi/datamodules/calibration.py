"""Datamodule that serves the calibration data of another datamodule as training data."""

from typing import Any, Literal

from lightning import LightningDataModule

from lightning_vi.datamodules._wrapped import WrappedDataModule
from lightning_vi.errors import InputTypeError, InputValueError

Rows = Literal["calib", "train"]
LOADERS: dict[str, str] = {"calib": "calibration_dataloader", "train": "ordered_train_dataloader"}
"""Methods of a datamodule that serve the rows."""


class CalibrationDataModule(WrappedDataModule):
    """Wraps a datamodule so that its calibration data are the training data of a `Trainer`.

    Pass it to ``Trainer.fit`` to fit a method that is calibrated after training. Validation, test and prediction data,
    the scaling of the targets and all hooks are delegated to the wrapped datamodule.

    Args:
        data: A datamodule with a `calibration_dataloader`.
        rows: ``"calib"`` for its calibration rows; ``"train"`` for its training rows in order, from its
            `ordered_train_dataloader`, which `EnbPI` needs.

    Attributes:
        gives_calibration_data: True; methods read it to tell calibration data from training data.

    Raises:
        TypeError: If `data` is not a datamodule or has no such dataloader.
        ValueError: If `rows` is unknown.

    Example:
        >>> from lightning_vi.datamodules import ToyHeteroscedasticDataModule
        >>> dm = CalibrationDataModule(ToyHeteroscedasticDataModule(n_points=500))
        >>> sum(len(x) for x, _ in dm.train_dataloader())
        20
    """

    gives_calibration_data = True

    def __init__(self, data: LightningDataModule, rows: Rows = "calib") -> None:
        super().__init__(data)
        if rows not in LOADERS:
            raise InputValueError(f"rows must be one of {list(LOADERS)}, got {rows!r}")
        if not callable(getattr(data, LOADERS[rows], None)):
            raise InputTypeError(f"data must have a {LOADERS[rows]}(), but {type(data).__name__} has none")
        self.rows = rows

    def train_dataloader(self) -> Any:
        """Returns the `calibration_dataloader` of the wrapped datamodule, or its training rows in order."""
        return getattr(self.data, LOADERS[self.rows])()
