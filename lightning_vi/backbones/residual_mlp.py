"""Residual multilayer perceptron."""

import copy

from torch import Tensor, nn

from lightning_vi.errors import InputValueError


class ResidualBlock(nn.Module):
    r"""Residual block of two linear layers, :math:`a\big(x + s\, W_2\, a(W_1 x + b_1) + s\, b_2\big)`.

    Args:
        width: Width of the input and the output.
        residual_scale: Scale s of the residual branch.
        activation_fn: Activation a; copied.

    Example:
        >>> import torch
        >>> ResidualBlock(8, 0.5, nn.SiLU())(torch.zeros(2, 8)).shape
        torch.Size([2, 8])
    """

    def __init__(self, width: int, residual_scale: float, activation_fn: nn.Module) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), copy.deepcopy(activation_fn), nn.Linear(width, width))
        self.activation = copy.deepcopy(activation_fn)
        self.residual_scale = residual_scale

    def forward(self, x: Tensor) -> Tensor:
        """Returns the output of the block.

        Args:
            x: Inputs, shape [..., width].

        Returns:
            Outputs, the shape of `x`.
        """
        output: Tensor = self.activation(x + self.residual_scale * self.inner(x))
        return output


class ResidualMLP(nn.Sequential):
    """Residual multilayer perceptron: a linear layer, an activation, residual blocks, and a linear layer.

    Args:
        n_inputs: Number of inputs.
        width: Width of the blocks.
        n_blocks: Number of blocks, each of two linear layers.
        n_outputs: Number of outputs: D for `Gaussian`, 2 D for `HeteroscedasticGaussian`, C for `Categorical`.
        residual_scale: Scale of the residual branch of each block.
        activation_fn: Activation, copied for each use; None for SiLU.

    Raises:
        ValueError: If a width or `n_blocks` is not positive.

    Example:
        >>> import torch
        >>> ResidualMLP(n_inputs=9, width=72, n_blocks=3, n_outputs=1)(torch.zeros(8, 9)).shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        n_inputs: int,
        width: int,
        n_blocks: int,
        n_outputs: int,
        residual_scale: float = 0.5,
        activation_fn: nn.Module | None = None,
    ) -> None:
        for name, value in (
            ("n_inputs", n_inputs),
            ("width", width),
            ("n_blocks", n_blocks),
            ("n_outputs", n_outputs),
        ):
            if value < 1:
                raise InputValueError(f"{name} must be positive, got {value}")
        activation = nn.SiLU() if activation_fn is None else activation_fn
        blocks = [ResidualBlock(width, residual_scale, activation) for _ in range(n_blocks)]
        super().__init__(nn.Linear(n_inputs, width), copy.deepcopy(activation), *blocks, nn.Linear(width, n_outputs))
