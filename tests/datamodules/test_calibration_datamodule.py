"""CalibrationDataModule: training data are the calibration data of another datamodule."""

import pickle
from typing import Any

import pytest
import torch
from helpers import loader, quiet_trainer
from lightning import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_vi import Deterministic
from lightning_vi.datamodules import CalibrationDataModule, DiabetesDataModule, ToyHeteroscedasticDataModule
from lightning_vi.likelihoods import Gaussian

TRAIN, CALIBRATION, OTHER = (torch.full((6, 1), value) for value in (1.0, 2.0, 3.0))


class RecordingDataModule(LightningDataModule):
    """Records the calls of its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare_data")

    def setup(self, stage: str) -> None:
        assert self.trainer is not None
        self.calls.append(f"setup {TrainerFn(stage).name}")

    def teardown(self, stage: str) -> None:
        self.calls.append(f"teardown {TrainerFn(stage).name}")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [10 * part for part in batch]

    def train_dataloader(self) -> DataLoader[Any]:
        return loader(TRAIN, TRAIN)

    def calibration_dataloader(self) -> DataLoader[Any]:
        return loader(CALIBRATION, CALIBRATION)

    def test_dataloader(self) -> DataLoader[Any]:
        return loader(OTHER, OTHER)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": len(self.calls)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.calls = ["loaded"] * state_dict["calls"]


class RecordingMethod(Deterministic):
    """Records the inputs of training."""

    seen: Tensor

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        self.seen = batch[0]
        return super().training_step(batch, batch_idx)


def test_trainer_gets_the_calibration_data_through_all_hooks() -> None:
    data, method = RecordingDataModule(), RecordingMethod(torch.nn.Linear(1, 1), Gaussian())
    trainer = quiet_trainer()
    trainer.fit(method, CalibrationDataModule(data))
    assert (method.seen == 20).all()
    assert data.calls == ["prepare_data", "setup FITTING", "teardown FITTING"]
    trainer.test(method, CalibrationDataModule(data), verbose=False)
    assert data.calls[-2:] == ["setup TESTING", "teardown TESTING"]


def test_everything_else_is_delegated() -> None:
    data = DiabetesDataModule()
    wrapped = CalibrationDataModule(data)
    assert wrapped.gives_calibration_data
    assert torch.equal(wrapped.target_mean, data.target_mean)
    assert torch.equal(wrapped.target_std, data.target_std)
    for ours, theirs in (
        (wrapped.train_dataloader(), data.calibration_dataloader()),
        (wrapped.calibration_dataloader(), data.calibration_dataloader()),
        (wrapped.val_dataloader(), data.val_dataloader()),
        (wrapped.test_dataloader(), data.test_dataloader()),
        (wrapped.predict_dataloader(), data.predict_dataloader()),
    ):
        assert all(torch.equal(a[0], b[0]) for a, b in zip(ours, theirs, strict=True))
    assert CalibrationDataModule(ToyHeteroscedasticDataModule()).target_mean is None
    assert CalibrationDataModule(RecordingDataModule()).val_dataloader() == []
    assert CalibrationDataModule(RecordingDataModule()).target_std is None


def test_state_is_that_of_the_wrapped_datamodule() -> None:
    data = RecordingDataModule()
    data.calls = ["one", "two"]
    wrapped, other = CalibrationDataModule(data), CalibrationDataModule(RecordingDataModule())
    other.load_state_dict(wrapped.state_dict())
    assert other.data.calls == ["loaded", "loaded"]


def test_can_be_pickled() -> None:
    data = ToyHeteroscedasticDataModule()
    assert torch.equal(pickle.loads(pickle.dumps(CalibrationDataModule(data))).data.X_calib, data.X_calib)


def test_datamodules_without_calibration_data_are_rejected() -> None:
    with pytest.raises(TypeError, match=r"must have a calibration_dataloader\(\), but LightningDataModule has none"):
        CalibrationDataModule(LightningDataModule())
    with pytest.raises(TypeError, match="data must be a LightningDataModule, got a DataLoader"):
        CalibrationDataModule(loader(TRAIN))  # type: ignore[arg-type]
    without = DiabetesDataModule(calib_fraction=0.0)
    with pytest.raises(ValueError, match="has no calibration split"):
        CalibrationDataModule(without).train_dataloader()
