r"""Random Fourier features.

Rahimi and Recht, "Random features for large-scale kernel machines", NeurIPS 2007.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.errors import InputValueError


class RandomFourierFeatures(nn.Module):
    r"""Random Fourier features, whose inner products approximate a Gaussian kernel.

    .. math:: \phi(h) = \sqrt{2 / M} \cos(W h / l + b), \qquad W_{mi} \sim \mathcal{N}(0, 1),\
        b_m \sim \mathrm{U}(0, 2 \pi), \qquad
        \mathrm{E}[\phi(h)^\top \phi(h')] = \exp\!\Big(-\frac{\lVert h - h' \rVert^2}{2 l^2}\Big)

    W and b are sampled once and stored as buffers.

    Args:
        num_inputs: Number of input features F.
        num_features: Number of random features M.
        length_scale: Length scale l of the kernel, in units of the (normalized) input.
        normalize: If True, each input is normalized to mean 0 and standard deviation 1 over its F features.
        dim: Feature dimension of the input.

    Raises:
        ValueError: If a size or `length_scale` is not positive.

    Example:
        >>> features = RandomFourierFeatures(3, num_features=512)
        >>> features(torch.zeros(8, 3)).shape
        torch.Size([8, 512])
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(
        self, num_inputs: int, num_features: int, length_scale: float = 1.0, *, normalize: bool = False, dim: int = -1
    ) -> None:
        super().__init__()
        if num_features < 1 or num_inputs < 1:
            raise InputValueError(f"num_inputs and num_features must be positive, got {num_inputs} and {num_features}")
        if not 0 < length_scale < math.inf:
            raise InputValueError(f"length_scale must be positive and finite, got {length_scale!r}")
        self.length_scale = length_scale
        self.normalize = normalize
        self.dim = dim
        self.register_buffer("frequencies", torch.randn(num_features, num_inputs))
        self.register_buffer("phases", 2 * math.pi * torch.rand(num_features))

    def forward(self, x: Tensor) -> Tensor:
        """Computes the random features.

        Args:
            x: Input of size F in dimension `dim`.

        Returns:
            Features of size M in dimension `dim`.
        """
        inputs = x.movedim(self.dim, -1)
        if self.normalize:
            inputs = F.layer_norm(inputs, inputs.shape[-1:])
        angles = F.linear(inputs / self.length_scale, self.frequencies, self.phases)
        features = math.sqrt(2 / len(self.phases)) * angles.cos()
        return features.movedim(-1, self.dim)

    def extra_repr(self) -> str:  # noqa: D102
        num_features, num_inputs = self.frequencies.shape
        return f"{num_inputs}, {num_features}, length_scale={self.length_scale}, normalize={self.normalize}"
