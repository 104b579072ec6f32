r"""The energy score of a joint predictive distribution of several targets, and draws from a mixture to score."""

import math

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.mixture import Mixture

__all__ = ["energy_score", "mixture_draws"]

_MAX_PAIR_ELEMENTS = 2**22
_HALVINGS = 40


def energy_score(draws: Tensor, target: Tensor) -> Tensor:
    r"""Returns the energy score of a predictive distribution of D targets, estimated from its draws.

    .. math::
        \mathrm{ES}(F, y) = \mathrm{E} \lVert X - y \rVert - \tfrac12 \mathrm{E} \lVert X - X' \rVert, \qquad
        X, X' \sim F \text{ independent}

    Gneiting and Raftery (2007), "Strictly Proper Scoring Rules, Prediction, and Estimation", section 4.3, without bias:
    the second expectation is over pairs of different draws. The score of the joint distribution rewards right
    correlations between targets; with one target it is the CRPS. Scale targets of different units first.

    Args:
        draws: R draws of the targets, at least two, shape ``[R, B, ..., D]``.
        target: observed values, shape ``[B, ..., D]``.

    Returns:
        Scores in the target's units, shape ``[B, ...]``.

    Raises:
        ValueError: if there is one draw or the shapes do not fit.

    Example:
        >>> energy_score(torch.tensor([[[0.0, 0.0]], [[6.0, 8.0]]]), torch.zeros(1, 2))
        tensor([0.])
    """
    if draws.ndim < 2 or len(draws) < 2 or draws.shape[1:] != target.shape:
        raise InputValueError(
            f"draws must have shape [R, ...] with R >= 2 and the shape of target {list(target.shape)} behind it, got "
            f"{list(draws.shape)}"
        )
    dtype = torch.promote_types(draws.dtype, torch.float32)
    draws, target = draws.to(dtype), target.to(dtype)
    num_draws = len(draws)
    distance: Tensor = torch.linalg.vector_norm(draws - target, dim=-1).mean(0)
    points = draws.flatten(1, -2).movedim(0, 1)  # [rows, R, D]
    size = max(1, _MAX_PAIR_ELEMENTS // num_draws**2)
    # By differences: a matrix product cancels where the draws are close.
    mode = "donot_use_mm_for_euclid_dist"
    pairs = [torch.cdist(part, part, compute_mode=mode).sum((1, 2)) for part in torch.split(points, size)]
    spread = torch.cat(pairs).view(distance.shape) / (num_draws * (num_draws - 1))
    return distance - spread / 2


@torch.no_grad()
def mixture_draws(means: Tensor, stds: Tensor, num_draws: int, mixture: Mixture | None = None, seed: int = 0) -> Tensor:
    """Returns draws of all targets from a mixture, the same number from each component.

    Targets are independent within a component. The numbers depend on the seed and on the place of a row in the batch.

    Args:
        means: means of the components, in the target's units, shape ``[S, B, ..., D]``.
        stds: standard deviations of the components, the same shape.
        num_draws: number of draws, rounded up to a multiple of S.
        mixture: mixture of the components; None if they are Gaussian.
        seed: seed of the draws.

    Returns:
        Shape ``[R, B, ..., D]`` with R at least ``num_draws``.

    Example:
        >>> mixture_draws(torch.zeros(3, 2, 1), torch.ones(3, 2, 1), num_draws=4).shape
        torch.Size([6, 2, 1])
    """
    each = math.ceil(num_draws / len(means))
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.promote_types(means.dtype, torch.float32)
    uniforms = torch.rand((each, *means.shape), generator=generator, device="cpu", dtype=torch.float64)
    levels = uniforms.clamp(1e-6, 1 - 1e-6).to(means.device, dtype)
    means, stds = means.to(dtype), stds.to(dtype)
    if mixture is None:
        draws: Tensor = means + stds * torch.special.ndtri(levels)
        return draws.flatten(0, 1)
    return torch.stack([_component_quantiles(mixture, means, stds, level) for level in levels]).flatten(0, 1)


def _component_quantiles(mixture: Mixture, means: Tensor, stds: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of each component at its own levels, by halving the bracket of Chebyshev's inequality."""
    low = means - stds * ((1 - levels) / levels).sqrt()
    width = stds * (levels / (1 - levels)).sqrt() + means - low
    if mixture.is_count:
        low, width = low.clamp_min(-1).floor(), width.ceil() + 1
    for halving in range(1, _HALVINGS + 1):
        middle = low + width * 0.5**halving
        values = middle.floor() if mixture.is_count else middle
        cdf = torch.stack([mixture.component_cdf(value.unsqueeze(0))[index] for index, value in enumerate(values)])
        low = torch.where(cdf < levels, middle, low)
    quantiles = low + width * 0.5**_HALVINGS
    return quantiles.round() if mixture.is_count else quantiles
