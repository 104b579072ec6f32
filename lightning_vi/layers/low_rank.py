r"""Layers whose weight is the product of two smaller ones.

.. math:: W = A B^\top, \qquad A \in \mathbb{R}^{m \times r},\ B \in \mathbb{R}^{n \times r}

A layer of inputs x first computes :math:`B^\top x` with a module `down`, and then applies A, a module `up`. The weight
of `down` is :math:`B^\top`, that of `up` is A. For a convolution, W is the matrix [m, n K] of its flattened kernels of
K pixels; for an embedding, W is the transpose of its table.
"""

from collections import OrderedDict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lightning_vi.layers.factors import CONVOLUTIONS, product


class LowRankLayer(nn.Sequential):
    r"""A linear layer, convolution or embedding with weight :math:`A B^\top`, as two layers in a row.

    Args:
        down: Layer without bias whose weight is :math:`B^\top`, from the inputs to r features.
        up: Layer whose weight is A, from r features to the outputs; it has the bias.

    Example:
        >>> import torch
        >>> layer = LowRankLayer(nn.Linear(8, 2, bias=False), nn.Linear(2, 6))
        >>> layer(torch.ones(3, 8)).shape, layer.weight.shape
        (torch.Size([3, 6]), torch.Size([6, 8]))
    """

    down: nn.Module
    up: nn.Module

    def __init__(self, down: nn.Module, up: nn.Module) -> None:
        super().__init__(OrderedDict(down=down, up=up))

    @property
    def weight(self) -> Tensor:
        """The product, in the shape of the dense layer's weight; of posterior means or of drawn factors."""
        return product(self.down, self.up)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer, or None."""
        return cast(Tensor | None, self.up.bias)


class LowRankAttention(nn.MultiheadAttention):
    r"""`torch.nn.MultiheadAttention` with the input projection :math:`A B^\top`, which is multiplied in each pass.

    Attributes:
        in_proj: The factors, which are read and never called.
    """

    in_proj: LowRankLayer

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The product, shape [3 E, E]."""
        return self.in_proj.weight


def dense_layer(pair: LowRankLayer) -> nn.Module:
    """Makes the layer with one weight that computes what a low-rank layer does.

    Args:
        pair: The low-rank layer.

    Returns:
        A linear layer, convolution or embedding with new parameters.
    """
    down, up = pair.down, pair.up
    weight, bias = pair.weight.detach(), pair.bias
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    dense: nn.Module
    if isinstance(down, _ConvNd):
        options = {name: getattr(down, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        kind = CONVOLUTIONS[len(down.kernel_size) - 1]
        dense = kind(down.in_channels, len(weight), down.kernel_size, bias=bias is not None, **options, **place)  # type: ignore[arg-type]
    elif isinstance(down, nn.Embedding):
        dense = nn.Embedding(
            weight.shape[0],
            weight.shape[1],
            padding_idx=down.padding_idx,
            scale_grad_by_freq=down.scale_grad_by_freq,
            sparse=down.sparse,
            **place,
        )
    else:
        dense = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, **place)
    with torch.no_grad():
        dense.get_parameter("weight").copy_(weight)
        if bias is not None:
            dense.get_parameter("bias").copy_(bias)
    return dense.train(up.training)
