"""The calibration data of another datamodule in the place of its training data."""

from typing import Any

import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor


class CalibrationDataModule(LightningDataModule):
    """Another datamodule whose calibration data stand where a `Trainer` looks for training data.

    Methods that calibrate after training take it in ``Trainer.fit``. The data for validation, test and prediction, the
    scaling of the target and all hooks are those of the wrapped datamodule.

    Args:
        data: A datamodule with a `calibration_dataloader`.

    Attributes:
        gives_calibration_data: True, by which such methods know it.

    Raises:
        TypeError: If `data` is no datamodule or has no `calibration_dataloader`.

    Example:
        >>> from lightning_vi.datamodules import ToyHeteroscedasticDataModule
        >>> dm = CalibrationDataModule(ToyHeteroscedasticDataModule(n_points=500))
        >>> sum(len(x) for x, _ in dm.train_dataloader())
        20
    """

    gives_calibration_data = True

    def __init__(self, data: LightningDataModule) -> None:
        super().__init__()
        if not isinstance(data, LightningDataModule):
            raise TypeError(f"data must be a LightningDataModule, got a {type(data).__name__}")
        if not callable(getattr(data, "calibration_dataloader", None)):
            raise TypeError(f"data must have a calibration_dataloader(), but {type(data).__name__} has none")
        self.data: Any = data

    @property
    def target_mean(self) -> Tensor | None:
        """The wrapped datamodule's mean of the training targets, shape [D]; None where it gives none."""
        mean: Tensor | None = getattr(self.data, "target_mean", None)
        return mean

    @property
    def target_std(self) -> Tensor | None:
        """The wrapped datamodule's standard deviation of the training targets, shape [D]; None where it gives none."""
        std: Tensor | None = getattr(self.data, "target_std", None)
        return std

    def prepare_data(self) -> None:
        """Prepares the wrapped datamodule."""
        self.data.prepare_data()

    def setup(self, stage: str) -> None:
        """Sets the wrapped datamodule up."""
        self.data.trainer = self.trainer
        self.data.setup(stage)

    def teardown(self, stage: str) -> None:
        """Tears the wrapped datamodule down."""
        self.data.teardown(stage)

    def train_dataloader(self) -> Any:
        """Returns the wrapped datamodule's `calibration_dataloader`."""
        return self.data.calibration_dataloader()

    def val_dataloader(self) -> Any:
        """Returns the wrapped datamodule's; without one, an empty list."""
        return self.data.val_dataloader() if is_overridden("val_dataloader", self.data, LightningDataModule) else []

    def test_dataloader(self) -> Any:
        """Returns the wrapped datamodule's."""
        return self.data.test_dataloader()

    def predict_dataloader(self) -> Any:
        """Returns the wrapped datamodule's."""
        return self.data.predict_dataloader()

    def calibration_dataloader(self) -> Any:
        """Returns the wrapped datamodule's."""
        return self.data.calibration_dataloader()

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Does what the wrapped datamodule does."""
        return self.data.on_before_batch_transfer(batch, dataloader_idx)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Does what the wrapped datamodule does."""
        return self.data.transfer_batch_to_device(batch, device, dataloader_idx)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Does what the wrapped datamodule does."""
        return self.data.on_after_batch_transfer(batch, dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        """Returns the wrapped datamodule's state."""
        state: dict[str, Any] = self.data.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores the wrapped datamodule's state."""
        self.data.load_state_dict(state_dict)
