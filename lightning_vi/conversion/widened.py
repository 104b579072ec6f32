"""Additional inputs for a network that was made for fewer."""

import copy
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_vi.errors import InputValueError

POOLED_SIZE = 4
"""Number of cells per spatial dimension in the summary of an image."""


@dataclass(frozen=True)
class FirstLayer:
    """The inputs that the first layer of a network takes, and how others are put beside them.

    Attributes:
        num_inputs: Number of features F of a linear layer, or channels C of a convolution.
        num_spatial: Number of spatial dimensions of a convolution; 0 for a linear layer.
    """

    num_inputs: int
    num_spatial: int

    @property
    def summary_size(self) -> int:
        """Length of a row of `summary`."""
        return cast(int, self.num_inputs * POOLED_SIZE**self.num_spatial)

    def aligned(self, x: Tensor) -> Tensor:
        """Input in the shape to which further inputs can be appended: flattened if the network flattens it.

        Args:
            x: Input, shape [B, ...].

        Returns:
            Shape [B, ..., F] or [B, C, ...].

        Raises:
            ValueError: If the layer does not take this input.
        """
        if self.num_spatial:
            is_right = x.dim() == self.num_spatial + 2 and x.shape[1] == self.num_inputs
        elif x.dim() > 2 and x.shape[-1] != self.num_inputs:
            x = x.flatten(1)
            is_right = x.shape[1] == self.num_inputs
        else:
            is_right = x.dim() > 1 and x.shape[-1] == self.num_inputs
        if not is_right:
            kind = f"{self.num_inputs} channels" if self.num_spatial else f"{self.num_inputs} inputs"
            raise InputValueError(
                f"the backbone takes {kind}, got an input of shape {tuple(x.shape)}: give a backbone for the inputs of "
                "the data alone, because its first layer is widened for the latent variables"
            )
        return x

    def append(self, x: Tensor, values: Tensor) -> Tensor:
        """Input with further features or constant channels, the same at all positions of a row.

        Args:
            x: The result of `aligned`, with leading dimensions: [L, B, ...].
            values: Shape [L, B, K].

        Returns:
            Shape [L, B, ..., F + K] or [L, B, C + K, ...].
        """
        num_rows, positions = values.shape[:2], [1] * (x.dim() - 3)
        if self.num_spatial:
            values = values.reshape(*num_rows, -1, *positions).expand(*num_rows, -1, *x.shape[3:])
            return torch.cat([x, values], 2)
        values = values.reshape(*num_rows, *positions, -1).expand(*num_rows, *x.shape[2:-1], -1)
        return torch.cat([x, values], -1)

    def summary(self, x: Tensor) -> Tensor:
        """A fixed number of features of an input of any size: means over positions.

        Args:
            x: The result of `aligned`.

        Returns:
            Shape [B, summary_size].
        """
        if not self.num_spatial:
            return x if x.dim() == 2 else x.flatten(1, -2).mean(1)
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[self.num_spatial - 1]
        return pool(x, POOLED_SIZE).flatten(1)


def widened(network: nn.Module, num_new: int) -> tuple[nn.Module, FirstLayer]:
    """Copy of a network whose first layer takes additional inputs.

    The weights of the present inputs stay as they are. Those of the new ones are initialized uniformly within
    plus or minus the inverse root of the fan-in, like the weights of PyTorch's layers.

    Args:
        network: A network whose first module with parameters is a `torch.nn.Linear`, or a convolution without groups.
            Nothing else may depend on its inputs.
        num_new: Number of additional features or channels, the last ones.

    Returns:
        The copy and its first layer.

    Raises:
        ValueError: If the first module with parameters is another one, or shares its weight.

    Example:
        >>> network, first = widened(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 1)), num_new=2)
        >>> network[0].in_features, first.num_inputs
        (5, 3)
    """
    network = copy.deepcopy(network)
    named = (pair for pair in network.named_modules() if any(True for _ in pair[1].parameters(recurse=False)))
    name, layer = next(named, ("", network))
    is_linear = isinstance(layer, nn.Linear)
    is_convolution = isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd) and layer.groups == 1
    weight = layer._parameters.get("weight")
    is_plain = isinstance(weight, nn.Parameter) and not isinstance(weight, nn.parameter.UninitializedParameter)
    if not (is_linear or is_convolution) or not is_plain:
        raise InputValueError(
            "the first module of backbone with parameters must be a Linear layer or a convolution without groups, to "
            f"which inputs for the latent variables can be added, got {name!r}, a {type(layer).__name__}: put such a "
            "layer in front of it"
        )
    weight = cast(nn.Parameter, weight)
    if sum(weight is parameter for module in network.modules() for parameter in module._parameters.values()) > 1:
        raise InputValueError(
            f"the first layer of backbone, {name!r}, shares its weight with another module: give it a weight of its own"
        )
    if not weight.requires_grad:
        raise InputValueError(
            f"the first layer of backbone, {name!r}, is frozen (requires_grad=False), and weights of the latent "
            "variables would be added to it: call requires_grad_(True) on it"
        )
    first = FirstLayer(weight.shape[1], weight.dim() - 2)
    new = weight.new_empty(weight.shape[0], num_new, *weight.shape[2:])
    bound = ((weight.shape[1] + num_new) * math.prod(weight.shape[2:])) ** -0.5
    nn.init.uniform_(new, -bound, bound)
    layer._parameters["weight"] = nn.Parameter(torch.cat([weight.detach(), new], 1), weight.requires_grad)
    if is_linear:
        cast(nn.Linear, layer).in_features += num_new
    else:
        cast(_ConvNd, layer).in_channels += num_new
    return network, first
