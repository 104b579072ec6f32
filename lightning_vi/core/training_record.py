"""Means of the terms of a loss over an epoch."""

from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection

Terms = dict[str, Tensor]


class TrainingRecord:
    """Sums of the logged terms and the training metrics over the epoch so far, which a resumed fit continues.

    Args:
        metrics: The training metrics.
    """

    def __init__(self, metrics: MetricCollection) -> None:
        self.metrics = metrics
        self._sums: Terms = {}
        self._num_rows = 0

    def reset(self) -> None:
        """Starts an epoch."""
        self._sums, self._num_rows = {}, 0
        self.metrics.reset()

    def add(self, terms: Terms, num_rows: int) -> None:
        """Adds the terms of a batch.

        Args:
            terms: Means over the batch by name, scalar tensors.
            num_rows: Number of rows of the batch.
        """
        # One addition a step: `LightningModule.log` in each step would cost as much as a small network.
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, 0.0) + value.detach() * num_rows
        self._num_rows += num_rows

    def means(self) -> Terms:
        """Returns the means over the rows of the epoch, by name."""
        return {name: total / self._num_rows for name, total in self._sums.items()}

    def state(self, epoch: int) -> dict[str, Any] | None:
        """Returns the sums for a checkpoint; None if there are none.

        Args:
            epoch: Index of the epoch.
        """
        if not self._sums:
            return None
        self.metrics.persistent(True)
        metrics = self.metrics.state_dict()
        self.metrics.persistent(False)
        sums = {name: total.clone() for name, total in self._sums.items()}
        return {"epoch": epoch, "sums": sums, "rows": self._num_rows, "metrics": metrics}

    def restore(self, state: dict[str, Any]) -> None:
        """Continues with the sums of a checkpoint.

        Args:
            state: A result of `state`.
        """
        self._sums, self._num_rows = dict(state["sums"]), state["rows"]
        self.metrics.load_state_dict(state["metrics"], strict=False)
        for metric in self.metrics.values(copy_state=False):
            metric._update_count = 1  # not part of the state; 0 would mean that there is nothing to compute
