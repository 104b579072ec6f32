"""Hyperparameters of a kernel by maximum marginal likelihood."""

import copy
import math

import torch
from torch import Tensor

from lightning_vi.kernels.algebra import cholesky, precise
from lightning_vi.kernels.base import Kernel

MAX_ROWS = 256
NUM_STEPS, LEARNING_RATE = 60, 0.1
MAX_SCALES = 64
"""Inputs with more features have one length scale."""
INITIAL_NOISE, MIN_NOISE = 0.3, 1e-3


def log_marginal_likelihood(kernel: Kernel, x: Tensor, y: Tensor, noise_std: Tensor | float) -> Tensor:
    """Log marginal likelihood of Gaussian process regression with mean zero, summed over targets.

    Args:
        kernel: The kernel.
        x: Inputs, shape [N, F].
        y: Targets, shape [N, D].
        noise_std: Standard deviation of the noise.

    Returns:
        Nats, a scalar tensor.
    """
    noise = torch.as_tensor(noise_std, dtype=x.dtype, device=x.device)
    root = cholesky(kernel(x, x) + noise.square() * torch.eye(len(x), dtype=x.dtype, device=x.device))
    fit = torch.linalg.solve_triangular(root, y, upper=False).square().sum()
    log_normalizer = root.diagonal().log().sum() + 0.5 * len(x) * math.log(2 * math.pi)
    log_likelihood: Tensor = -0.5 * fit - y.shape[1] * log_normalizer
    return log_likelihood


@torch.no_grad()
def fit_kernel(kernel: Kernel, x: Tensor, y: Tensor) -> None:
    """Finds the length scales and the standard deviation that were not given, by maximum marginal likelihood.

    It fits a Gaussian process with an unknown noise to at most 256 evenly spaced rows; inputs with at most 64 features
    have a length scale for each of them. The cost is 60 Cholesky decompositions. A standard deviation below that of the
    targets is raised to it afterwards, because smooth data say little about how far the function goes elsewhere.

    Args:
        kernel: The kernel, changed in place.
        x: Inputs, shape [N, F].
        y: Targets of order one, shape [N, D].

    Example:
        >>> from lightning_vi.kernels import RBF
        >>> x = torch.linspace(-3, 3, 50).unsqueeze(1)
        >>> kernel = RBF()
        >>> fit_kernel(kernel, x, torch.sin(2 * x))
        >>> kernel.length_scale.shape, bool(kernel.is_resolved)
        (torch.Size([1]), True)
    """
    rows = slice(None, None, math.ceil(len(x) / MAX_ROWS))
    x, y = precise(x[rows]), precise(y[rows])
    twin, num_inputs = copy.deepcopy(kernel).to(x), x.shape[1]
    with torch.inference_mode(False), torch.enable_grad():
        x, y = x.clone(), y.clone()
        size = num_inputs if num_inputs <= MAX_SCALES else 1
        start = math.log(math.sqrt(num_inputs))
        log_scale = torch.full((size,), start, dtype=x.dtype, device=x.device, requires_grad=True)
        log_std = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
        log_noise = torch.full_like(log_std, math.log(INITIAL_NOISE)).requires_grad_()
        optimizer = torch.optim.Adam([log_scale, log_std, log_noise], LEARNING_RATE)
        for _ in range(NUM_STEPS):
            if kernel.finds_length_scale:
                twin.length_scale = log_scale.exp()
            if kernel.finds_std:
                twin.std = log_std.exp()
            loss = -log_marginal_likelihood(twin, x, y, log_noise.exp() + MIN_NOISE)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    if kernel.finds_length_scale:
        kernel.length_scale = log_scale.detach().exp().to(kernel.length_scale)
    if kernel.finds_std:
        kernel.std.copy_(torch.maximum(log_std.exp(), y.std(0, correction=0).square().mean().sqrt()))
    kernel.is_resolved.fill_(True)
