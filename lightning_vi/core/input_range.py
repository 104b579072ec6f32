"""Mean and standard deviation of the training inputs, to notice inputs that were not scaled as they were."""

from typing import Any, Self

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_vi.sampling import NetworkInput

MAX_DISTANCE = 20.0
"""In standard deviations of the training inputs."""
MAX_CHECKS = 16


class InputRange:
    """Warns once if the first batches lie far from the training inputs, as raw values of a table do.

    The distance of a batch is that of its mean from the mean of the training inputs, in standard deviations, as the
    root mean square over features that are not constant. Single outliers and a distance of some standard deviations,
    as of out-of-distribution data, are not reported.

    Args:
        mean: Means of the training inputs, shape [F].
        std: Their standard deviations, shape [F].

    Example:
        >>> inputs = InputRange.of(torch.randn(100, 3))
        >>> inputs.distance(torch.full((4, 3), 50.0)) > 20
        True
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean
        self.std = std
        self._num_checks = 0

    @classmethod
    def of(cls, inputs: Tensor) -> Self:
        """Returns the range of training inputs.

        Args:
            inputs: Shape [n, F].
        """
        std, mean = torch.std_mean(inputs.detach().cpu().float(), dim=0, correction=0)
        return cls(mean, std)

    def state(self) -> dict[str, Tensor]:
        """Returns the means and standard deviations, for a checkpoint."""
        return {"mean": self.mean, "std": self.std}

    def distance(self, x: Tensor) -> float:
        """Returns the distance of a batch.

        Args:
            x: Shape [B, F].
        """
        mean = x.detach().float().mean(0).cpu()
        varies = self.std > 1e-6 * (self.mean.abs() + 1e-30)
        distances = ((mean - self.mean) / self.std)[varies]
        return float(distances.square().mean().sqrt()) if len(distances) else 0.0

    def check(self, x: NetworkInput) -> None:
        """Warns if a batch lies far away; does nothing after some batches, or for inputs of another form.

        Args:
            x: Input of a prediction.
        """
        if self._num_checks >= MAX_CHECKS:
            return
        if not isinstance(x, Tensor) or x.shape[1:] != self.mean.shape or not x.is_floating_point() or len(x) == 0:
            return
        self._num_checks += 1
        distance = self.distance(x)
        if distance > MAX_DISTANCE:
            self._num_checks = MAX_CHECKS
            rank_zero_warn(
                f"The inputs lie {distance:.0f} standard deviations of the training inputs away from their mean. If "
                "they are raw values of a table that was standardized for the training, scale them in the same way: by "
                "datamodule.transform(table) of the TabularDataModule, or NewTableDataModule(table, checkpoint).X"
            )


def input_range_from(state: Any) -> InputRange | None:
    """Returns the range whose `state` is given, or None.

    Args:
        state: The entry of a checkpoint, or None.
    """
    return None if state is None else InputRange(state["mean"], state["std"])
