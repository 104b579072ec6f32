"""Probit approximation of class probabilities for Gaussian logits."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_vi.core import Predictive, SampledPredictive, class_metric_inputs
from lightning_vi.functional import RunningMoments, entropy
from lightning_vi.likelihoods import Likelihood, Prediction

TINY = 1e-30


class ProbitPredictive(Predictive):
    r"""Class probabilities of Gaussian logits by the probit approximation (MacKay, 1992).

    The logits are divided by :math:`\sqrt{1 + \pi v / 8}`. A softmax does not depend on the mean over classes, so the
    logits are centered, and v is :math:`C / (C - 1)` times their variance. For independent logits of equal variance,
    this is the variance before centering. The epistemic share of the entropy is estimated from samples.

    Args:
        likelihood: An observation model for classification.
        logits: Means of the centered network outputs, shape [B, ...].
        variance: Variances of the centered network outputs, shape [B, ...].
        run: Function that yields sampled outputs in chunks, each of shape [chunk, B, ...].
    """

    def __init__(
        self, likelihood: Likelihood, logits: Tensor, variance: Tensor, run: Callable[[], Iterable[Tensor]]
    ) -> None:
        num_logits = 1 if likelihood.softmax_dim is None else likelihood.num_outputs
        scale = num_logits / (num_logits - 1) if num_logits > 1 else 1.0
        self.likelihood = likelihood
        self.logits, self.variance = logits, scale * variance
        self.sampled = SampledPredictive(likelihood, run)

    def keep(self) -> None:  # noqa: D102
        self.sampled.keep()

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        sampled = self.sampled.prediction(return_samples=return_samples)
        if return_samples:
            return sampled
        probs = self.log_probs().exp()
        uncertainty = entropy(probs, dim=1)
        share = torch.as_tensor(sampled.expected_entropy) / entropy(sampled.mean, dim=1).clamp_min(TINY)
        moments = RunningMoments()
        moments.merge(1, probs, sampled.epistemic_var)
        return self.likelihood.prediction(moments, uncertainty * share.clamp(0, 1), metadata=sampled.metadata)

    def log_probs(self) -> Tensor:  # noqa: D102
        return self.likelihood.probit_log_probs(self.logits, self.variance)

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        self.likelihood.check(self.logits.unsqueeze(0), target)
        return class_metric_inputs(self.log_probs(), target, self.likelihood)
