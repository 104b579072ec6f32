"""Metrics of a predictive mixture, of Gaussians or of other distributions."""

from typing import Any

import torch
from torch import Tensor

from lightning_vi.functional.mixture import Mixture, mixture_crps, mixture_interval_covers, mixture_quantile
from lightning_vi.functional.scoring import (
    central_interval_covers,
    gaussian_mixture_crps,
    gaussian_mixture_quantile,
)
from lightning_vi.metrics.base import MeanScore

MAX_EXACT_COMPONENTS = 256

__all__ = ["GaussianMixtureCRPS", "IntervalCoverage", "IntervalWidth", "MixtureCRPS"]


class GaussianMixtureCRPS(MeanScore):
    r"""Mean continuous ranked probability score of a mixture of Gaussians, in the target's units.

    .. math::
        \mathrm{CRPS}(F, y) = \int (F(z) - 1\{z \ge y\})^2 \, dz

    in closed form (Grimit et al., 2006; see `lightning_vi.functional.scoring.gaussian_mixture_crps`),
    averaged over data and targets. A proper score; lower is better. A point forecast scores its absolute
    error.

    ``update(means, stds, target)`` takes the S Gaussians, ``[S, B, ..., D]``, and observed values,
    ``[B, ..., D]``.

    Example:
        >>> import torch
        >>> metric = GaussianMixtureCRPS()
        >>> metric.update(torch.zeros(3, 2, 1), torch.ones(3, 2, 1), torch.tensor([[0.0], [1.0]]))
        >>> metric.compute()
        tensor(0.4181)
    """

    def update(self, means: Tensor, stds: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            means: means of the S Gaussians, in the target's units, shape ``[S, B, ..., D]``.
            stds: their standard deviations, in the target's units, the same shape; zero is a point mass.
            target: observed values, shape ``[B, ..., D]``.

        Raises:
            ValueError: if the shapes do not fit.
        """
        self._accumulate(gaussian_mixture_crps(means, stds, target))


class MixtureCRPS(MeanScore):
    r"""Mean continuous ranked probability score of a mixture, in the target's units.

    For up to 256 Gaussians it is `GaussianMixtureCRPS`, whose cost is quadratic in their number. For more of them, and
    where a `mixture` of other distributions is given, it is integrated numerically, or for counts summed, see
    `lightning_vi.functional.mixture.mixture_crps`.

    ``update(means, stds, target, mixture=None)`` takes the moments of the S components, ``[S, B, ..., D]``, observed
    values, ``[B, ..., D]``, and their mixture unless they are Gaussians.

    Example:
        >>> import torch
        >>> metric = MixtureCRPS()
        >>> metric.update(torch.zeros(3, 2, 1), torch.ones(3, 2, 1), torch.tensor([[0.0], [1.0]]))
        >>> metric.compute()
        tensor(0.4181)
    """

    def update(self, means: Tensor, stds: Tensor, target: Tensor, mixture: Mixture | None = None) -> None:
        """Adds a batch.

        Args:
            means: means of the S components, in the target's units, shape ``[S, B, ..., D]``.
            stds: their standard deviations, in the target's units, the same shape.
            target: observed values, shape ``[B, ..., D]``.
            mixture: the mixture of the components where they are no Gaussians.

        Raises:
            ValueError: if the shapes do not fit.
        """
        if mixture is None and len(means) > MAX_EXACT_COMPONENTS:
            mixture = Mixture(lambda value: torch.special.ndtr((value - means) / stds), means, stds)
        if mixture is None:
            self._accumulate(gaussian_mixture_crps(means, stds, target))
        else:
            self._accumulate(mixture_crps(mixture, target))


class IntervalCoverage(MeanScore):
    r"""Fraction of the targets inside the central predictive interval of a mixture.

    The interval runs from the mixture's quantile at :math:`\alpha = (1 - level) / 2` to the one at
    :math:`1 - \alpha`, ends included. A calibrated prediction covers ``level``, so neither more nor less is
    better. See `lightning_vi.functional.scoring.central_interval_covers`.

    ``update(means, stds, target, mixture=None)`` takes the moments of the S components, ``[S, B, ..., D]``, observed
    values, ``[B, ..., D]``, and their mixture unless they are Gaussians.

    Args:
        level: probability that the interval holds, strictly between 0 and 1.
        **kwargs: options of every torchmetrics metric.

    Raises:
        ValueError: if ``level`` is outside (0, 1).

    Example:
        >>> import torch
        >>> metric = IntervalCoverage(level=0.9)
        >>> metric.update(torch.zeros(3, 2, 1), torch.ones(3, 2, 1), torch.tensor([[1.6], [1.7]]))
        >>> metric.compute()
        tensor(0.5000)
    """

    higher_is_better: bool | None = None

    def __init__(self, level: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.level = _checked_level(level)

    def update(self, means: Tensor, stds: Tensor, target: Tensor, mixture: Mixture | None = None) -> None:
        """Adds a batch.

        Args:
            means: means of the S components, in the target's units, shape ``[S, B, ..., D]``.
            stds: their standard deviations, in the target's units, the same shape; zero is a point mass.
            target: observed values, shape ``[B, ..., D]``.
            mixture: the mixture of the components where they are no Gaussians.

        Raises:
            ValueError: if the shapes do not fit.
        """
        if mixture is None:
            self._accumulate(central_interval_covers(means, stds, target, self.level))
        else:
            self._accumulate(mixture_interval_covers(mixture, target, self.level))


class IntervalWidth(MeanScore):
    r"""Mean width of the central predictive interval of a mixture, in the target's units.

    .. math::
        F^{-1}(1 - \alpha) - F^{-1}(\alpha), \qquad \alpha = (1 - level) / 2

    The sharpness that goes with `IntervalCoverage`: of two predictions with the right coverage, the one with
    the narrower intervals is better.

    ``update(means, stds, mixture=None)`` takes the moments of the S components, ``[S, B, ..., D]``, and their mixture
    unless they are Gaussians.

    Args:
        level: probability that the interval holds, strictly between 0 and 1.
        **kwargs: options of every torchmetrics metric.

    Raises:
        ValueError: if ``level`` is outside (0, 1).

    Example:
        >>> import torch
        >>> metric = IntervalWidth(level=0.95)
        >>> metric.update(torch.zeros(3, 2, 1), torch.ones(3, 2, 1))
        >>> metric.compute()
        tensor(3.9199)
    """

    def __init__(self, level: float = 0.95, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.level = _checked_level(level)

    def update(self, means: Tensor, stds: Tensor, mixture: Mixture | None = None) -> None:
        """Adds a batch.

        Args:
            means: means of the S components, in the target's units, shape ``[S, B, ..., D]``.
            stds: their standard deviations, in the target's units, the same shape; zero is a point mass.
            mixture: the mixture of the components where they are no Gaussians.

        Raises:
            ValueError: if the shapes do not fit.
        """
        tail = (1 - self.level) / 2
        levels = [tail, 1 - tail]
        quantiles = (
            gaussian_mixture_quantile(means, stds, levels) if mixture is None else mixture_quantile(mixture, levels)
        )
        lower, upper = quantiles.unbind()
        self._accumulate(upper - lower)


def _checked_level(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level!r}")
    return level
