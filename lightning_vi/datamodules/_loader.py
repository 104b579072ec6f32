"""Dataloader that a resumed fit continues where it was."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader


class ResumableLoader(DataLoader[Any]):
    """`DataLoader` whose position within an epoch is part of Lightning's checkpoints.

    A pass after `load_state_dict` starts after the batches that had been delivered, if the epoch is the same; the
    sampler must depend on the epoch alone. Skipped batches are made and discarded. A pass starts with its first batch,
    when Lightning has told the sampler the epoch.
    """

    yields_plain_batches = True
    _position: tuple[int, int] = (0, 0)
    _resumed: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        epoch: int = getattr(self.sampler, "epoch", 0)
        first = self._resumed[1] if self._resumed is not None and self._resumed[0] == epoch else 0
        self._resumed = None
        self._position = (epoch, first)
        for index, batch in enumerate(super().__iter__()):
            if index >= first:
                self._position = (epoch, index + 1)
                yield batch

    def state_dict(self) -> dict[str, Any]:
        """Returns the epoch and the number of batches that have been delivered in it."""
        epoch, num_batches = self._position if self._resumed is None else self._resumed
        return {"epoch": epoch, "num_batches": num_batches}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Sets the position at which the next pass starts."""
        epoch, num_batches = state["epoch"], state["num_batches"]
        if num_batches >= len(self):
            epoch, num_batches = epoch + 1, 0
        self._resumed = (epoch, num_batches)
        if hasattr(self.sampler, "set_epoch"):
            self.sampler.set_epoch(epoch)
