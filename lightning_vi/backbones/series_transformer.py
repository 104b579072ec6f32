"""Transformer for windows of a series."""

import math

import torch
from torch import Tensor, nn

from lightning_vi.backbones._encoder import check_sizes, make_encoder


class SeriesTransformer(nn.Module):
    """Transformer encoder (Vaswani et al., 2017) with a linear layer on the encoding of the last time.

    Positions have sinusoidal encodings, so that windows may have any length. Layers are normalized first, without
    batch statistics.

    Args:
        n_inputs: Number F of values at each time of a window.
        n_outputs: Number of outputs: H * D for `Gaussian`, twice as many for `HeteroscedasticGaussian`.
        width: Number of features at each time, a multiple of `n_heads` and even.
        n_heads: Number of attention heads.
        n_layers: Number of encoder layers.
        dropout_p: Probability of dropout within the encoder.

    Raises:
        ValueError: If a size is out of range, or `dropout_p` is not in [0, 1).

    Example:
        >>> SeriesTransformer(n_inputs=3, n_outputs=2)(torch.zeros(4, 24, 3)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        n_inputs: int = 1,
        n_outputs: int = 1,
        width: int = 32,
        n_heads: int = 2,
        n_layers: int = 2,
        dropout_p: float = 0.0,
    ) -> None:
        check_sizes(width, n_heads, dropout_p, n_inputs=n_inputs, n_outputs=n_outputs, n_layers=n_layers)
        super().__init__()
        self.embed = nn.Linear(n_inputs, width)
        self.encoder = make_encoder(width, n_heads, n_layers, dropout_p)
        self.head = nn.Linear(width, n_outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Computes the outputs of windows.

        Args:
            x: Windows, shape [B, L, F].

        Returns:
            Shape [B, n_outputs].
        """
        hidden = self.embed(x)
        hidden = hidden + position_encoding(hidden.shape[1], hidden.shape[2]).to(hidden)
        output: Tensor = self.head(self.encoder(hidden)[:, -1])
        return output


def position_encoding(length: int, width: int) -> Tensor:
    """Returns the sinusoidal encodings of positions counted from the last one (Vaswani et al., 2017, section 3.5).

    Args:
        length: Number of positions L.
        width: Number of features, even.

    Returns:
        Shape [L, width].
    """
    position = torch.arange(length - 1, -1, -1).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, width, 2) * (-math.log(10000.0) / width))
    return torch.cat([torch.sin(position * frequency), torch.cos(position * frequency)], 1)
