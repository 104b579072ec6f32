"""Datamodule that serves the calibration data of another datamodule as training data."""

from typing import Any, Literal

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError

Rows = Literal["calib", "train"]
LOADERS: dict[str, str] = {"calib": "calibration_dataloader", "train": "ordered_train_dataloader"}
"""Methods of a datamodule that serve the rows."""


class CalibrationDataModule(LightningDataModule):
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
        super().__init__()
        if rows not in LOADERS:
            raise InputValueError(f"rows must be one of {list(LOADERS)}, got {rows!r}")
        if not isinstance(data, LightningDataModule):
            raise InputTypeError(f"data must be a LightningDataModule, got a {type(data).__name__}")
        if not callable(getattr(data, LOADERS[rows], None)):
            raise InputTypeError(f"data must have a {LOADERS[rows]}(), but {type(data).__name__} has none")
        self.data: Any = data
        self.rows = rows

    @property
    def target_mean(self) -> Tensor | None:
        """Mean of the training targets of the wrapped datamodule, [D]; None if it has none."""
        mean: Tensor | None = getattr(self.data, "target_mean", None)
        return mean

    @property
    def target_std(self) -> Tensor | None:
        """Standard deviation of the training targets of the wrapped datamodule, [D]; None if it has none."""
        std: Tensor | None = getattr(self.data, "target_std", None)
        return std

    @property
    def data_state(self) -> dict[str, Any] | None:
        """State of the wrapped datamodule, by which new data are treated; None if it has none."""
        state: dict[str, Any] | None = getattr(self.data, "data_state", None)
        return state

    @property
    def predict_row_ids(self) -> Any:
        """Name and values of the identifiers of the rows for prediction; None if it has none."""
        return getattr(self.data, "predict_row_ids", None)

    def prepare_data(self) -> None:
        """Calls `prepare_data` of the wrapped datamodule."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Calls `setup` of the wrapped datamodule, which is attached to the same trainer."""
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def teardown(self, stage: str) -> None:
        """Calls `teardown` of the wrapped datamodule."""
        self.data.teardown(stage)

    def train_dataloader(self) -> Any:
        """Returns the `calibration_dataloader` of the wrapped datamodule, or its training rows in order."""
        return getattr(self.data, LOADERS[self.rows])()

    def val_dataloader(self) -> Any:
        """Returns the `val_dataloader` of the wrapped datamodule; an empty list if it has none."""
        return self.data.val_dataloader() if is_overridden("val_dataloader", self.data, LightningDataModule) else []

    def test_dataloader(self) -> Any:
        """Returns the `test_dataloader` of the wrapped datamodule."""
        return self.data.test_dataloader()

    def predict_dataloader(self) -> Any:
        """Returns the `predict_dataloader` of the wrapped datamodule."""
        return self.data.predict_dataloader()

    def calibration_dataloader(self) -> Any:
        """Returns the `calibration_dataloader` of the wrapped datamodule."""
        return self.data.calibration_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Calls the hook of the wrapped datamodule."""
        return self.data.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Calls the hook of the wrapped datamodule."""
        return self.data.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Calls the hook of the wrapped datamodule."""
        return self.data.on_after_batch_transfer(batch, dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the wrapped datamodule."""
        state: dict[str, Any] = self.data.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the state of the wrapped datamodule."""
        self.data.load_state_dict(state_dict)
