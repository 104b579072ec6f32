"""Predictive distributions."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_vi.errors import InputValueError
from lightning_vi.functional.special import flat_at_zero
from lightning_vi.likelihoods.prediction_columns import prediction_columns

if TYPE_CHECKING:
    import pandas as pd


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
        is_ordered: True if the classes have an order.
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
    is_ordered: bool = False
    samples: Tensor | None = None
    lower: Tensor | None = None
    upper: Tensor | None = None
    pred_set: Tensor | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def expected_class(self) -> Tensor | None:
        """Mean of the class number [B, ...] under `probs`; None unless the classes have an order."""
        if self.probs is None or not self.is_ordered:
            return None
        numbers = torch.arange(self.probs.shape[1], dtype=self.probs.dtype, device=self.probs.device)
        expected: Tensor = torch.tensordot(self.probs, numbers, ([1], [0]))
        return expected

    def as_dict(self) -> dict[str, Tensor]:
        """Returns the dictionary of `predict_step`.

        Returns:
            `pred`, `pred_uct`, `epistemic_uct` and `aleatoric_uct`: for regression the mean and standard
            deviations, all of the target's shape; for classification the probabilities, and the predictive
            entropy, mutual information and expected entropy in nats, and `probs_var`. Also `expected_class`,
            `samples`, `lower`, `upper` and `pred_set`, unless they are None.
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
        extras = {key: getattr(self, key) for key in ("expected_class", "samples", "lower", "upper", "pred_set")}
        return result | {key: value for key, value in extras.items() if value is not None}

    def moved(self, source: int, destination: int) -> "Prediction":
        """Moves the dimension of the targets of a regression.

        Args:
            source: Dimension of the targets in `mean`, 1 or -1.
            destination: Where it is moved to, -1 or 1.

        Returns:
            The prediction.
        """
        names = ("mean", "epistemic_var", "aleatoric_var", "total_var", "lower", "upper")
        values = {name: getattr(self, name) for name in names}
        moved = {name: value.movedim(source, destination) for name, value in values.items() if value is not None}
        samples = self.samples
        if samples is not None:  # they have a dimension more in front
            samples = samples.movedim(*(dim + 1 if dim > 0 else dim for dim in (source, destination)))
        return replace(self, **moved, samples=samples)

    def to_frame(self, target: Tensor | None = None, *, classes: Sequence[Any] | None = None) -> "pd.DataFrame":
        """Returns a data frame with one row per datum, with the columns that `PredictionWriter` writes.

        Args:
            target: Targets [B, ...], for a column `target`.
            classes: Labels by the number of the class, for the columns `class` and `target` of a classifier.

        Returns:
            `class`, the most probable class, in classification; the keys of `as_dict` without `samples`; and `target`.
            Quantities with several elements per datum have one column per element: `pred_0`, `pred_1`, ...

        Raises:
            ValueError: If `target` has another number of rows, or there are fewer `classes` than probabilities.

        Example:
            >>> import torch
            >>> from lightning_vi import MeanFieldVI
            >>> from lightning_vi.backbones import MLP
            >>> from lightning_vi.likelihoods import Gaussian
            >>> prediction = MeanFieldVI(MLP(1, [8], 1), Gaussian()).predict(torch.zeros(5, 1))
            >>> list(prediction.to_frame(torch.zeros(5, 1)))
            ['pred', 'pred_uct', 'epistemic_uct', 'aleatoric_uct', 'target']
        """
        import pandas as pd

        is_classifier = self.probs is not None
        if target is not None:
            target = torch.as_tensor(target)
            if target.dim() == 0 or len(target) != len(self.mean):
                raise InputValueError(f"target must have {len(self.mean)} rows, got shape {list(target.shape)}")
        if is_classifier and classes is not None and len(classes) != self.mean.shape[1]:
            raise InputValueError(f"classes must have {self.mean.shape[1]} labels, got {len(classes)}")
        return pd.DataFrame(
            prediction_columns(self.as_dict(), is_classifier=is_classifier, target=target, classes=classes)
        )
