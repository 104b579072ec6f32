"""Base class of methods whose posterior is made from the Fisher information of the network's outputs."""

from collections.abc import Iterator
from operator import itemgetter
from typing import Any

from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from lightning_vi.core.batch import check_values
from lightning_vi.core.fitted import FittedMethod
from lightning_vi.sampling import NetworkInput, map_tensors, memory, num_fitting, rows_first


class InformedMethod(FittedMethod):
    """Base class of methods that sum Fisher information over the training data.

    The arguments are those of `UQMethod`.
    """

    def weighted_batch(self, batch: Any) -> tuple[NetworkInput, Tensor, Tensor | None]:
        """Returns input, target and weights of a batch, on the device, after a check of their values.

        Args:
            batch: A labeled batch.
        """
        x, target, weight = self._labeled(apply_to_collection(batch, Tensor, lambda tensor: tensor.to(self.device)))
        check_values(self.likelihood, x, target, weight, "training inputs")
        return x, target, self.likelihood.element_weights(target, weight)

    def output_weights(self, target: Tensor, weight: Tensor | None, outputs: Tensor) -> Tensor | None:
        """Returns the weights of the network's outputs, zero where the target is missing; None if all are one.

        Args:
            target: Targets, shape [B, ...].
            weight: Weights of the rows or of the target's elements, or None.
            outputs: Network outputs, shape [B, ...].
        """
        observed = self.likelihood.observed(target)
        if observed is not None:
            of_rows = 1.0 if weight is None else weight.view(*weight.shape, *[1] * (target.dim() - weight.dim()))
            weight = observed * of_rows
        return None if weight is None else self.likelihood.per_output(weight.to(outputs.dtype), outputs)

    def parts_for_information(
        self, x: NetworkInput, target: Tensor, weight: Tensor | None
    ) -> Iterator[tuple[NetworkInput, Tensor, Tensor | None]]:
        """Yields rows of a batch in parts, because the Fisher information of each is a matrix over its outputs.

        Args:
            x: Input, each tensor of shape [B, ...].
            target: Targets, shape [B, ...].
            weight: Weights of the rows or of the target's elements, or None.
        """
        num_rows, outputs_per_row = len(target), self.likelihood.num_outputs * max(1, target[:1].numel())
        size = num_fitting(memory.MAX_INFORMATION_NUMBERS, outputs_per_row**2)
        if size >= num_rows or not rows_first(x):
            yield x, target, weight
            return
        for first in range(0, num_rows, size):
            rows = slice(first, first + size)
            yield map_tensors(itemgetter(rows), x), target[rows], None if weight is None else weight[rows]

    def sum_over_processes(self, tensor: Tensor) -> Tensor:
        """Returns the sum of a tensor over all processes of a Trainer.

        Args:
            tensor: Any shape.
        """
        if self._trainer is None or self.trainer.world_size == 1:
            return tensor
        reduced: Tensor = self.trainer.strategy.reduce(tensor, reduce_op="sum")
        return reduced
