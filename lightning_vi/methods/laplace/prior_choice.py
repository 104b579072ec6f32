r"""Choice of the prior standard deviation of a classifier's Laplace approximation.

The evidence fails for a classifier without training errors: its curvature :math:`\lambda` vanishes while its weights
grow, and :math:`s^2 = \lVert w^* \rVert^2 / \sum_i \lambda_i / (\lambda_i + s^{-2})` diverges. The root mean square of
the weights is the value of that expression for weights that the data determine, and the smallest that it can have.
"""

from collections.abc import Callable

import torch
from torch import Tensor

STD_FACTORS = (4.0, 2.0, 1.0, 0.5, 0.25)
"""Candidates, in units of the root mean square of the weights."""


def choose_precision(weights: Tensor, scores: Callable[[Tensor], Tensor]) -> Tensor:
    """Prior precision with the best score on validation data.

    Args:
        weights: The weights with a posterior, shape [P].
        scores: Computes summed negative log-likelihoods of the validation data, shape [K], for prior precisions [K];
            zeros if there are none, for the mean square of the weights as prior variance.

    Returns:
        A scalar tensor.

    Example:
        >>> choose_precision(torch.tensor([2.0, -2.0]), torch.zeros_like)
        tensor(0.2500)
    """
    mean_square = weights.square().mean().clamp_min(1e-12)
    precisions = 1 / (mean_square * weights.new_tensor(STD_FACTORS).square())
    total = scores(precisions).nan_to_num(torch.inf)
    return precisions[total.argmin()] if total.any() else 1 / mean_square
