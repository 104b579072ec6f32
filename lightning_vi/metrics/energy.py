"""Energy score of the joint predictive distribution of several targets."""

from typing import Any

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.energy import energy_score, mixture_draws
from lightning_vi.functional.mixture import Mixture
from lightning_vi.metrics.base import MeanScore

__all__ = ["EnergyScore"]


class EnergyScore(MeanScore):
    r"""Mean energy score of the joint distribution of all targets, estimated from draws, in the target's units.

    .. math::
        \mathrm{ES}(F, y) = \mathrm{E} \lVert X - y \rVert - \tfrac12 \mathrm{E} \lVert X - X' \rVert

    Gneiting and Raftery (2007), see `lightning_vi.functional.energy_score`. A proper score; lower is better. Targets
    are independent within a component of the mixture and correlated through the components. The targets should have
    similar scales. Where some targets of a datum are missing, the others are scored.

    Args:
        num_draws: number of draws from each predictive distribution, at least 2; rounded up to a multiple of the
            number of components.
        seed: seed of the draws.

    Raises:
        ValueError: if ``num_draws`` is below 2.

    Example:
        >>> import torch
        >>> metric = EnergyScore(num_draws=2000)
        >>> metric.update(torch.zeros(3, 1, 2), torch.ones(3, 1, 2), torch.zeros(1, 2))
        >>> round(float(metric.compute()), 1)  # (sqrt(pi / 2) - sqrt(pi) / 2), the exact value, is 0.37
        0.4
    """

    def __init__(self, num_draws: int = 128, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if isinstance(num_draws, bool) or not isinstance(num_draws, int) or num_draws < 2:
            raise InputValueError(f"num_draws must be an integer of at least 2, got {num_draws!r}")
        self.num_draws = num_draws
        self.seed = seed

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
        draws = mixture_draws(means, stds, max(self.num_draws, 2), mixture, self.seed)
        if observed is None:
            self._accumulate(energy_score(draws, target))
            return
        known = torch.where(observed, target, 0)
        self._accumulate(energy_score(torch.where(observed, draws, 0), known), observed.any(-1))
