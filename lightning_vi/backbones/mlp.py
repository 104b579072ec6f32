"""Multilayer perceptron."""

import copy
import itertools
from collections.abc import Sequence

from torch import nn

from lightning_vi.errors import InputValueError


class MLP(nn.Sequential):
    """Multilayer perceptron: linear layers with an activation, and optionally dropout, after all but the last one.

    Args:
        n_inputs: Number of inputs.
        n_hidden: Widths of the hidden layers.
        n_outputs: Number of outputs: D for `Gaussian`, 2 D for `HeteroscedasticGaussian`, C for `Categorical`.
        dropout_p: Dropout probability of the hidden units; 0 for no dropout layers.
        activation_fn: Activation, copied for each layer; None for ReLU.

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
            raise InputValueError(
                f"n_inputs, n_hidden and n_outputs must be positive, got {n_inputs}, {n_hidden}, {n_outputs}"
            )
        if not 0 <= dropout_p < 1:
            raise InputValueError(f"dropout_p must lie in [0, 1), got {dropout_p}")
        activation = nn.ReLU() if activation_fn is None else activation_fn
        modules: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(widths[:-1]):
            modules += [nn.Linear(fan_in, fan_out), copy.deepcopy(activation)]
            if dropout_p > 0:
                modules.append(nn.Dropout(dropout_p))
        super().__init__(*modules, nn.Linear(widths[-2], n_outputs))
