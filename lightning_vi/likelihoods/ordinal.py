"""Ordered classes."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lightning_vi.errors import InputValueError
from lightning_vi.functional.special import inverse_softplus
from lightning_vi.likelihoods.classification import ClassificationLikelihood, checked_weights, probit_scale

MIN_GAP = 1e-4


class Ordinal(ClassificationLikelihood):
    r"""One of C ordered classes, from one score f: the proportional odds model (McCullagh, 1980).

    .. math:: P(y \le k) = \frac{1}{1 + e^{f - \theta_k}}, \qquad \theta_0 < \theta_1 < \dots < \theta_{C - 2}

    A larger score makes higher classes more probable. The thresholds are learned with the network, and start where a
    score of 0 gives all classes the same probability. With two classes it is `Bernoulli` with a learned offset.

    Predictions have the probabilities of all classes, [B, C, ...], and their mean `expected_class`, with the numbers 0
    to C - 1 as values. The metrics include the error of the class and the ranked probability score.

    McCullagh, "Regression models for ordinal data", 1980.

    Args:
        num_classes: C, at least 2.
        class_dim: Dimension of the network's output [B, ...] that holds the score, of width 1.
        ignore_index: As for `Categorical`.
        class_weights: As for `Categorical`.

    Raises:
        ValueError: If there are fewer than two classes, `class_dim` is 0, or the factors are not C finite numbers that
            are not negative.
        TypeError: If `ignore_index` is not an integer.

    Example:
        >>> import torch
        >>> likelihood = Ordinal(num_classes=4)
        >>> likelihood.log_probs(torch.tensor([[[0.0], [2.0]]])).exp().detach()
        tensor([[[0.2500, 0.2500, 0.2500, 0.2500],
                 [0.0432, 0.0760, 0.1696, 0.7112]]])
    """

    is_ordered = True

    def __init__(
        self,
        num_classes: int,
        class_dim: int = 1,
        ignore_index: int | None = None,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        if num_classes < 2:
            raise InputValueError(f"num_classes must be at least 2, got {num_classes}")
        weights = None if class_weights is None else checked_weights(class_weights, num_classes)
        super().__init__(class_dim, ignore_index, weights)
        self.num_classes = num_classes
        thresholds = (torch.arange(1, num_classes) / num_classes).logit()
        self.threshold_rho = nn.Parameter(torch.cat([thresholds[:1], inverse_softplus(thresholds.diff() - MIN_GAP)]))

    @property
    def gaps(self) -> Tensor:
        """Distances of neighboring thresholds, shape [C - 2]."""
        return F.softplus(self.threshold_rho[1:]) + MIN_GAP

    @property
    def thresholds(self) -> Tensor:
        r"""Thresholds :math:`\theta` in ascending order, shape [C - 1]."""
        return torch.cat([self.threshold_rho[:1], self.gaps]).cumsum(0)

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return 1

    @property
    def num_predictions(self) -> int:  # noqa: D102
        return self.num_classes

    def class_log_probs(self, logits: Tensor) -> Tensor:
        r"""Normalized log-probabilities, without the difference of two nearly equal numbers.

        .. math:: \ln P(y = k) = \ln \sigma(\theta_k - f) + \ln \sigma(f - \theta_{k - 1})
            + \ln \big(1 - e^{\theta_{k - 1} - \theta_k}\big)

        Args:
            logits: Scores f, shape [..., 1].

        Returns:
            Shape [..., C].
        """
        return self._log_probs(self.thresholds - _precise(logits), self.gaps)

    def probit_log_probs(self, mean: Tensor, variance: Tensor) -> Tensor:  # noqa: D102
        scores, variances = (self._classes_last(_precise(part).unsqueeze(0)) for part in (mean, variance))
        scale = probit_scale(variances)
        return self._log_probs((self.thresholds - scores) / scale, self.gaps / scale).movedim(-1, 2)[0]

    def _log_probs(self, margins: Tensor, gaps: Tensor) -> Tensor:
        """Log-probabilities [..., C] of classes with thresholds at `margins` from the score, [..., C - 1]."""
        at_most, above = F.logsigmoid(margins), F.logsigmoid(-margins)
        inside = at_most[..., 1:] + above[..., :-1] + (-torch.expm1(-gaps)).log()
        return torch.cat([at_most[..., :1], inside, above[..., -1:]], dim=-1)

    def class_information_factor(self, logits: Tensor) -> Tensor:
        r"""Square root of the Fisher information of the score, :math:`\sum_k (\partial_f P(y = k))^2 / P(y = k)`.

        Args:
            logits: Scores, shape [..., 1].

        Returns:
            Shape [..., 1, 1].
        """
        margins = self.thresholds - _precise(logits)
        slopes = F.pad((F.logsigmoid(margins) + F.logsigmoid(-margins)).exp(), (1, 1)).diff(dim=-1)
        roots = slopes / (0.5 * self.class_log_probs(logits)).exp().clamp_min(1e-18)
        factor: Tensor = torch.linalg.vector_norm(roots, dim=-1, keepdim=True)
        return factor.unsqueeze(-1)


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))
