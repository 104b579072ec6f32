r"""Variances of a weight as products of one factor for each output, each input and each position in a kernel.

With :math:`\mathrm{Var}[w_{oj}] \approx r_o c_j`, the sum :math:`\sum_j \mathrm{E}[x_j]^2\, \mathrm{Var}[w_{oj}]` of a
linear layer or a convolution is computed for one output and multiplied by :math:`r_o`, which saves one of its three
products. Variances of a posterior start alike and stay close to such products, and errors average out in the sum over
inputs.
"""

import torch
from torch import Tensor

MAX_ERROR = 0.01
"""Relative error of the sum of the variances of an output's weights up to which factors are used."""
MAX_INPUT_ERROR = 0.1
"""Relative error of the variances of one input, root mean square over outputs, up to which factors are used."""
MIN_NUMBERS = 2**12
"""Elements of an input or a weight from which factors are used: they save no time for smaller ones."""
MIN_ELEMENTS = 2**9
"""Elements of a matrix from which factors are tried."""

Factors = tuple[Tensor, Tensor, Tensor]


def factored(variance: Tensor) -> Factors | None:
    r"""Factors of variances, if their product is close enough.

    They have the sums over all dimensions but one of the variances. With independent errors :math:`e_{oj}` of the
    products, the relative error of a sum over inputs is :math:`(\sum_j e_{oj}^2)^{1/2} / \sum_j v_{oj}`. Units that the
    prior has pruned have large variances, which would hide the errors of the others there, and inputs near zero.
    Therefore the relative errors of each input must be small as well.

    Args:
        variance: v, shape [outputs, inputs, ...].

    Returns:
        Shapes [outputs], [inputs] and [1, 1, ...], the last of which is one for a matrix; None if the root mean square
        error over outputs is above `MAX_ERROR` or `MAX_INPUT_ERROR`, or the weight is a small matrix or a vector.

    Example:
        >>> of_outputs, of_inputs, of_kernel = factored(torch.full((2, 3, 2), 0.5))
        >>> of_outputs[0] * of_inputs[0] * of_kernel[0, 0]
        tensor([0.5000, 0.5000])
    """
    if variance.dim() < 2 or (variance.dim() == 2 and variance.numel() < MIN_ELEMENTS):
        return None
    cube = variance.flatten(2) if variance.dim() > 2 else variance.unsqueeze(-1)
    total = cube.sum()
    of_outputs, of_inputs, of_kernel = cube.sum((1, 2)), cube.sum((0, 2)) / total, cube.sum((0, 1)) / total
    products = torch.einsum("o,i,k->oik", of_outputs, of_inputs, of_kernel)
    errors = (cube - products).flatten(1).norm(dim=1) / of_outputs
    of_elements = (cube / products - 1).square().mean(0).sqrt()
    if not bool((errors.square().mean().sqrt() <= MAX_ERROR) & (of_elements.max() <= MAX_INPUT_ERROR)):
        return None
    return of_outputs, of_inputs, of_kernel.view(1, 1, *variance.shape[2:])
