"""Fourier features."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_vi.errors import InputValueError


class FourierFeatures(nn.Module):
    r"""Fourier features: the input and its sines and cosines at given angular frequencies.

    .. math:: \phi(x) = \big(x, \sin \omega_1 x, \ldots, \sin \omega_K x, \cos \omega_1 x, \ldots, \cos \omega_K x\big)

    Networks fit high-frequency functions faster with these features than with x alone (Tancik et al., "Fourier features
    let networks learn high frequency functions in low dimensional domains", NeurIPS 2020). There are no parameters.

    Args:
        frequencies: Angular frequencies :math:`\omega` in radians per unit of the input, at least one.
        include_input: If True, the features include the input itself.

    Raises:
        ValueError: If there is no frequency, or one is not positive and finite.

    Example:
        >>> features = FourierFeatures([1.0, 2.0])
        >>> features(torch.zeros(4, 3)).shape, features.num_features(3)
        (torch.Size([4, 15]), 15)
    """

    frequencies: Tensor

    def __init__(self, frequencies: Sequence[float], include_input: bool = True) -> None:
        super().__init__()
        if not frequencies or not all(0 < frequency < math.inf for frequency in frequencies):
            raise InputValueError(f"frequencies must be one or more positive, finite numbers, got {list(frequencies)}")
        self.include_input = include_input
        self.register_buffer("frequencies", torch.tensor(list(frequencies), dtype=torch.get_default_dtype()))

    def num_features(self, num_inputs: int) -> int:
        """Returns the number of output features.

        Args:
            num_inputs: Number of input features F.

        Returns:
            ``(2 K + 1) F``, or ``2 K F`` if `include_input` is False.
        """
        return num_inputs * (2 * len(self.frequencies) + self.include_input)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the Fourier features of the input.

        Args:
            x: Inputs, shape [..., F].

        Returns:
            Features, shape [..., num_features(F)].
        """
        angles = (x.unsqueeze(-2) * self.frequencies.unsqueeze(-1)).flatten(-2)
        parts = [angles.sin(), angles.cos()]
        return torch.cat([x, *parts] if self.include_input else parts, -1)

    def extra_repr(self) -> str:  # noqa: D102
        return f"{self.frequencies.tolist()}, include_input={self.include_input}"
