r"""Variances of a weight as products of one factor for each output and one for each input.

With :math:`\mathrm{Var}[w_{oj}] \approx r_o c_j`, the sum :math:`\sum_j \mathrm{E}[x_j]^2\, \mathrm{Var}[w_{oj}]` of a
linear layer or a convolution is computed for one output and multiplied by :math:`r_o`, which saves one of its three
products. Variances of the posteriors of wide layers that start alike are close to such products, and errors average out
in the sum over many inputs.
"""

import torch
from torch import Tensor

from lightning_vi.moments.gaussian_tensor import GaussianTensor

MAX_ERROR = 0.01
"""Relative error of the sum of the variances of an output's weights up to which factors are used."""
MIN_NUMBERS = 2**12
"""Elements of a weight from which factors are tried: they save little time for smaller ones."""

Factors = tuple[Tensor, Tensor]


def factored(variance: Tensor) -> Factors | None:
    r"""Factors of variances, if their product is close enough.

    They have the sums over inputs and over outputs of the variances. With independent errors :math:`e_{oj}` of the
    products, the relative error of a sum over inputs is :math:`(\sum_j e_{oj}^2)^{1/2} / \sum_j v_{oj}`.

    Args:
        variance: v, shape [outputs, inputs, ...].

    Returns:
        Shapes [outputs] and [1, inputs, ...]; None if the root mean square error over outputs is above `MAX_ERROR`, or
        the weight is small.

    Example:
        >>> of_outputs, of_inputs = factored(torch.full((64, 64), 0.5))
        >>> torch.outer(of_outputs, of_inputs[0])[:2, :2]
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])
    """
    if variance.numel() < MIN_NUMBERS or variance.dim() < 2:
        return None
    rows = variance.flatten(1)
    of_outputs = rows.sum(1)
    of_inputs = rows.sum(0) / of_outputs.sum()
    errors = (rows - torch.outer(of_outputs, of_inputs)).square().sum(1).sqrt() / of_outputs
    if not bool(errors.square().mean().sqrt() <= MAX_ERROR):
        return None
    return of_outputs, of_inputs.view(1, *variance.shape[1:])


def factors_of(weight: Tensor) -> Factors | None:
    """Factors of the variances of a weight.

    Args:
        weight: Any tensor.

    Returns:
        The result of `factored`, if it is known.
    """
    return weight.variance_factors if isinstance(weight, GaussianTensor) else None
