"""The training data of a fit, for a pass after training."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.model_helpers import is_overridden

from lightning_vi.objectives import count_training_data


@dataclass(frozen=True)
class TrainingData:
    """The training data of a fit.

    Attributes:
        loader: Anything that yields batches.
        num_batches: Number of batches that the fit uses in an epoch.
        size: Number of data, None if unknown.
    """

    loader: Iterable[Any]
    num_batches: float
    size: int | None

    def batches(self) -> Iterator[Any]:
        """Yields the batches of an epoch; a stateful dataloader keeps its position."""
        with _keeping_position(self.loader):
            for index, batch in enumerate(self.loader):
                if index >= self.num_batches:
                    return
                yield batch


@contextmanager
def _keeping_position(loader: Iterable[Any]) -> Iterator[None]:
    state = loader.state_dict() if isinstance(loader, _Stateful) else None
    try:
        yield
    finally:
        if isinstance(loader, _Stateful) and state is not None:
            loader.load_state_dict(state)


def training_data_at_hand(trainer: Trainer) -> TrainingData | None:
    """Finds the training data of a Trainer's datamodule.

    Args:
        trainer: A Trainer that evaluates. A datamodule that wraps another one for calibration is looked through.

    Returns:
        The data; None if there is no datamodule with training data, or it has another table than the fit.
    """
    datamodule: Any = getattr(trainer, "datamodule", None)
    if getattr(datamodule, "gives_calibration_data", False):
        datamodule = datamodule.data
    if _has_another_table(datamodule, getattr(trainer.lightning_module, "data_state", None)):
        return None
    if datamodule is None or not is_overridden("train_dataloader", datamodule, LightningDataModule):
        return None
    datamodule.setup("fit")
    loader: Any = datamodule.train_dataloader()
    if trainer.world_size > 1:
        loader = trainer._data_connector._prepare_dataloader(loader, shuffle=False, mode=RunningStage.TRAINING)
    return TrainingData(loader, math.inf, count_training_data(loader))


def _has_another_table(datamodule: Any, trained_on: dict[str, Any] | None) -> bool:
    """Tells whether a datamodule has a table that it treats as new data of the fit."""
    here = getattr(datamodule, "data_state", None)
    if here is None or trained_on is None or here["kind"] != "table":
        return False
    return bool(here["tables"][0] != trained_on["tables"][0])
