r"""Layers with a bounded spectral norm.

The power iteration is that of Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018.
The weight is scaled only if its norm exceeds the bound c (Liu et al., "Simple and principled uncertainty estimation
with deterministic deep learning via distance awareness", NeurIPS 2020):

.. math:: \bar{W} = W / \max(1, \sigma(W) / c)
"""

import math
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from lightning_vi.errors import InputValueError
from lightning_vi.layers.mixin import ModuleMixin, mixed_class

NUM_INITIAL_ITERATIONS = 50


class BoundedModule(ModuleMixin):
    r"""Mixin for a linear layer or convolution whose weight has a bounded spectral norm.

    The weight is computed from the parameter `unbounded_weight` each time it is read. In training mode, each read
    updates the singular vectors by one power iteration.

    Attributes:
        unbounded_weight: The parameter W.
        left_vector: Buffer with the left singular vector u.
        right_vector: Buffer with the right singular vector v.
        spectral_norm_bound: The bound c.
    """

    class_prefix: ClassVar[str] = "Bounded"
    unbounded_weight: nn.Parameter
    left_vector: Tensor
    right_vector: Tensor
    spectral_norm_bound: float

    @property
    def weight(self) -> Tensor:
        r"""The bounded weight :math:`\bar{W}`, differentiable also through the norm."""
        if self.training:
            self.iterate(1)
        excess = self.spectral_norm() / self.spectral_norm_bound
        return self.unbounded_weight / excess.clamp_min(1).to(self.unbounded_weight.dtype)

    def spectral_norm(self) -> Tensor:
        r"""Estimate :math:`u^\top W v \le \sigma(W)` of the spectral norm, a differentiable scalar tensor."""
        left, right = (
            self.left_vector.clone(),
            self.right_vector.clone(),
        )  # the buffers change in place
        with torch.autocast(left.device.type, enabled=False):
            return left @ (as_matrix(self, self.unbounded_weight) @ right)

    @torch.no_grad()
    def iterate(self, num_iterations: int) -> None:
        """Updates the singular vectors by power iterations.

        Args:
            num_iterations: Number of power iterations.
        """
        matrix = as_matrix(self, self.unbounded_weight)
        left, right = self.left_vector, self.right_vector
        with torch.autocast(left.device.type, enabled=False):
            for _ in range(num_iterations):
                left = _normalize(matrix @ right, left)
                right = _normalize(matrix.mT @ left, right)
        self.left_vector.copy_(left)
        self.right_vector.copy_(right)


def as_matrix(layer: nn.Module, weight: Tensor) -> Tensor:
    """Reshapes the weight of a layer to a matrix of shape [outputs, inputs].

    For convolutions this is the kernel, whose spectral norm differs from that of the convolution as a linear map.
    """
    if isinstance(layer, _ConvTransposeNd):
        weight = weight.transpose(0, 1)
    return weight.flatten(1)


def bound_spectral_norm(layer: nn.Module, bound: float) -> None:
    r"""Bounds the spectral norm of the weight of a layer in place.

    All other attributes, hooks and buffers are kept. The singular vectors are initialized by 50 power iterations.

    Args:
        layer: A linear layer or convolution, see `can_be_bounded`.
        bound: The bound c.

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
        raise InputValueError(f"spectral_norm_bound must be positive and finite, got {bound!r}")
    if not can_be_bounded(layer):
        raise InputValueError(f"layer must be a linear layer or convolution whose weight is a parameter, got {layer!r}")
    weight = layer.get_parameter("weight")
    del layer._parameters["weight"]
    object.__setattr__(layer, "__class__", mixed_class(BoundedModule, type(layer)))
    bounded = cast(BoundedModule, layer)
    bounded.spectral_norm_bound = bound
    bounded.register_parameter("unbounded_weight", weight)
    outputs, inputs = as_matrix(bounded, weight).shape
    for name, size in (("left_vector", outputs), ("right_vector", inputs)):
        start = torch.randn(size, dtype=weight.dtype, device=weight.device)
        bounded.register_buffer(name, start / start.norm())
    bounded.iterate(NUM_INITIAL_ITERATIONS)


def can_be_bounded(layer: nn.Module) -> bool:
    """Returns True for linear layers and convolutions whose weight is a parameter.

    Layers whose weight is computed from other parameters, such as parametrized or bounded layers, cannot be bounded.
    """
    return isinstance(layer, nn.Linear | _ConvNd) and layer._parameters.get("weight") is not None


def _normalize(vector: Tensor, fallback: Tensor) -> Tensor:
    norm = vector.norm()
    return torch.where(norm > 0, vector / norm, fallback)
