r"""A bound on the spectral norm of a weight.

Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018, for the power iteration; Liu et
al., "Simple and principled uncertainty estimation with deterministic deep learning via distance awareness", NeurIPS
2020, for a bound where there was a norm of 1:

.. math:: \bar{W} = W / \max(1, \sigma(W) / c)
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_vi.layers.mixin import ModuleMixin, mixed_class

NUM_INITIAL_ITERATIONS = 50


class BoundedModule(ModuleMixin):
    r"""Mixin for a linear layer or convolution whose weight is bounded wherever it is read.

    The parameter is `unbounded_weight`. Singular vectors are buffers, `left_vector` and `right_vector`, which follow
    the parameter by one power iteration each time the weight is read in training mode, and never in evaluation mode.
    """

    class_prefix: ClassVar[str] = "Bounded"
    unbounded_weight: nn.Parameter
    left_vector: Tensor
    right_vector: Tensor
    spectral_norm_bound: float

    @property
    def weight(self) -> Tensor:
        r"""The bounded weight :math:`\bar{W}`, of the parameter's shape; differentiable, also through the norm."""
        if self.training:
            self.iterate(1)
        excess = self.spectral_norm() / self.spectral_norm_bound
        return self.unbounded_weight / excess.clamp_min(1).to(self.unbounded_weight.dtype)

    def spectral_norm(self) -> Tensor:
        r"""The estimate :math:`u^\top W v \le \sigma(W)` of the spectral norm of `unbounded_weight`.

        Returns:
            A scalar tensor, differentiable.
        """
        left, right = self.left_vector.clone(), self.right_vector.clone()  # a later iteration must not disturb backward
        with torch.autocast(left.device.type, enabled=False):
            return left @ (as_matrix(self, self.unbounded_weight) @ right)

    @torch.no_grad()
    def iterate(self, num_iterations: int) -> None:
        """Brings the singular vectors closer to those of the present parameter.

        Args:
            num_iterations: Power iterations.
        """
        matrix = as_matrix(self, self.unbounded_weight)
        left, right = self.left_vector, self.right_vector
        with torch.autocast(left.device.type, enabled=False):
            for _ in range(num_iterations):
                left = _normalised(matrix @ right, left)
                right = _normalised(matrix.mT @ left, right)
        self.left_vector.copy_(left)
        self.right_vector.copy_(right)


def as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """The weight as a matrix from what one output sums over to the outputs.

    For a convolution that is its kernel, whose norm is not that of the convolution as a linear map of images.

    Args:
        layer: The layer.
        weight: A weight of its shape.

    Returns:
        Shape [outputs, inputs], for transposed convolutions too.
    """
    if isinstance(layer, _ConvTransposeNd):
        weight = weight.transpose(0, 1)
    return weight.flatten(1)


def bound_spectral_norm(layer: nn.Module, bound: float) -> None:
    r"""Bounds the spectral norm of a layer's weight, in place.

    Every other attribute, option, hook and buffer stays. The singular vectors start with 50 power iterations.

    Args:
        layer: A linear layer or convolution for which `can_be_bounded`.
        bound: c.

    Raises:
        ValueError: If `bound` is not positive and finite, or the layer cannot be bounded.

    Example:
        >>> layer = nn.Linear(3, 3, bias=False)
        >>> nn.init.eye_(layer.weight)
        Parameter containing:
        tensor([[1., 0., 0.],
                [0., 1., 0.],
                [0., 0., 1.]], requires_grad=True)
        >>> bound_spectral_norm(layer, 0.5)
        >>> layer(torch.ones(3)).detach()
        tensor([0.5000, 0.5000, 0.5000])
    """
    if not 0 < bound < math.inf:
        raise ValueError(f"spectral_norm_bound must be positive and finite, got {bound!r}")
    if not can_be_bounded(layer):
        raise ValueError(f"a linear layer or convolution with a weight of its own is expected, got {layer!r}")
    weight = layer._parameters.pop("weight")
    object.__setattr__(layer, "__class__", mixed_class(BoundedModule, type(layer)))
    bounded = layer
    if not isinstance(bounded, BoundedModule) or weight is None:
        raise TypeError(f"{layer!r} cannot be bounded")
    bounded.spectral_norm_bound = bound
    bounded.register_parameter("unbounded_weight", weight)
    outputs, inputs = as_matrix(bounded, weight).shape
    for name, size in (("left_vector", outputs), ("right_vector", inputs)):
        start = torch.randn(size, dtype=weight.dtype, device=weight.device)
        bounded.register_buffer(name, start / start.norm())
    bounded.iterate(NUM_INITIAL_ITERATIONS)


def can_be_bounded(layer: nn.Module) -> bool:
    """Whether a module is a linear layer or convolution whose weight is a parameter of its own.

    Args:
        layer: Any module.

    Returns:
        False for layers whose weight is computed from other parameters, such as parametrised ones, bounded ones too.
    """
    return isinstance(layer, nn.Linear | _ConvNd) and layer._parameters.get("weight") is not None


def _normalised(vector: Tensor, otherwise: Tensor) -> Tensor:
    norm = vector.norm()
    return torch.where(norm > 0, vector / norm, otherwise)
