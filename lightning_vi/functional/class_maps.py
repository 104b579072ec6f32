"""Fits of maps from class probabilities to calibrated ones: linear in the logarithm, and isotonic."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.functional.calibration import best_temperature, log_odds_against

__all__ = ["fit_isotonic", "fit_linear_map", "interpolate"]

_MAX_STEPS = 500


def fit_linear_map(
    log_probs: Tensor,
    labels: Tensor,
    *,
    diagonal: bool,
    off_diagonal_penalty: float = 0.0,
    intercept_penalty: float = 0.0,
) -> tuple[Tensor, Tensor]:
    r"""Fits a linear map of log-probabilities by maximum likelihood, with the penalties of Kull et al. (2019).

    .. math:: \min_{W, b} \; -\frac1N \sum_n \ln \mathrm{softmax}(W \ln p_n + b)_{y_n}
        + \frac{\lambda}{C (C - 1)} \sum_{i \ne j} W_{ij}^2 + \frac{\mu}{C} \sum_i b_i^2

    The problem is convex. L-BFGS starts from the best temperature, in at most 500 iterations: where the classes can be
    separated and nothing is penalized, the solution at infinity is not reached.

    Args:
        log_probs: Log-probabilities, shape [N, C].
        labels: Labels, shape [N].
        diagonal: Whether W is diagonal.
        off_diagonal_penalty: :math:`\lambda`, not negative.
        intercept_penalty: :math:`\mu`, not negative.

    Returns:
        W, shape [C, C], and b, shape [C], of the dtype of `log_probs`.

    Example:
        >>> log_probs = torch.tensor([[0.2, 0.8]]).log().expand(10, 2)
        >>> weight, bias = fit_linear_map(log_probs, torch.tensor([0] * 4 + [1] * 6), diagonal=True)
        >>> (log_probs[:1] @ weight.T + bias).softmax(1)
        tensor([[0.4000, 0.6000]])
    """
    num_classes = log_probs.shape[1]
    start = 1 / best_temperature(log_odds_against(log_probs, labels))
    scale = (torch.ones(num_classes) if diagonal else torch.eye(num_classes)).to(log_probs) * start
    with torch.enable_grad():
        weight, bias = scale.clone().requires_grad_(), log_probs.new_zeros(num_classes).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [weight, bias],
            max_iter=_MAX_STEPS,
            tolerance_grad=1e-9,
            tolerance_change=1e-14,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            outputs = log_probs * weight if diagonal else log_probs @ weight.T
            loss = F.cross_entropy(outputs + bias, labels) + intercept_penalty * bias.square().mean()
            if not diagonal:
                off = weight - torch.diag(weight.diagonal())
                loss = loss + off_diagonal_penalty * off.square().sum() / (num_classes * (num_classes - 1))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimizer.step(closure)  # type: ignore[no-untyped-call]
    matrix = weight.detach()
    return torch.diag(matrix) if diagonal else matrix, bias.detach()


def fit_isotonic(places: Tensor, values: Tensor, num_knots: int) -> tuple[Tensor, Tensor]:
    """Fits a non-decreasing function by least squares (isotonic regression) and returns its knots.

    Args:
        places: Where the function is observed, shape [N].
        values: Observations between 0 and 1, shape [N].
        num_knots: Number of knots, at least two. If the function has fewer, the last one is repeated; of more, evenly
            spaced ones are kept.

    Returns:
        Places and values of the knots of a piecewise linear function, in ascending order, each of shape [num_knots].

    Example:
        >>> fit_isotonic(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.0, 1.0, 0.5]), num_knots=3)
        (tensor([0.1000, 0.2000, 0.3000]), tensor([0.0000, 0.7500, 0.7500]))
    """
    from sklearn.isotonic import IsotonicRegression  # takes long to import

    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(places.numpy(), values.numpy())
    knots = [torch.as_tensor(array).to(places) for array in (fitted.X_thresholds_, fitted.y_thresholds_)]
    size = len(knots[0])
    index = torch.linspace(0, size - 1, num_knots).round().long() if size > num_knots else torch.arange(num_knots)
    x, y = (knot[index.clamp_max(size - 1)] for knot in knots)
    return x, y


def interpolate(places: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Evaluates a piecewise linear function, constant beyond its ends.

    Args:
        places: Where to evaluate, shape [...].
        knots: In ascending order, shape [K]; several may be equal.
        values: Values at the knots, shape [K].

    Returns:
        Shape [...].

    Example:
        >>> interpolate(torch.tensor([-1.0, 0.25, 2.0]), torch.tensor([0.0, 1.0]), torch.tensor([0.0, 2.0]))
        tensor([0.0000, 0.5000, 2.0000])
    """
    right = torch.searchsorted(knots, places.contiguous(), right=True).clamp(1, len(knots) - 1)
    first, last = knots[right - 1], knots[right]
    width = last - first
    share = ((places - first) / torch.where(width > 0, width, 1)).clamp(0, 1)
    share = torch.where((width == 0) & (places >= last), 1, share)
    return torch.lerp(values[right - 1], values[right], share)
