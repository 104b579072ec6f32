"""Categorical and Bernoulli labels."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Size, Tensor
from torch.nn import functional as F

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional import RunningMoments, decompose_entropy, entropy
from lightning_vi.functional.special import log_softmax
from lightning_vi.likelihoods.advice import on_labels
from lightning_vi.likelihoods.base import Likelihood
from lightning_vi.likelihoods.prediction import Prediction


class ClassificationLikelihood(Likelihood):
    """Base class of distributions over C classes; labels are integers from 0 to C - 1.

    Args:
        class_dim: Dimension of the network's output [B, ...] that holds the classes. Predictions always have the shape
            [B, C, ...].
        ignore_index: Label of elements that are ignored, or None.
        class_weights: Factor of each class in training objectives, shape [C], or None.

    Raises:
        ValueError: If `class_dim` is 0, the batch.
        TypeError: If `ignore_index` is not an integer.
    """

    task = "classification"
    has_bounded_gradient = True
    support = "classes"
    class_weights: Tensor | None

    def __init__(
        self, class_dim: int = 1, ignore_index: int | None = None, class_weights: Tensor | None = None
    ) -> None:
        super().__init__()
        if class_dim == 0:
            raise InputValueError("class_dim must not be 0, the batch")
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int | None):
            raise InputTypeError(f"ignore_index must be an integer or None, got {ignore_index!r}")
        self.class_dim = class_dim
        self.ignore_index = ignore_index
        self.register_buffer("class_weights", class_weights, persistent=False)

    def observed(self, target: Tensor) -> Tensor | None:  # noqa: D102
        return None if self.ignore_index is None else target != self.ignore_index

    def metric_target(self, target: Tensor) -> Tensor:  # noqa: D102
        return target if target.is_floating_point() else target.long()

    def element_weights(self, target: Tensor, weight: Tensor | None = None) -> Tensor | None:  # noqa: D102
        if self.class_weights is None:
            return weight
        of_classes = self.class_weights[self.fill(target).long()]
        return of_classes if weight is None else of_classes * weight.view(-1, *[1] * (target.dim() - 1))

    def per_output(self, values: Tensor, outputs: Tensor) -> Tensor:  # noqa: D102
        if values.dim() < outputs.dim() - 1:
            return super().per_output(values, outputs)
        return values.unsqueeze(self.class_dim).expand_as(outputs)

    @property
    def output_dim(self) -> int:
        """`class_dim`."""
        return self.class_dim

    @abstractmethod
    def class_log_probs(self, logits: Tensor) -> Tensor:
        """Normalized log-probabilities.

        Args:
            logits: Network outputs with the classes in the last dimension, shape [..., width].

        Returns:
            Shape [..., C].
        """

    def log_probs(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return self.class_log_probs(self._classes_last(outputs)).movedim(-1, 2)

    def probit_log_probs(self, mean: Tensor, variance: Tensor) -> Tensor:  # noqa: D102
        return self.log_probs((mean / probit_scale(variance)).unsqueeze(0))[0]

    def _classes_last(self, outputs: Tensor) -> Tensor:
        return outputs.movedim(self.class_dim + 1 if self.class_dim > 0 else self.class_dim, -1)

    def _class_axis(self, outputs: Tensor) -> int:
        return self.class_dim + 1 if self.class_dim > 0 else outputs.dim() + self.class_dim

    def check_outputs(self, outputs: Tensor, target: Tensor | None = None) -> None:  # noqa: ARG002, D102
        axis = self._class_axis(outputs)
        if not 2 <= axis < outputs.dim() or outputs.shape[axis] != self.num_outputs:
            is_last = outputs.dim() > 3 and outputs.shape[-1] == self.num_outputs
            advice = "class_dim must be the dimension of the classes" + (", such as class_dim=-1" if is_last else "")
            raise InputValueError(
                f"{type(self).__name__} needs network outputs of width {self.num_outputs} in dimension "
                f"{self.class_dim}, got the shape {tuple(outputs.shape[1:])}; {advice}"
            )

    def check(self, outputs: Tensor, target: Tensor) -> None:  # noqa: D102
        self.check_outputs(outputs)
        name = type(self).__name__
        expected = self._target_shape(outputs)
        if target.shape != expected:
            advice = on_labels(target, expected, self.num_predictions)
            raise InputValueError(f"{name} needs labels of shape {tuple(expected)}, got {tuple(target.shape)}{advice}")
        self._check_type(target)

    def _target_shape(self, outputs: Tensor) -> Size:
        """Shape of the targets of outputs [S, B, ...]."""
        axis = self._class_axis(outputs)
        return outputs.shape[1:axis] + outputs.shape[axis + 1 :]

    def _check_type(self, target: Tensor) -> None:
        if target.is_floating_point() or target.is_complex():
            raise InputTypeError(f"{type(self).__name__} needs integer labels, got {target.dtype}: use target.long()")

    def check_values(self, target: Tensor) -> None:  # noqa: D102
        if target.is_floating_point() or target.is_complex():
            return  # `check` refuses the type, and knows whether the shape fits
        labels = self.fill(target)
        if labels.numel() and not (labels.min() >= 0 and labels.max() < self.num_predictions):
            ignored = "" if self.ignore_index is None else f" or be {self.ignore_index}"
            raise InputValueError(
                f"labels must lie between 0 and {self.num_predictions - 1}{ignored}, "
                f"got {labels.min()} to {labels.max()}"
            )

    def elementwise_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        log_probs = self.class_log_probs(self._classes_last(outputs))
        index = target.long().expand(log_probs.shape[:-1]).unsqueeze(-1)
        return log_probs.gather(-1, index).squeeze(-1)

    @abstractmethod
    def class_information_factor(self, logits: Tensor) -> Tensor:
        """Square root of the Fisher information of the logits of one label.

        Args:
            logits: Network outputs with the classes in the last dimension, shape [..., width].

        Returns:
            Shape [..., width, width].
        """

    def information_factor(self, outputs: Tensor) -> Tensor:  # noqa: D102
        factors = self.class_information_factor(self._classes_last(outputs.unsqueeze(0)).squeeze(0))
        places, width = factors.shape[1:-2], factors.shape[-1]
        if not places:
            return factors
        flat = factors.flatten(1, -3)
        apart = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
        spread = torch.einsum("bncr,nm->bncmr", flat, apart).reshape(len(flat), *places, width, -1)
        axis = self.class_dim if self.class_dim > 0 else outputs.dim() + self.class_dim
        return spread.movedim(-2, axis).flatten(1, -2)

    def elementwise_point_loss(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        return -self.elementwise_log_prob(outputs, target)

    def point_prediction(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return self.log_probs(outputs).exp().mean(0)

    def predictive_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        probs = self.log_probs(outputs).exp()
        return probs, entropy(probs, dim=2)

    def marginalize(self, means: Tensor, spreads: Tensor) -> tuple[Tensor, Tensor]:  # noqa: ARG002, D102
        probs = means.mean(1)
        return probs, entropy(probs, dim=2)

    def target_features(self, target: Tensor) -> Tensor:
        """Labels as unit vectors.

        Args:
            target: Shape [B].

        Returns:
            Shape [B, C].
        """
        return F.one_hot(target.long(), self.num_predictions).to(torch.get_default_dtype())

    def prediction(self, moments: RunningMoments, spread: Tensor, **extras: Any) -> Prediction:  # noqa: D102
        probs, epistemic = moments.mean, moments.variance
        aleatoric = (probs * (1 - probs) - epistemic).clamp_min(0)
        entropies = decompose_entropy(probs, spread, dim=1)
        return Prediction(
            probs,
            epistemic,
            aleatoric,
            epistemic + aleatoric,
            is_ordered=self.is_ordered,
            probs=probs,
            probs_var=epistemic,
            predictive_entropy=entropies.predictive_entropy,
            expected_entropy=entropies.expected_entropy,
            mutual_information=entropies.mutual_information,
            **extras,
        )

    def metric_inputs(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:  # noqa: D102
        probs, _ = self.predictive_moments(outputs)
        return {
            "preds": probs.mean(0),
            "log_prob": self.log_prob(outputs, target),
            "target": self.metric_target(target),
        }


class Categorical(ClassificationLikelihood):
    r"""One of C classes, :math:`p(y = c) = \mathrm{softmax}(f)_c`.

    Args:
        num_classes: C, at least 2, the width of the network's output.
        class_dim: Dimension of the network's output [B, ...] that holds the classes; -1 for a linear head on features
            [B, ..., F].
        ignore_index: Label of data or pixels that have no part in losses, metrics, calibrations and curvature, such as
            255; None if there is none.
        class_weights: A factor for each class, which multiplies the log probabilities of its labels in training
            objectives and curvature, but not in metrics. The sum is divided by the number of rows, not by the sum of
            the factors.

    Raises:
        ValueError: If there are fewer than two classes, `class_dim` is 0, or the factors are not C finite numbers that
            are not negative.
        TypeError: If `ignore_index` is not an integer.

    Example:
        >>> import torch
        >>> Categorical(num_classes=4).log_prob(torch.zeros(1, 2, 4), torch.tensor([0, 3]))
        tensor([[-1.3863, -1.3863]])
    """

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

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return self.num_classes

    @property
    def num_predictions(self) -> int:  # noqa: D102
        return self.num_classes

    @property
    def softmax_dim(self) -> int:
        """`class_dim`."""
        return self.class_dim

    def class_log_probs(self, logits: Tensor) -> Tensor:  # noqa: D102
        return log_softmax(logits)

    def class_information_factor(self, logits: Tensor) -> Tensor:
        r"""Square root of :math:`\mathrm{diag}(p) - p p^\top`, :math:`L = \mathrm{diag}(\sqrt p) - p \sqrt{p}^\top`.

        Args:
            logits: Shape [..., C].

        Returns:
            Shape [..., C, C].
        """
        probs = logits.softmax(-1)
        roots = probs.sqrt()
        return torch.diag_embed(roots) - probs.unsqueeze(-1) * roots.unsqueeze(-2)

    def elementwise_expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        r"""Jensen's lower bound, :math:`m_y - \ln \sum_k e^{m_k + v_k / 2}`; tight as v vanishes.

        Args:
            mean: Means m of the logits, shape [B, C, ...].
            variance: Their variances v, the shape of `mean`.
            target: Labels, shape [B, ...].

        Returns:
            Nats, the shape of `target`.
        """
        means, variances = (self._classes_last(moment.unsqueeze(0)).squeeze(0) for moment in (mean, variance))
        chosen = means.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)
        return chosen - torch.logsumexp(means + 0.5 * variances, dim=-1)


class Bernoulli(ClassificationLikelihood):
    r"""One of two classes, from one logit, :math:`p(y = 1) = 1 / (1 + e^{-f})`.

    Predictions have both classes, [B, 2, ...], as those of `Categorical` do.

    Args:
        class_dim: Dimension of the network's output [B, ...] that holds the logit.
        ignore_index: As for `Categorical`.
        pos_weight: A factor of the log probabilities of the label 1 in training objectives and curvature.

    Raises:
        ValueError: If `class_dim` is 0, or `pos_weight` is negative or not finite.
        TypeError: If `ignore_index` is not an integer.

    Example:
        >>> import torch
        >>> Bernoulli().log_prob(torch.zeros(1, 2, 1), torch.tensor([0, 1]))
        tensor([[-0.6931, -0.6931]])
    """

    def __init__(self, class_dim: int = 1, ignore_index: int | None = None, pos_weight: float | None = None) -> None:
        if pos_weight is not None and not 0 <= pos_weight < math.inf:
            raise InputValueError(f"pos_weight must be finite and not negative, got {pos_weight}")
        super().__init__(class_dim, ignore_index, None if pos_weight is None else torch.tensor([1.0, pos_weight]))

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return 1

    @property
    def num_predictions(self) -> int:  # noqa: D102
        return 2

    def class_log_probs(self, logits: Tensor) -> Tensor:  # noqa: D102
        return F.logsigmoid(torch.cat([-logits, logits], dim=-1))

    def class_information_factor(self, logits: Tensor) -> Tensor:
        r"""Square root of :math:`p (1 - p)`.

        Args:
            logits: Shape [..., 1].

        Returns:
            Shape [..., 1, 1].
        """
        return (F.logsigmoid(logits) + F.logsigmoid(-logits)).mul(0.5).exp().unsqueeze(-1)

    def elementwise_expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        r"""Jensen's lower bound, :math:`-\ln(1 + e^{\mp m + v / 2})` for y = 1 and y = 0; tight as v vanishes.

        Args:
            mean: Means m of the logits, shape [B, 1, ...].
            variance: Their variances v, the shape of `mean`.
            target: Labels, shape [B, ...].

        Returns:
            Nats, the shape of `target`.
        """
        means, variances = (self._classes_last(moment.unsqueeze(0))[0, ..., 0] for moment in (mean, variance))
        return -F.softplus((1 - 2 * target) * means + 0.5 * variances)


def probit_scale(variance: Tensor) -> Tensor:
    r"""Factor :math:`\sqrt{1 + \pi v / 8}` by which a logit with Gaussian noise is divided.

    Args:
        variance: v, any shape.

    Returns:
        The shape of `variance`.
    """
    return (1 + math.pi / 8 * variance).sqrt()


def checked_weights(class_weights: Sequence[float], num_classes: int) -> Tensor:
    """Returns factors of classes.

    Args:
        class_weights: One factor for each class.
        num_classes: C.

    Returns:
        Shape [C].

    Raises:
        ValueError: If there are not C factors, or one is negative or not finite.
    """
    weights = torch.as_tensor(class_weights, dtype=torch.get_default_dtype())
    if weights.shape != (num_classes,) or not ((weights >= 0) & weights.isfinite()).all():
        raise InputValueError(
            f"class_weights must be {num_classes} finite numbers that are not negative, got {class_weights}"
        )
    return weights.clone()
