"""Averages over an epoch, at the cost of one addition a step."""

from collections.abc import Mapping

from torch import Tensor


class EpochMeans:
    """Weighted means of named scalars.

    They stand in for `LightningModule.log` in the training step, and reach the logger once an epoch.

    Example:
        >>> import torch
        >>> means = EpochMeans()
        >>> means.update({"loss": torch.tensor(1.0)}, weight=3)
        >>> means.update({"loss": torch.tensor(5.0)}, weight=1)
        >>> means.pop()
        {'loss': tensor(2.)}
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._weights: dict[str, int] = {}

    def update(self, values: Mapping[str, Tensor], weight: int) -> None:
        """Adds the values of one step.

        Args:
            values: Scalar tensors by name.
            weight: How much they count, such as the size of the batch.
        """
        for name, value in values.items():
            weighted = value.detach() * weight
            known = name in self._sums
            self._sums[name] = self._sums[name] + weighted if known else weighted
            self._weights[name] = self._weights[name] + weight if known else weight

    def pop(self) -> dict[str, Tensor]:
        """The means, by name; the next epoch starts from nothing."""
        means = {name: total / self._weights[name] for name, total in self._sums.items()}
        self._sums, self._weights = {}, {}
        return means
