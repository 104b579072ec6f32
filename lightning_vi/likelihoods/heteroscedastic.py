"""Gaussian noise with a predicted standard deviation."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.errors import InputValueError
from lightning_vi.functional import gauss_hermite
from lightning_vi.functional.quadrature import sobol_gaussian
from lightning_vi.likelihoods.base import Missing
from lightning_vi.likelihoods.location_scale import (
    LOG_SQRT_TWO_PI,
    GaussianNoise,
    diagonal_factor,
    gaussian_log_prob,
)
from lightning_vi.likelihoods.prediction import Prediction


class HeteroscedasticGaussian(GaussianNoise):
    r"""Input-dependent Gaussian noise (Nix & Weigend, 1994).

    The first D outputs are the mean, the next D the raw scale r:
    :math:`y_d \sim \mathcal{N}(f_d, \sigma_d^2)` with :math:`\sigma_d = \sigma_{\min} + \ln(1 + e^{r_d})`.

    Args:
        num_targets: D, half the width of the network's output.
        min_std: :math:`\sigma_{\min}` in the units that the network predicts; it bounds the density.
        scale_targets: Whether a fit on plain dataloaders, or on a datamodule without `target_mean` and `target_std`,
            standardizes the targets by the training data, unless they are of order one.
        missing: ``"ignore"`` if NaN stands for targets that were not observed: they have no part in losses, metrics,
            calibrations and curvature. By default NaN is an error.

    Raises:
        ValueError: If `num_targets` is not positive, `min_std` is negative or `missing` is unknown.

    Example:
        >>> import torch
        >>> means, variances = HeteroscedasticGaussian(min_std=0.0).predictive_moments(torch.zeros(1, 3, 2))
        >>> means.shape, variances.sqrt()[0, 0]
        (torch.Size([1, 3, 1]), tensor([0.6931]))
    """

    has_output_noise = True
    nodes: Tensor
    node_weights: Tensor

    def __init__(
        self, num_targets: int = 1, min_std: float = 1e-3, scale_targets: bool = True, missing: Missing = "error"
    ) -> None:
        super().__init__(num_targets, missing, scale_targets=scale_targets)
        if not min_std >= 0:
            raise InputValueError(f"min_std must not be negative, got {min_std}")
        self.min_std = min_std
        nodes, weights = gauss_hermite(NUM_NODES)
        self.register_buffer("nodes", nodes, persistent=False)
        self.register_buffer("node_weights", weights, persistent=False)

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return 2 * self.num_targets

    def standardized_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        mean, raw_scale = outputs[..., : self.num_targets], outputs[..., self.num_targets :]
        return mean, F.softplus(raw_scale) + self.min_std

    def information_factor(self, outputs: Tensor) -> Tensor:
        r"""Square root of the Fisher information, which is diagonal.

        Its elements are :math:`\sigma^{-2}` for the mean and :math:`2 (\partial\sigma / \partial r)^2 \sigma^{-2}` for
        the raw scale.

        Args:
            outputs: Outputs of one network, shape [B, ..., 2 D].

        Returns:
            Shape [B, E, E].
        """
        _, std = self.standardized_moments(outputs)
        slope = torch.sigmoid(outputs[..., self.num_targets :])
        return diagonal_factor(torch.cat([1 / std, 2**0.5 * slope / std], -1))

    def elementwise_expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        r"""Exact in the mean, by Gauss-Hermite quadrature in the raw scale; the two are independent.

        .. math:: -\tfrac12 \big((y_d - m_d)^2 + v_d\big)\, \mathrm{E}[\sigma_d^{-2}]
            - \mathrm{E}[\ln \sigma_d] - \tfrac12 \ln 2 \pi

        Args:
            mean: Means m of the network's outputs, shape [B, ..., 2 D].
            variance: Their variances v, the shape of `mean`.
            target: Targets, shape [B, ..., D].

        Returns:
            Nats, the shape of `target`.
        """
        width = self.num_targets
        nodes = self.nodes.view(-1, *[1] * mean.dim())
        weights = self.node_weights.view_as(nodes)
        raw_std = variance[..., width:].clamp_min(torch.finfo(variance.dtype).tiny).sqrt()  # finite gradient at 0
        raw_scales = mean[..., width:] + raw_std * nodes
        stds = F.softplus(raw_scales) + self.min_std
        squares = (self._standardize(target) - mean[..., :width]).square() + variance[..., :width]
        log_prob = -(weights * (0.5 * squares / stds.square() + stds.log())).sum(0)
        return log_prob - LOG_SQRT_TWO_PI - self.target_std.log()

    def gaussian_prediction(self, mean: Tensor, std: Tensor, **extras: Any) -> Prediction:
        r"""Exact in the mean, by quadrature in the raw scale: the variance is :math:`\mathrm{E}[\sigma_d^2]`.

        Args:
            mean: Means of the network's outputs, shape [B, ..., 2 D].
            std: Standard deviations of the network's outputs, the shape of `mean`.
            **extras: Further fields of the prediction.

        Returns:
            The prediction in target units.
        """
        width = self.num_targets
        means, noise = self._at(self.nodes, mean, std)
        weights = self.node_weights.to(noise.dtype).view(-1, *[1] * mean.dim())
        aleatoric = (weights * noise.square()).sum(0)
        epistemic = (std[..., :width] * self.target_std).square()
        return Prediction(means, epistemic, aleatoric, epistemic + aleatoric, **extras)

    def gaussian_metric_inputs(self, mean: Tensor, std: Tensor, target: Tensor) -> dict[str, Any]:
        r"""Mixture over the raw scale of :math:`\mathcal{N}(m_d, v_d + \sigma_d^2)`, with 16 equally probable scales.

        Args:
            mean: Means of the network's outputs, shape [B, ..., 2 D].
            std: Standard deviations of the network's outputs, the shape of `mean`.
            target: Targets, shape [B, ..., D].

        Returns:
            The keys of `metric_inputs`.
        """
        points = sobol_gaussian(NUM_SCALES, 1)[:, 0]
        variance = (std[..., : self.num_targets] * self.target_std).square()
        means, noise = self._at(points, mean, std)
        stds = (variance + noise.square()).sqrt()
        log_prob = gaussian_log_prob((self.fill(target) - means) / stds, stds).logsumexp(0, keepdim=True)
        log_prob = log_prob - math.log(NUM_SCALES)
        return {
            "preds": means,
            "means": means.expand_as(stds),
            "stds": stds,
            "log_prob": self._sums(log_prob, target),
            "target": target,
        }

    def _at(self, nodes: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
        """Mean [B, ..., D] and noise stds [Q, B, ..., D] in target units, for nodes [Q] of the raw scale."""
        width = self.num_targets
        raw = mean[..., width:] + std[..., width:] * nodes.to(mean).view(-1, *[1] * mean.dim())
        means = mean[..., :width] * self.target_std + self.target_mean
        return means, (F.softplus(raw) + self.min_std) * self.target_std


NUM_SCALES = 16
"""Number of equally probable scales in a mixture for metrics."""
NUM_NODES = 20
"""Number of nodes; the error is below 1e-4 nats if the standard deviation of the raw scale is at most 1."""
