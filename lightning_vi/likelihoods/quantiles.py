"""Predicted quantiles."""

from collections.abc import Sequence
from statistics import NormalDist

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.constants import constant_like
from lightning_vi.likelihoods.base import Missing
from lightning_vi.likelihoods.location_scale import GaussianNoise

MIN_STD = 1e-3


class Quantiles(GaussianNoise):
    r"""Quantiles of each target at given levels (Koenker and Bassett, "Regression quantiles", 1978).

    The first D outputs are the quantiles of the D targets at the smallest level, the next D those at the second one,
    and so on. They are trained on the pinball loss, `point_loss`. A prediction sorts them in ascending order, so that
    they never cross (Chernozhukov, Fernandez-Val and Galichon, "Quantile and probability curves without crossing",
    2010).

    Predictive means are the medians. Standard deviations, densities and metrics are those of a Gaussian around the
    median with the same distance between the outermost quantiles:
    :math:`\sigma = (q_{\max} - q_{\min}) / (z_{\max} - z_{\min})` with the standard normal quantiles z, and at least
    0.001 in the units that the network predicts.

    `expected_log_prob` uses quasi-Monte Carlo points over the outputs of each target. Its error is below 1e-3 nats
    where the outputs' standard deviations are at most a tenth of the distance of neighboring quantiles, and grows to
    0.1 nats at a third of it: crossing quantiles have a large negative log density.

    Args:
        levels: Strictly between 0 and 1, in ascending order, 0.5 among at least three.
        num_targets: D, the width of the network's output divided by the number of levels.
        scale_targets: Whether a fit on plain dataloaders, or on a datamodule without `target_mean` and `target_std`,
            standardizes the targets by the training data, unless they are of order one.
        missing: ``"ignore"`` if NaN stands for targets that were not observed: they have no part in losses, metrics,
            calibrations and curvature. By default NaN is an error.

    Raises:
        ValueError: If `num_targets` is not positive, the levels are not as described, or `missing` is unknown.

    Example:
        >>> import torch
        >>> likelihood = Quantiles(levels=(0.1, 0.5, 0.9))
        >>> likelihood.point_loss(torch.tensor([[[0.0, 1.0, 2.0]]]), torch.tensor([[3.0]]))  # .1 * 3 + .5 * 2 + .9 * 1
        tensor(2.2000)
    """

    def __init__(
        self,
        levels: Sequence[float] = (0.05, 0.5, 0.95),
        num_targets: int = 1,
        scale_targets: bool = True,
        missing: Missing = "error",
    ) -> None:
        super().__init__(num_targets, missing, scale_targets=scale_targets)
        levels = tuple(levels)
        if not all(0 < level < 1 for level in levels):
            raise InputValueError(f"levels must lie strictly between 0 and 1, got {levels}")
        if list(levels) != sorted(set(levels)):
            raise InputValueError(f"levels must be in ascending order, each once, got {levels}")
        if not (0.5 in levels and levels[0] < 0.5 < levels[-1]):
            raise InputValueError(f"levels must have 0.5, and one on either side of it, got {levels}")
        self.levels = levels
        self._median = levels.index(0.5)
        self._normal_width = NormalDist().inv_cdf(levels[-1]) - NormalDist().inv_cdf(levels[0])

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return len(self.levels) * self.num_targets

    @property
    def outputs_per_element(self) -> int:  # noqa: D102
        return len(self.levels)

    def standardized_quantiles(self, outputs: Tensor) -> Tensor:
        """Quantiles in ascending order, in the network's units.

        Args:
            outputs: Network outputs, shape [..., L D].

        Returns:
            Shape [..., L, D].
        """
        return self._by_level(outputs).sort(dim=-2).values

    def quantiles(self, outputs: Tensor) -> Tensor:
        """Quantiles in ascending order, in target units.

        Args:
            outputs: Network outputs, shape [..., L D].

        Returns:
            Shape [..., L, D].
        """
        return self.standardized_quantiles(outputs) * self.target_std + self.target_mean

    def standardized_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        quantiles = self.standardized_quantiles(outputs)
        width = quantiles[..., -1, :] - quantiles[..., 0, :]
        return quantiles[..., self._median, :], (width / self._normal_width).clamp_min(MIN_STD)

    def elementwise_point_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        r"""Pinball loss, :math:`\rho_\tau(u) = \max(\tau u, (\tau - 1) u)`, summed over levels.

        Args:
            outputs: Network outputs, shape [S, B, ..., L D]; not sorted.
            target: Targets, shape [B, ..., D].

        Returns:
            In the network's units, shape [S, B, ..., D].
        """
        residual = self._standardize(target).unsqueeze(-2) - self._by_level(outputs)
        levels = constant_like(self.levels, residual).unsqueeze(-1)
        return torch.maximum(levels * residual, (levels - 1) * residual).sum(-2)

    def _by_level(self, outputs: Tensor) -> Tensor:
        return outputs.reshape(*outputs.shape[:-1], len(self.levels), self.num_targets)
