r"""Averages with the weights of a softmax, linearized in its logits s.

.. math:: o = \sum_j p_j v_j, \qquad \mathrm{Var}[o] \approx \sum_j p_j^2\, \mathrm{Var}[v_j]
    + p_j^2\, \mathrm{Var}[s_j]\, \big((v_j - o)^2 + \mathrm{Var}[v_j]\big)
"""

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
    mean_over,
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
    mean, variance, shared = _attended(probs, logit_variance, *_prepared(values))
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
    scores, values = _score_factors(query, key, factor), _prepared(value)
    has_rows = mask is not None and mask.dim() == query.dim() and len(mask) > 1

    def formula(*parts: Tensor | None) -> tuple[Tensor | None, ...]:
        added = parts[8] if has_rows else mask
        attended = _attended(*_probabilities(added, *parts[:4]), *parts[4:8])  # type: ignore[arg-type]
        return tuple(None if part is None else finish(part) for part in attended)

    tensors = [*scores, *values, mask if has_rows else None]
    if query.dim() < 3 or not len(query) == len(key) == len(value):
        return formula(*tensors)  # type: ignore[return-value]
    size = query.shape[1:-1].numel() * key.shape[-2] // 2
    return in_row_parts(formula, tensors, size)  # type: ignore[return-value]


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
    return _probabilities(mask, *_score_factors(query, key, factor))


def _score_factors(query: Tensor, key: Tensor, factor: float) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Matrices of queries and keys whose products are the means and the variances of the scores."""
    left, right = (factor * mean_of(query)).contiguous(), mean_of(key).contiguous()
    pairs = ((variance_of(query), second_moment_of(key)), (mean_square_of(query), variance_of(key)))
    known = [pair for pair in pairs if pair[0] is not None and pair[1] is not None]
    if not known:
        return left, right, None, None
    first, second = (torch.cat(side, -1) for side in zip(*known, strict=True))
    return left, right, first.mul_(factor**2), second


def _probabilities(
    mask: Tensor | None, left: Tensor, right: Tensor, first: Tensor | None, second: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    scores = left @ right.mT
    probs = (scores if mask is None else scores + mean_of(mask)).softmax(-1)
    return probs, None if first is None or second is None else first @ second.mT


def _prepared(values: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
    """Average of values, their variances, both around the average, and their correlation.

    They are those over the last dimension but one, which has a one in its place. The third are deviations from the
    average, with variances beside them.
    """
    dims = (values.dim() - 2,)
    mean, variance = mean_of(values), variance_of(values)
    center = mean_over(mean, (-2,))
    shifted = mean - center
    if variance is None or not isinstance(values, GaussianTensor):
        return center, None, shifted, None
    known = values.correlation if positions(values) == dims else None
    together = None if known is None else first_of(known, dims)
    return center, variance.contiguous(), torch.cat([shifted, variance], -1), together


def _attended(
    probs: Tensor,
    logit_variance: Tensor | None,
    center: Tensor,
    variance: Tensor | None,
    columns: Tensor,
    correlation: Tensor | None,
) -> Parts:
    width = center.shape[-1]
    squares, average = probs * probs, mean_over(probs, (-2,))
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
    shifted = columns[..., :width]
    second = shifted.square() if variance is None else torch.addcmul(variance, shifted, shifted)
    squared, crossed = torch.split(weights @ torch.cat([second, shifted], -1), width, -1)
    # sum of w_j ((v_j - c)^2 + Var[v_j]) - 2 (o - c) (v_j - c) + (o - c)^2
    mass = weights.sum(-1, keepdim=True)
    spread = torch.addcmul(squared, shift, torch.addcmul(crossed * -2, shift, mass)).clamp_min(0)
    between = mean_over(spread, (-2,)) * (1 / spread.shape[-2])
    return shift + center, spread if own is None else spread + own, between if shared is None else between + shared
