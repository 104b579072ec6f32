"""Layers whose weights are the factors of a larger weight."""

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd


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


CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ZERO_CONVOLUTIONS = (UpConv1d, UpConv2d, UpConv3d)


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
        down = CONVOLUTIONS[dimension](
            layer.in_channels,
            rank,
            layer.kernel_size,  # type: ignore[arg-type]
            bias=False,
            **options,
            **place,
        )
        convolution = (_ZERO_CONVOLUTIONS if zero else CONVOLUTIONS)[dimension]
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
