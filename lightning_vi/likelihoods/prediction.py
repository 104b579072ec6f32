"""Predictive distributions."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lightning_vi.functional.special import flat_at_zero


@dataclass(frozen=True)
class Prediction:
    """A predictive distribution, split into an epistemic and an aleatoric part.

    The variances follow the law of total variance. For classification they are those of the one-hot label,
    `total_var = p (1 - p)`, and the entropies are given too.

    Attributes:
        mean: Predictive mean [B, ..., D] in target units, or class probabilities [B, C, ...].
        epistemic_var: Variance of the sampled means, the shape of `mean`.
        aleatoric_var: Mean of the sampled variances, the shape of `mean`.
        total_var: Their sum.
        probs: Class probabilities averaged over samples [B, C, ...]; None for regression.
        probs_var: Variance of the sampled probabilities [B, C, ...]; None for regression.
        predictive_entropy: Entropy of `probs` in nats [B, ...]; None for regression.
        expected_entropy: Mean entropy of the sampled probabilities in nats [B, ...]; None for regression.
        mutual_information: Their difference, never negative; None for regression.
        samples: Sampled means or probabilities [S, ...], on request.
        lower: Lower ends of prediction intervals, the shape of `mean`, from methods with intervals.
        upper: Upper ends of prediction intervals, the shape of `mean`.
        pred_set: True for the classes of the prediction set [B, C, ...], from methods with prediction sets.
        metadata: The method's name, the number of samples and the seed; `interval_level`, the nominal coverage of the
            intervals, and `center`, which is "median" if `mean` holds medians, from methods that have them.
    """

    mean: Tensor
    epistemic_var: Tensor
    aleatoric_var: Tensor
    total_var: Tensor
    probs: Tensor | None = None
    probs_var: Tensor | None = None
    predictive_entropy: Tensor | None = None
    expected_entropy: Tensor | None = None
    mutual_information: Tensor | None = None
    samples: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None
    pred_set: Tensor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Tensor]:
        """Returns the dictionary of `predict_step`.

        Returns:
            `pred`, `pred_uct`, `epistemic_uct` and `aleatoric_uct`: for regression the mean and standard
            deviations, all of the target's shape; for classification the probabilities, and the predictive
            entropy, mutual information and expected entropy in nats, and `probs_var`. Also `samples`, `lower`,
            `upper` and `pred_set`, unless they are None.
        """
        if self.probs is None:
            result = {
                "pred": self.mean,
                "pred_uct": flat_at_zero(torch.sqrt, self.total_var),
                "epistemic_uct": flat_at_zero(torch.sqrt, self.epistemic_var),
                "aleatoric_uct": flat_at_zero(torch.sqrt, self.aleatoric_var),
            }
        else:
            entropies = {
                "pred_uct": self.predictive_entropy,
                "epistemic_uct": self.mutual_information,
                "aleatoric_uct": self.expected_entropy,
                "probs_var": self.probs_var,
            }
            result = {"pred": self.probs} | {key: value for key, value in entropies.items() if value is not None}
        extras = {key: getattr(self, key) for key in ("samples", "lower", "upper", "pred_set")}
        return result | {key: value for key, value in extras.items() if value is not None}
