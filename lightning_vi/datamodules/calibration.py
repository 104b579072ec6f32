"""Datamodule that serves the calibration data of another datamodule as training data."""

from typing import Any

from lightning import LightningDataModule

from lightning_vi.datamodules._wrapped import WrappedDataModule
from lightning_vi.errors import InputTypeError


class CalibrationDataModule(WrappedDataModule):
    """Wraps a datamodule so that its calibration data are the training data of a `Trainer`.

    Pass it to ``Trainer.fit`` to fit a method that is calibrated after training. Validation, test and prediction data,
    the scaling of the targets and all hooks are delegated to the wrapped datamodule.

    Args:
        data: A datamodule with a `calibration_dataloader`.

    Attributes:
        gives_calibration_data: True; methods read it to tell calibration data from training data.

    Raises:
        TypeError: If `data` is not a datamodule or has no `calibration_dataloader`.

    Example:
        >>> from lightning_vi.datamodules import ToyHeteroscedasticDataModule
        >>> dm = CalibrationDataModule(ToyHeteroscedasticDataModule(n_points=500))
        >>> sum(len(x) for x, _ in dm.train_dataloader())
        20
    """

    gives_calibration_data = True

    def __init__(self, data: LightningDataModule) -> None:
        super().__init__(data)
        if not callable(getattr(data, "calibration_dataloader", None)):
            raise InputTypeError(f"data must have a calibration_dataloader(), but {type(data).__name__} has none")

    def train_dataloader(self) -> Any:
        """Returns the `calibration_dataloader` of the wrapped datamodule."""
        return self.data.calibration_dataloader()
