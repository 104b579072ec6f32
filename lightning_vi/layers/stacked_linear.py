"""Linear layers of several networks, with separate weights and inputs, in one product."""

import torch
from torch import Tensor


def stacked_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Applies M linear layers to M inputs.

    Args:
        x: Inputs, shape [M, ..., I].
        weight: Shape [M, O, I].
        bias: Shape [M, O], or [O] for all layers, or None.

    Returns:
        Shape [M, ..., O].

    Example:
        >>> stacked_linear(torch.ones(3, 8, 2), torch.ones(3, 1, 2), torch.zeros(3, 1)).shape
        torch.Size([3, 8, 1])
    """
    rows, turned = x.flatten(1, -2), weight.mT
    outputs = torch.bmm(rows, turned) if bias is None else torch.baddbmm(bias.unsqueeze(-2), rows, turned)
    return outputs if x.dim() == 3 else outputs.view(*x.shape[:-1], outputs.shape[-1])
