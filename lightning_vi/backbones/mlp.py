"""The multilayer perceptron."""

import copy
import itertools
from collections.abc import Sequence

from torch import nn


class MLP(nn.Sequential):
    """Fully connected layers with an activation, and optionally dropout, after each but the last.

    Args:
        n_inputs: Width of the input.
        n_hidden: Widths of the hidden layers.
        n_outputs: Width of the output: D for `Gaussian`, 2 D for `HeteroscedasticGaussian`, C for `Categorical`.
        dropout_p: Probability that a hidden unit is dropped; 0 leaves the dropout layers out.
        activation_fn: The activation; each layer has a copy of its own.

    Raises:
        ValueError: If a width is not positive or `dropout_p` lies outside [0, 1).

    Example:
        >>> import torch
        >>> MLP(n_inputs=1, n_hidden=[50, 50], n_outputs=2)(torch.zeros(8, 1)).shape
        torch.Size([8, 2])
    """

    def __init__(
        self,
        n_inputs: int,
        n_hidden: Sequence[int],
        n_outputs: int,
        dropout_p: float = 0.0,
        activation_fn: nn.Module | None = None,
    ) -> None:
        widths = [n_inputs, *n_hidden, n_outputs]
        if min(widths) < 1:
            raise ValueError(
                f"n_inputs, n_hidden and n_outputs must be positive, got {n_inputs}, {n_hidden}, {n_outputs}"
            )
        if not 0 <= dropout_p < 1:
            raise ValueError(f"dropout_p must lie in [0, 1), got {dropout_p}")
        activation = nn.ReLU() if activation_fn is None else activation_fn
        modules: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths[:-1]):
            modules += [nn.Linear(fan_in, fan_out), copy.deepcopy(activation)]
            if dropout_p > 0:
                modules.append(nn.Dropout(dropout_p))
        super().__init__(*modules, nn.Linear(widths[-2], n_outputs))
