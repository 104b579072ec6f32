r"""Averages with the weights of a softmax, linearized in its logits s.

.. math:: o = \sum_j p_j v_j, \qquad \mathrm{Var}[o] \approx \sum_j p_j^2\, \mathrm{Var}[v_j]
    + p_j^2\, \mathrm{Var}[s_j]\, \big((v_j - o)^2 + \mathrm{Var}[v_j]\big)
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lightning_vi.moments.activations import in_row_parts, reused
from lightning_vi.moments.correlation import with_shared
from lightning_vi.moments.gaussian_tensor import (
    GaussianTensor,
    first_of,
    make_gaussian,
    mean_of,
    mean_square_of,
    positions,
    second_moment_of,
    variance_of,
)

Parts = tuple[Tensor, Tensor | None, Tensor | None]
"""Means, variances, and the variance of the average over the last dimension but one."""
MIN_COLUMNS = 16
"""Columns of a matrix below which products take longer on a CPU than with more of them."""


def attend(probs: Tensor, logit_variance: Tensor | None, values: Tensor) -> Tensor:
    """Average of values.

    Args:
        probs: Probabilities p at the means of the logits, shape [..., T, J].
        logit_variance: Variances of the logits, the shape of `probs`; None for constants.
        values: v, shape [..., J, F].

    Returns:
        Shape [..., T, F].
    """
    mean, variance, shared = _attended(probs, logit_variance, mean_of(values), variance_of(values), _together(values))
    return with_shared(make_gaussian(mean, variance), shared, (mean.dim() - 2,))


def attention_by_parts(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    factor: float,
    finish: Callable[[Tensor], Tensor] = lambda x: x,
) -> Parts:
    """Attention with independent scores, computed for some rows of the batch at a time.

    Args:
        query: Shape [B, ..., T, F].
        key: Shape [B, ..., J, F].
        value: Shape [B, ..., J, F].
        mask: Added to the scores, broadcasts to [B, ..., T, J]; None for none.
        factor: Multiplies the scores.
        finish: Applied to each result.

    Returns:
        Moments of shape [B, ..., T, F], before `finish`.
    """
    has_rows = mask is not None and mask.dim() == query.dim() and len(mask) > 1

    def formula(
        query: Tensor,
        query_variance: Tensor | None,
        key: Tensor,
        key_variance: Tensor | None,
        value: Tensor,
        value_variance: Tensor | None,
        correlation: Tensor | None,
        rows: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        scores = probabilities(
            make_gaussian(query, query_variance),
            make_gaussian(key, key_variance),
            rows if has_rows else mask,
            factor,
        )
        parts = _attended(*scores, value, value_variance, correlation)
        return tuple(None if part is None else finish(part) for part in parts)

    tensors = [part for x in (query, key, value) for part in (mean_of(x), variance_of(x))]
    tensors += [_together(value), mask if has_rows else None]
    is_one_batch = query.dim() > 2 and len(query) == len(key) == len(value)
    size = query.shape[1:-1].numel() * key.shape[-2] if is_one_batch else math.inf
    if size == math.inf:
        return formula(*tensors)  # type: ignore[arg-type, return-value]
    return in_row_parts(formula, tensors, int(size))  # type: ignore[return-value]


def probabilities(query: Tensor, key: Tensor, mask: Tensor | None, factor: float) -> tuple[Tensor, Tensor | None]:
    """Softmax at the means of the scores, and the variances of the scores.

    Args:
        query: Shape [..., T, F].
        key: Shape [..., J, F].
        mask: Added to the scores; None for none.
        factor: Multiplies the scores.

    Returns:
        Each of shape [..., T, J]; None for variances of constants.
    """
    scores = (factor * mean_of(query)) @ mean_of(key).mT
    scores = scores if mask is None else scores + mean_of(mask)
    pairs = ((variance_of(query), second_moment_of(key)), (mean_square_of(query), variance_of(key)))
    known = [(left, right) for left, right in pairs if left is not None and right is not None]
    if not known:
        return scores.softmax(-1), None
    left, right = (torch.cat(side, -1) for side in zip(*known, strict=True))
    return scores.softmax(-1), (factor**2 * left) @ right.mT


def _together(values: Tensor) -> Tensor | None:
    """Correlation between the averaged elements, with a one in their place; None if they are independent."""
    dims = (values.dim() - 2,)
    if not isinstance(values, GaussianTensor) or positions(values) != dims or values.correlation is None:
        return None
    return first_of(values.correlation, dims)


def _attended(
    probs: Tensor, logit_variance: Tensor | None, mean: Tensor, variance: Tensor | None, correlation: Tensor | None
) -> Parts:
    width = mean.shape[-1]
    squares, average = probs * probs, probs.mean(-2, keepdim=True)
    center = mean.mean(-2, keepdim=True)
    shifted = mean - center
    columns = shifted if variance is None else torch.cat([shifted, variance], -1)
    shift, *together = torch.split(probs @ columns, width, -1)
    own, shared = None, None
    if variance is not None:
        own = (squares @ columns)[..., width:] if width < MIN_COLUMNS else squares @ variance
        shared = average.square() @ variance
        if correlation is not None:
            own, shared = own.lerp(together[0], correlation), shared.lerp(average @ variance, correlation)
    if logit_variance is None:
        return shift + center, own, shared
    weights = torch.mul(squares, logit_variance, out=reused(squares))
    # (v - o)^2 in terms of sums over j, around the mean over j so that no digits are lost
    second = shifted.square() if variance is None else torch.addcmul(variance, shifted, shifted)
    squared, crossed = torch.split(weights @ torch.cat([second, shifted], -1), width, -1)
    spread = (squared + shift * (shift * weights.sum(-1, keepdim=True) - 2 * crossed)).clamp_min(0)
    between = spread.mean(-2, keepdim=True) / spread.shape[-2]
    return shift + center, spread if own is None else spread + own, between if shared is None else between + shared
