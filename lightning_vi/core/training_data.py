"""The training data of a fit, for a pass after training."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightning import LightningDataModule, Trainer
from lightning.fabric.utilities.types import _Stateful
from lightning.pytorch.trainer.states import RunningStage
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from lightning_vi.core.data_order import with_sampler
from lightning_vi.core.loader_rows import without_repeated_rows
from lightning_vi.errors import InputTypeError
from lightning_vi.objectives import count_training_data


@dataclass(frozen=True)
class TrainingData:
    """The training data of a fit.

    Attributes:
        loader: Anything that yields batches.
        size: Number of data, None if unknown.
    """

    loader: Iterable[Any]
    size: int | None

    def batches(self) -> Iterator[Any]:
        """Yields the batches of an epoch, with each row once in all processes.

        They are those of all N rows, also where the fit leaves out the last batch or limits the number of batches,
        because the prior has the weight of one among N. A stateful dataloader keeps its position.
        """
        loader = _with_last_batch(self.loader)
        with _keeping_position(loader):
            yield from without_repeated_rows(loader, loader)


def single_dataloader(trainer: Trainer) -> Any:
    """Returns the training dataloader of a Trainer.

    Args:
        trainer: A Trainer that fits.

    Returns:
        Whatever yields the batches.

    Raises:
        TypeError: If there are several dataloaders.
    """
    loader: Any = trainer.train_dataloader
    if isinstance(loader, list | tuple | dict):
        names = f"the keys {list(loader)}" if isinstance(loader, dict) else f"{len(loader)} entries"
        raise InputTypeError(
            f"train_dataloader must be one dataloader, got a {type(loader).__name__} with {names}: join the data sets "
            "with torch.utils.data.ConcatDataset"
        )
    return loader


def _with_last_batch(loader: Iterable[Any]) -> Iterable[Any]:
    """The same batches and the rows that a dataloader leaves out: a smaller last batch, and rows it does not sample."""
    if type(loader) is not DataLoader or type(loader.batch_sampler) is not BatchSampler:
        return loader
    sampler: Any = loader.sampler
    is_partial = isinstance(sampler, RandomSampler) and sampler.num_samples < len(sampler.data_source)
    if not (loader.drop_last or is_partial):
        return loader
    if is_partial:
        sampler = RandomSampler(sampler.data_source, generator=sampler.generator)
    return with_sampler(loader, sampler, drop_last=False)


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
    return TrainingData(loader, count_training_data(loader))


def _has_another_table(datamodule: Any, trained_on: dict[str, Any] | None) -> bool:
    """Tells whether a datamodule has a table that it treats as new data of the fit."""
    here = getattr(datamodule, "data_state", None)
    if here is None or trained_on is None or here["kind"] != "table":
        return False
    return bool(here["tables"][0] != trained_on["tables"][0])
