"""Hyperparameters of a kernel by maximum marginal likelihood."""

import math

import torch
from torch import Tensor

from lightning_vi.kernels.algebra import cholesky, precise
from lightning_vi.kernels.base import Kernel

MAX_ROWS = 256
NUM_STEPS, LEARNING_RATE = 60, 0.1
MAX_SCALES = 64
"""Inputs with more features have one length scale."""
MIN_ROWS, MAX_GAPS = 12, 16
MAX_TARGETS = 4
"""Targets with a given noise take a Cholesky decomposition each."""
INITIAL_NOISE, MIN_NOISE = 0.3, 1e-3


def log_marginal_likelihood(kernel: Kernel, x: Tensor, y: Tensor, noise_std: Tensor | float) -> Tensor:
    """Log marginal likelihood of Gaussian process regression with mean zero, summed over targets.

    Args:
        kernel: The kernel.
        x: Inputs, shape [N, F].
        y: Targets, shape [N, D].
        noise_std: Standard deviation of the noise, one number, or one for each target, shape [N, D].

    Returns:
        Nats, a scalar tensor.
    """
    noise = torch.as_tensor(noise_std, dtype=x.dtype, device=x.device)
    if noise.dim() == 2:
        roots = torch.linalg.cholesky(kernel(x, x) + torch.diag_embed(noise.square().mT))
        fits = torch.linalg.solve_triangular(roots, y.mT.unsqueeze(-1), upper=False).square().sum()
        log_determinants = roots.diagonal(dim1=-2, dim2=-1).log().sum()
        total: Tensor = -0.5 * fits - log_determinants - 0.5 * y.numel() * math.log(2 * math.pi)
        return total
    root = cholesky(kernel(x, x) + noise.square() * torch.eye(len(x), dtype=x.dtype, device=x.device))
    fit = torch.linalg.solve_triangular(root, y, upper=False).square().sum()
    log_normalizer = root.diagonal().log().sum() + 0.5 * len(x) * math.log(2 * math.pi)
    log_likelihood: Tensor = -0.5 * fit - y.shape[1] * log_normalizer
    return log_likelihood


def gap_score(kernel: Kernel, x: Tensor, y: Tensor, noise_std: float) -> float:
    """Predictive log density of Gaussian process regression in gaps.

    For each input, at most 16 of them, the rows in the middle third of its values are predicted from the others.

    Args:
        kernel: The kernel.
        x: Inputs, shape [N, F].
        y: Targets, shape [N, D].
        noise_std: Standard deviation of the noise.

    Returns:
        Mean over gaps, rows and targets, in nats.
    """
    scores, third = list[Tensor](), len(x) // 3
    for column in x.mT[:: math.ceil(x.shape[1] / MAX_GAPS)]:
        order = column.argsort(stable=True)
        rest, gap = torch.cat([order[:third], order[len(x) - third :]]), order[third : len(x) - third]
        noise = noise_std**2 * torch.eye(len(rest), dtype=x.dtype, device=x.device)
        root = cholesky(kernel(x[rest], x[rest]) + noise)
        both = torch.cat([kernel(x[rest], x[gap]), y[rest]], 1)
        across, known = torch.linalg.solve_triangular(root, both, upper=False).split([len(gap), y.shape[1]], 1)
        variance = (kernel.variance.to(x) - across.square().sum(0) + noise_std**2).unsqueeze(1)
        squares = (y[gap] - across.mT @ known).square() / variance
        scores.append(-0.5 * (squares + variance.log() + math.log(2 * math.pi)).mean())
    return float(torch.stack(scores).mean())


@torch.no_grad()
def fit_kernel(kernel: Kernel, x: Tensor, y: Tensor, noise_std: Tensor | None = None) -> None:
    """Finds the length scales and the standard deviation that were not given, by maximum marginal likelihood.

    It fits a Gaussian process with an unknown noise to at most 256 evenly spaced rows; inputs with at most 64 features
    have a length scale for each of them. The cost is 60 Cholesky decompositions. A standard deviation below that of the
    targets is raised to it afterwards, because smooth data say little about how far the function goes elsewhere. Where
    the smoothness of `Matern` is open, each is fitted, and the one with the best `gap_score` is taken. With
    a given noise all inputs share one length scale, at most 4 targets are used, and the smoothness is the likeliest.

    Args:
        kernel: The kernel, changed in place.
        x: Inputs, shape [N, F].
        y: Targets of order one, shape [N, D].
        noise_std: Standard deviations of the noise of each target, shape [N, D]; None to find one number.

    Example:
        >>> from lightning_vi.kernels import RBF
        >>> x = torch.linspace(-3, 3, 50).unsqueeze(1)
        >>> kernel = RBF()
        >>> fit_kernel(kernel, x, torch.sin(2 * x))
        >>> kernel.length_scale.shape, bool(kernel.is_resolved)
        (torch.Size([1]), True)
    """
    rows = slice(None, None, math.ceil(len(x) / MAX_ROWS))
    columns = slice(None, None, 1 if noise_std is None else math.ceil(y.shape[1] / MAX_TARGETS))
    x, y = precise(x[rows]), precise(y[rows, columns])
    candidates = [candidate.to(x) for candidate in kernel.candidates()]
    if noise_std is not None:
        noise = precise(noise_std[rows, columns])
        for candidate in candidates:
            _maximize_evidence(candidate, x, y, noise)
        kernel.adopt(max(candidates, key=lambda each: float(log_marginal_likelihood(each, x, y, noise))))
        return
    noise_stds = [_maximize_evidence(candidate, x, y) for candidate in candidates]
    scores = [0.0]
    if len(candidates) > 1 and len(x) >= MIN_ROWS:
        scores = [gap_score(each, x, y, noise) for each, noise in zip(candidates, noise_stds, strict=True)]
    kernel.adopt(candidates[scores.index(max(scores))])


def _maximize_evidence(kernel: Kernel, x: Tensor, y: Tensor, given_noise: Tensor | None = None) -> float:
    """Sets the open scales of a kernel and returns the standard deviation of the noise that was not given."""
    with torch.inference_mode(False), torch.enable_grad():
        x, y = x.clone(), y.clone()
        size = x.shape[1] if x.shape[1] <= MAX_SCALES and given_noise is None else 1
        start = math.log(math.sqrt(x.shape[1]))
        log_scale = torch.full((size,), start, dtype=x.dtype, device=x.device, requires_grad=True)
        log_std = torch.zeros((), dtype=x.dtype, device=x.device, requires_grad=True)
        log_noise = torch.full_like(log_std, math.log(INITIAL_NOISE)).requires_grad_()
        optimizer = torch.optim.Adam([log_scale, log_std, log_noise], LEARNING_RATE)
        for _ in range(NUM_STEPS):
            if kernel.finds_length_scale:
                kernel.length_scale = log_scale.exp()
            if kernel.finds_std:
                kernel.std = log_std.exp()
            noise = log_noise.exp() + MIN_NOISE if given_noise is None else given_noise.clone()
            loss = -log_marginal_likelihood(kernel, x, y, noise)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    if kernel.finds_length_scale:
        kernel.length_scale = log_scale.detach().exp()
    if kernel.finds_std:
        kernel.std = torch.maximum(log_std.detach().exp(), y.std(0, correction=0).square().mean().sqrt())
    return float(log_noise.detach().exp()) + MIN_NOISE
