"""Batches in a separate order for each member of an ensemble."""

from collections.abc import Iterator
from itertools import repeat
from typing import Any

from lightning import LightningModule

from lightning_vi.core.batch import to_device
from lightning_vi.core.bootstrap import BootstrapOrders
from lightning_vi.core.data_order import DataOrders, can_reorder
from lightning_vi.errors import InputValueError
from lightning_vi.noise import NoiseStream


class SeparateOrders(LightningModule):
    """Base class of ensembles whose members see the training data in different orders.

    Attributes:
        own_data_order: Whether they do.
        bootstrap_block: Number of rows of a block of each member's bootstrap sample; None to train all on all data.
        noise: Its seed determines the orders.
    """

    own_data_order = True
    bootstrap_block: int | None = None
    noise: NoiseStream
    _orders: DataOrders | BootstrapOrders | None = None
    _other_batches: Iterator[tuple[Any, ...]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_orders": None, "_other_batches": None}

    def on_train_start(self) -> None:
        """Releases the batches of an interrupted fit."""
        super().on_train_start()
        self._other_batches = None

    def on_train_epoch_start(self) -> None:
        """Releases the batches of the previous epoch."""
        super().on_train_epoch_start()
        self._other_batches = None

    def on_train_end(self) -> None:
        """Releases the dataloaders."""
        super().on_train_end()
        self._orders = self._other_batches = None

    def member_batches(self, batch: Any, batch_idx: int, num_members: int) -> list[Any]:
        """Returns the batches of a step.

        Args:
            batch: Batch of the first member.
            batch_idx: Its index in the epoch.
            num_members: Number of members.

        Returns:
            One batch for each member, or a single one that serves all members.
        """
        if self._other_batches is None:
            self._other_batches = self._start_orders(batch_idx, num_members)
        others = [to_device(self, other) for other in next(self._other_batches)]
        return others if self.bootstrap_block is not None else [batch, *others]

    def _start_orders(self, first_batch: int, num_members: int) -> Iterator[tuple[Any, ...]]:
        """Shuffles the data for all members except the first; a fit may be resumed within an epoch."""
        loader = self.trainer.train_dataloader
        if self.bootstrap_block is not None:
            return self._start_samples(loader, first_batch, num_members, self.bootstrap_block)
        if not (self.own_data_order and num_members > 1 and can_reorder(loader)):
            self._orders = None
            return repeat(())
        if self._orders is None or self._orders.dataloader is not loader:
            self._orders = DataOrders(loader, num_members - 1, self.noise.seed)
        return self._orders.epoch(self.current_epoch, first_batch)

    def _start_samples(self, loader: Any, first_batch: int, num_members: int, block: int) -> Iterator[tuple[Any, ...]]:
        if self.trainer.world_size > 1:
            raise InputValueError(
                f"bootstrap_block={block} draws rows of the whole training set, but the Trainer has "
                f"{self.trainer.world_size} processes: fit with Trainer(devices=1)"
            )
        if self._orders is None or self._orders.dataloader is not loader:
            self._orders = BootstrapOrders(loader, num_members, block, self.noise.seed)
        return self._orders.epoch(self.current_epoch, first_batch)
