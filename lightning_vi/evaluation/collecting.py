"""Collection of per-datum results over a dataloader, with or without a Trainer."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_vi.core import Predictor
from lightning_vi.core.batch import to_device
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.noise import private_random_state
from lightning_vi.sampling import evaluating

Reader: TypeAlias = Callable[[Mapping[str, Tensor], Any], tuple[Tensor, ...]]


def collect(
    method: Predictor, dataloader: Iterable[Any], read: Reader, *, name: str, trainer: Trainer | None
) -> tuple[Tensor, ...]:
    """Applies a function to the predictions of every batch and concatenates the results.

    The modes, device and trainer of the method and the global random state are restored afterwards, also after an
    exception. A shuffling dataloader has the same order in every call.

    Args:
        method: Method that predicts.
        dataloader: Batches.
        read: Function of the dictionary of `predict_step` and the batch that returns tensors of shape [B].
        name: Name of the dataloader in errors.
        trainer: Trainer whose `predict` is used; None calls `predict_step` on the device of the method.

    Returns:
        One tensor of shape [N] on the CPU for each tensor that `read` returns.

    Raises:
        TypeError: If `method` is not a `Predictor` or `dataloader` is not an iterable of batches.
        ValueError: If there are no data, or the trainer spawns processes.
    """
    if not isinstance(method, Predictor):
        raise InputTypeError(f"method must be a Predictor, got a {type(method).__name__}")
    if not isinstance(dataloader, Iterable) or isinstance(dataloader, Tensor | tuple | Mapping | str):
        raise InputTypeError(
            f"{name} must be a dataloader, such as datamodule.test_dataloader(), or a list of batches, "
            f"got a {type(dataloader).__name__}"
        )
    if trainer is not None and isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputValueError(
            "trainer must not spawn processes, which return no results; use strategy='ddp' or one device"
        )
    with evaluating(method), private_random_state(0, method.device), torch.no_grad():
        batches = _predict(method, dataloader, read) if trainer is None else _run(trainer, method, dataloader, read)
    if sum(len(batch[0]) for batch in batches) == 0:
        raise InputValueError(f"{name} has no data")
    return tuple(torch.cat(column).cpu() for column in zip(*batches, strict=True))


def check_not_nan(values: Tensor, name: str, dataloader: str) -> None:
    """Raises a `ValueError` if any of the values, [N], is NaN; `name` and `dataloader` are named in the error."""
    missing = int(values.isnan().sum())
    if missing:
        raise InputValueError(f"{name} is NaN for {missing} of the {len(values)} data of {dataloader}")


def _predict(method: Predictor, dataloader: Iterable[Any], read: Reader) -> list[tuple[Tensor, ...]]:
    batches = []
    for index, host_batch in enumerate(dataloader):
        batch = to_device(method, host_batch)
        batches.append(read(method.predict_step(batch, index), batch))
    return batches


def _run(trainer: Trainer, method: Predictor, dataloader: Iterable[Any], read: Reader) -> list[tuple[Tensor, ...]]:
    collector = _Collector(read)
    device, attached = method.device, method._trainer
    # Lightning would treat a list as several dataloaders.
    loader = DataLoader(dataloader, batch_size=None) if isinstance(dataloader, list) else dataloader  # type: ignore[arg-type]
    trainer.callbacks.append(collector)  # type: ignore[attr-defined]
    try:
        trainer.predict(method, loader, return_predictions=False)
    finally:
        trainer.callbacks.remove(collector)  # type: ignore[attr-defined]
        method.to(device)
        method.trainer = attached
    return collector.batches


class _Collector(Callback):
    """Applies `read` to every prediction; in distributed prediction every rank gets the results of all ranks."""

    def __init__(self, read: Reader) -> None:
        self.read = read
        self.batches: list[tuple[Tensor, ...]] = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,
        batch: Any,
        batch_idx: int,  # noqa: ARG002
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        self.batches.append(self.read(outputs, batch))

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        if trainer.world_size > 1:
            own = [tuple(column.cpu() for column in batch) for batch in self.batches]
            gathered: list[list[tuple[Tensor, ...]]] = [[]] * trainer.world_size
            torch.distributed.all_gather_object(gathered, own)
            self.batches = [batch for batches in gathered for batch in batches]
