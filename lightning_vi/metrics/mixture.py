"""Metrics of a predictive mixture of Gaussians or of other distributions."""

from typing import Any

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.mixture import Mixture, mixture_crps, mixture_interval_covers, mixture_quantile
from lightning_vi.functional.scoring import central_interval_covers, gaussian_mixture_crps, gaussian_mixture_quantile
from lightning_vi.metrics.base import MeanScore

__all__ = ["GaussianMixtureCRPS", "IntervalCoverage", "IntervalWidth", "MixtureCRPS"]

MAX_EXACT_COMPONENTS = 256


class GaussianMixtureCRPS(MeanScore):
    r"""Mean continuous ranked probability score (CRPS) of a mixture of Gaussians, in the target's units.

    .. math::
        \mathrm{CRPS}(F, y) = \int (F(z) - 1\{z \ge y\})^2 \, dz

    in closed form (Grimit et al., 2006; see `lightning_vi.functional.scoring.gaussian_mixture_crps`), averaged over
    data and targets. A proper scoring rule; lower is better. The score of a point forecast is its absolute error.

    Example:
        >>> import torch
        >>> metric = GaussianMixtureCRPS()
        >>> metric.update(torch.zeros(3, 2, 1), torch.ones(3, 2, 1), torch.tensor([[0.0], [1.0]]))
        >>> metric.compute()
        tensor(0.4181)
    """

    def update(self, means: Tensor, stds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            means: means of the Gaussians, in the target's units, shape ``[S, B, ..., D]``.
            stds: standard deviations of the Gaussians, in the target's units, the same shape; 0 is a point mass.
            target: observed values, shape ``[B, ..., D]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        self._accumulate(gaussian_mixture_crps(means, stds, target), observed)


class MixtureCRPS(MeanScore):
    """Mean continuous ranked probability score (CRPS) of a mixture, in the target's units.

    Equal to `GaussianMixtureCRPS` for up to 256 Gaussians; the cost of the closed form is quadratic in their number.
    For more Gaussians, and for a `mixture` of other distributions, the CRPS is integrated numerically (summed for
    counts); see `lightning_vi.functional.mixture.mixture_crps`.

    Example:
        >>> import torch
        >>> metric = MixtureCRPS()
        >>> metric.update(torch.zeros(3, 2, 1), torch.ones(3, 2, 1), torch.tensor([[0.0], [1.0]]))
        >>> metric.compute()
        tensor(0.4181)
    """

    def update(
        self,
        means: Tensor,
        stds: Tensor,
        target: Tensor,
        mixture: Mixture | None = None,
        observed: Tensor | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            means: means of the components, in the target's units, shape ``[S, B, ..., D]``.
            stds: standard deviations of the components, in the target's units, the same shape.
            target: observed values, shape ``[B, ..., D]``.
            mixture: mixture of the components; None if they are Gaussian.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        if mixture is None and len(means) > MAX_EXACT_COMPONENTS:
            mixture = Mixture(lambda value: torch.special.ndtr((value - means) / stds), means, stds)
        if mixture is None:
            self._accumulate(gaussian_mixture_crps(means, stds, target), observed)
        else:
            self._accumulate(mixture_crps(mixture, target), observed)


class IntervalCoverage(MeanScore):
    r"""Fraction of the targets inside the central predictive interval of a mixture.

    The interval is bounded by the quantiles of the mixture at :math:`\alpha = (1 - level) / 2` and :math:`1 - \alpha`,
    endpoints included. A calibrated prediction has a coverage of ``level``: neither higher nor lower is better. See
    `lightning_vi.functional.scoring.central_interval_covers`.

    Args:
        level: probability mass of the interval, strictly between 0 and 1.

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

    def update(
        self,
        means: Tensor,
        stds: Tensor,
        target: Tensor,
        mixture: Mixture | None = None,
        observed: Tensor | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            means: means of the components, in the target's units, shape ``[S, B, ..., D]``.
            stds: standard deviations of the components, in the target's units, the same shape; 0 is a point mass.
            target: observed values, shape ``[B, ..., D]``.
            mixture: mixture of the components; None if they are Gaussian.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        if mixture is None:
            self._accumulate(central_interval_covers(means, stds, target, self.level), observed)
        else:
            self._accumulate(mixture_interval_covers(mixture, target, self.level), observed)


class IntervalWidth(MeanScore):
    r"""Mean width of the central predictive interval of a mixture, in the target's units.

    .. math::
        F^{-1}(1 - \alpha) - F^{-1}(\alpha), \qquad \alpha = (1 - level) / 2

    The sharpness that complements `IntervalCoverage`: of two predictions with correct coverage, the one with the
    narrower intervals is better.

    Args:
        level: probability mass of the interval, strictly between 0 and 1.

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

    def update(
        self,
        means: Tensor,
        stds: Tensor,
        mixture: Mixture | None = None,
        observed: Tensor | None = None,
    ) -> None:
        """Adds a batch.

        Args:
            means: means of the components, in the target's units, shape ``[S, B, ..., D]``.
            stds: standard deviations of the components, in the target's units, the same shape; 0 is a point mass.
            mixture: mixture of the components; None if they are Gaussian.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
        """
        tail = (1 - self.level) / 2
        levels = [tail, 1 - tail]
        if mixture is None:
            lower, upper = gaussian_mixture_quantile(means, stds, levels).unbind()
        else:
            lower, upper = mixture_quantile(mixture, levels).unbind()
        self._accumulate(upper - lower, observed)


def _checked_level(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise InputValueError(f"level must lie strictly between 0 and 1, got {level!r}")
    return level
