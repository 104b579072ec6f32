"""Categorical and Bernoulli labels."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional import RunningMoments, decompose_entropy, entropy
from lightning_vi.likelihoods.advice import on_labels
from lightning_vi.likelihoods.base import Likelihood
from lightning_vi.likelihoods.prediction import Prediction


class ClassificationLikelihood(Likelihood):
    """Base class of distributions over C classes; labels are integers from 0 to C - 1.

    Args:
        class_dim: Dimension of the network's output [B, ...] that holds the classes. Predictions always have the shape
            [B, C, ...].

    Raises:
        ValueError: If `class_dim` is 0, the batch.
    """

    task = "classification"
    support = "classes"

    def __init__(self, class_dim: int = 1) -> None:
        super().__init__()
        if class_dim == 0:
            raise InputValueError("class_dim must not be 0, the batch")
        self.class_dim = class_dim

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
        name, axis = type(self).__name__, self._class_axis(outputs)
        expected = outputs.shape[1:axis] + outputs.shape[axis + 1 :]
        if target.shape != expected:
            advice = on_labels(target, expected, self.num_predictions)
            raise InputValueError(f"{name} needs labels of shape {tuple(expected)}, got {tuple(target.shape)}{advice}")
        if target.is_floating_point() or target.is_complex():
            raise InputTypeError(f"{name} needs integer labels, got {target.dtype}: use target.long()")

    def check_values(self, target: Tensor) -> None:  # noqa: D102
        if target.numel() and not (target.min() >= 0 and target.max() < self.num_predictions):
            raise InputValueError(
                f"labels must lie between 0 and {self.num_predictions - 1}, got {target.min()} to {target.max()}"
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

    def point_loss(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        return -self.log_prob(outputs, target).mean()

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
            probs=probs,
            probs_var=epistemic,
            predictive_entropy=entropies.predictive_entropy,
            expected_entropy=entropies.expected_entropy,
            mutual_information=entropies.mutual_information,
            **extras,
        )

    def metric_inputs(self, outputs: Tensor, target: Tensor) -> dict[str, Tensor]:  # noqa: D102
        probs, _ = self.predictive_moments(outputs)
        return {"preds": probs.mean(0), "log_prob": self.log_prob(outputs, target), "target": target.long()}


class Categorical(ClassificationLikelihood):
    r"""One of C classes, :math:`p(y = c) = \mathrm{softmax}(f)_c`.

    Args:
        num_classes: C, at least 2, the width of the network's output.
        class_dim: Dimension of the network's output [B, ...] that holds the classes; -1 for a linear head on features
            [B, ..., F].

    Raises:
        ValueError: If there are fewer than two classes, or `class_dim` is 0.

    Example:
        >>> import torch
        >>> Categorical(num_classes=4).log_prob(torch.zeros(1, 2, 4), torch.tensor([0, 3]))
        tensor([[-1.3863, -1.3863]])
    """

    def __init__(self, num_classes: int, class_dim: int = 1) -> None:
        super().__init__(class_dim)
        if num_classes < 2:
            raise InputValueError(f"num_classes must be at least 2, got {num_classes}")
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
        return F.log_softmax(logits, dim=-1)

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

    def expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        r"""Jensen's lower bound, :math:`m_y - \ln \sum_k e^{m_k + v_k / 2}`; tight as v vanishes.

        Args:
            mean: Means m of the logits, shape [B, C, ...].
            variance: Their variances v, the shape of `mean`.
            target: Labels, shape [B, ...].

        Returns:
            Nats, shape [B].
        """
        means, variances = (self._classes_last(moment.unsqueeze(0)).squeeze(0) for moment in (mean, variance))
        chosen = means.gather(-1, target.long().unsqueeze(-1)).squeeze(-1)
        bound = chosen - torch.logsumexp(means + 0.5 * variances, dim=-1)
        return bound.reshape(len(bound), -1).sum(-1)


class Bernoulli(ClassificationLikelihood):
    r"""One of two classes, from one logit, :math:`p(y = 1) = 1 / (1 + e^{-f})`.

    Predictions have both classes, [B, 2, ...], as those of `Categorical` do.

    Args:
        class_dim: Dimension of the network's output [B, ...] that holds the logit.

    Raises:
        ValueError: If `class_dim` is 0.

    Example:
        >>> import torch
        >>> Bernoulli().log_prob(torch.zeros(1, 2, 1), torch.tensor([0, 1]))
        tensor([[-0.6931, -0.6931]])
    """

    def __init__(self, class_dim: int = 1) -> None:
        super().__init__(class_dim)

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

    def expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        r"""Jensen's lower bound, :math:`-\ln(1 + e^{\mp m + v / 2})` for y = 1 and y = 0; tight as v vanishes.

        Args:
            mean: Means m of the logits, shape [B, 1, ...].
            variance: Their variances v, the shape of `mean`.
            target: Labels, shape [B, ...].

        Returns:
            Nats, shape [B].
        """
        means, variances = (self._classes_last(moment.unsqueeze(0))[0, ..., 0] for moment in (mean, variance))
        bound = -F.softplus((1 - 2 * target) * means + 0.5 * variances)
        return bound.reshape(len(bound), -1).sum(-1)
