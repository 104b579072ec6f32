r"""Layers whose weight is the product of two smaller ones.

.. math:: W = A B^\top, \qquad A \in \mathbb{R}^{m \times r},\ B \in \mathbb{R}^{n \times r}

A layer of inputs x first computes :math:`B^\top x` with a module `down`, and then applies A, a module `up`. The weight
of `down` is :math:`B^\top`, that of `up` is A. For a convolution, W is the matrix [m, n K] of its flattened kernels of
K pixels; for an embedding, W is the transpose of its table.
"""

import math
from collections import OrderedDict
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


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


class UpLinear(nn.Linear):
    """`torch.nn.Linear` that starts at zero, so that what it is added to starts unchanged."""

    def reset_parameters(self) -> None:
        """Sets the weight to zero."""
        nn.init.zeros_(self.weight)


class _UpConv(_ConvNd):
    def reset_parameters(self) -> None:
        """Sets the weight to zero."""
        nn.init.zeros_(self.weight)


class UpConv1d(_UpConv, nn.Conv1d):
    """`torch.nn.Conv1d` that starts at zero."""


class UpConv2d(_UpConv, nn.Conv2d):
    """`torch.nn.Conv2d` that starts at zero."""


class UpConv3d(_UpConv, nn.Conv3d):
    """`torch.nn.Conv3d` that starts at zero."""


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ZERO_CONVOLUTIONS = (UpConv1d, UpConv2d, UpConv3d)


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


class AdaptedLayer(nn.Module):
    r"""A layer with a low-rank change of its weight, :math:`W = W_0 + s A B^\top` (Hu et al., "LoRA", ICLR 2022).

    The dense product is never formed: :math:`y = W_0 x + b + A (s B^\top x)`.

    Args:
        base: A linear layer, convolution or embedding.
        down: Layer without bias whose weight is :math:`B^\top`.
        up: Layer without bias whose weight is A.
        scale: The factor s.
    """

    def __init__(self, base: nn.Module, down: nn.Module, up: nn.Module, scale: float) -> None:
        super().__init__()
        self.base = base
        self.down = down
        self.up = up
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """Applies the layer.

        Args:
            x: Input of the base layer.

        Returns:
            The shape of the base layer's output.
        """
        output: Tensor = self.base(x) + self.up(self.scale * self.down(x))
        return output

    @property
    def weight(self) -> Tensor:
        """The changed weight, in the shape of the base layer's."""
        return cast(Tensor, self.base.weight) + self.scale * product(self.down, self.up)

    @property
    def bias(self) -> Tensor | None:
        """The bias of the base layer, or None."""
        return cast(Tensor | None, self.base.bias)

    def extra_repr(self) -> str:  # noqa: D102
        return f"scale={self.scale}"


class AdaptedAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with a low-rank change of its input projection, which is added in each pass.

    Attributes:
        in_proj_base: The projection as it was.
        in_proj_adapter: The factors, which are read and never called.
        scale: See `AdaptedLayer`.
    """

    in_proj_base: nn.Parameter
    in_proj_adapter: LowRankLayer
    scale: float

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        """The changed projection, shape [3 E, E]."""
        return self.in_proj_base + self.scale * self.in_proj_adapter.weight


def product(down: nn.Module, up: nn.Module) -> Tensor:
    """The dense weight of two factors.

    Args:
        down: The layer with the first factor.
        up: The layer with the second factor.

    Returns:
        The shape of the dense layer's weight.
    """
    first, second = cast(Tensor, down.weight), cast(Tensor, up.weight)
    if isinstance(down, nn.Embedding):
        return first @ second.mT
    return (second.flatten(1) @ first.flatten(1)).view(-1, *first.shape[1:])


def matrix_shape(layer: nn.Module) -> tuple[int, int]:
    """Numbers of outputs and inputs, [m, n], of the weight of a layer as a matrix.

    Args:
        layer: A linear layer, convolution or embedding.
    """
    weight = cast(Tensor, layer.weight)
    if isinstance(layer, nn.Embedding):
        return weight.shape[1], weight.shape[0]
    return weight.shape[0], math.prod(weight.shape[1:])


def make_factors(layer: nn.Module, rank: int, *, bias: bool, zero: bool) -> tuple[nn.Module, nn.Module]:
    """Makes the layers of both factors, with new weights.

    Args:
        layer: A linear layer, a convolution without groups, or an embedding.
        rank: Number r of features between them.
        bias: If True, the second one has a bias if the layer has one.
        zero: If True, the second one starts at zero.

    Returns:
        `down` and `up` of `LowRankLayer`.
    """
    weight = cast(Tensor, layer.weight)
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    has_bias = bias and getattr(layer, "bias", None) is not None
    down: nn.Module
    if isinstance(layer, _ConvNd):
        dimension = len(layer.kernel_size) - 1
        options = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "padding_mode")}
        down = _CONVOLUTIONS[dimension](
            layer.in_channels,
            rank,
            layer.kernel_size,  # type: ignore[arg-type]
            bias=False,
            **options,
            **place,
        )
        convolution = (_ZERO_CONVOLUTIONS if zero else _CONVOLUTIONS)[dimension]
        return down, convolution(rank, layer.out_channels, 1, bias=has_bias, **place)
    if isinstance(layer, nn.Embedding):
        down = nn.Embedding(
            layer.num_embeddings,
            rank,
            padding_idx=layer.padding_idx,
            scale_grad_by_freq=layer.scale_grad_by_freq,
            sparse=layer.sparse,
            **place,
        )
        return down, (UpLinear if zero else nn.Linear)(rank, layer.embedding_dim, bias=False, **place)
    return make_linear_factors(weight, rank, bias=has_bias, zero=zero)


def make_linear_factors(weight: Tensor, rank: int, *, bias: bool, zero: bool) -> tuple[nn.Linear, nn.Linear]:
    """Makes linear layers for both factors of a matrix, with new weights.

    Args:
        weight: The matrix, shape [m, n].
        rank: Number r of features between them.
        bias: If True, the second one has a bias.
        zero: If True, the second one starts at zero.

    Returns:
        `down` and `up` of `LowRankLayer`.
    """
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    num_outputs, num_inputs = weight.shape
    down = nn.Linear(num_inputs, rank, bias=False, **place)
    return down, (UpLinear if zero else nn.Linear)(rank, num_outputs, bias=bias, **place)


@torch.no_grad()
def put_factors(down: nn.Module, up: nn.Module, outputs: Tensor, inputs: Tensor) -> None:
    """Puts factors into the layers of `make_factors`.

    Args:
        down: The first layer.
        up: The second layer.
        outputs: A, shape [m, r].
        inputs: B, shape [n, r].
    """
    first, second = cast(Tensor, down.weight), cast(Tensor, up.weight)
    first.copy_(inputs if isinstance(down, nn.Embedding) else inputs.mT.reshape(first.shape))
    second.copy_(outputs.reshape(second.shape))


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
        kind = _CONVOLUTIONS[len(down.kernel_size) - 1]
        dense = kind(down.in_channels, len(weight), down.kernel_size, bias=bias is not None, **options, **place)  # type: ignore[arg-type]
    elif isinstance(down, nn.Embedding):
        dense = nn.Embedding(
            *weight.shape,
            padding_idx=down.padding_idx,
            scale_grad_by_freq=down.scale_grad_by_freq,
            sparse=down.sparse,
            **place,
        )
    else:
        dense = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, **place)
    with torch.no_grad():
        cast(Tensor, dense.weight).copy_(weight)
        if bias is not None:
            cast(Tensor, dense.bias).copy_(bias)
    return dense.train(up.training)
