"""Several labels that a datum has or has not."""

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Size, Tensor

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods.base import Missing
from lightning_vi.likelihoods.classification import Bernoulli


class MultiLabel(Bernoulli):
    r"""Any of L labels, from one logit each: independent Bernoulli variables, :math:`p(y_l = 1) = 1 / (1 + e^{-f_l})`.

    Targets are 0 or 1 for each label, [B, L], as integers, booleans or floating-point numbers. Predictions have the
    probabilities of both values, [B, 2, L], as those of `Bernoulli` do: ``pred[:, 1]`` are those of the labels. The
    uncertainties, [B, L], are those of each label; given the network's weights labels are independent, so that the
    expected entropy of a datum is their sum. The log-likelihood of a datum is the sum over its labels, accuracy and
    calibration errors are those of single labels, and the metrics include F1 of the labels and the share of exact
    matches.

    Labels of each pixel are outputs and targets [B, L, H, W].

    Args:
        num_labels: L, the width of the network's output in dimension 1.
        missing: ``"ignore"`` if NaN among floating-point targets stands for labels that were not observed; by default
            it is an error.
        ignore_index: Integer that stands for labels that were not observed, such as -1; None if there is none.
        pos_weight: A factor of the log probabilities of the value 1 in training objectives and curvature, or one for
            each label.

    Raises:
        ValueError: If `num_labels` is not positive, `missing` is unknown, or factors are negative, not finite, or not
            one for each label.
        TypeError: If `ignore_index` is not an integer.

    Example:
        >>> import torch
        >>> MultiLabel(num_labels=3).log_prob(torch.zeros(1, 2, 3), torch.tensor([[0, 1, 1], [0, 0, 0]]))
        tensor([[-2.0794, -2.0794]])
    """

    is_multi_label = True
    label_weights: Tensor | None

    def __init__(
        self,
        num_labels: int,
        missing: Missing = "error",
        ignore_index: int | None = None,
        pos_weight: float | Sequence[float] | None = None,
    ) -> None:
        if num_labels < 1:
            raise InputValueError(f"num_labels must be positive, got {num_labels}")
        if missing not in get_args(Missing):
            raise InputValueError(f"missing must be one of {list(get_args(Missing))}, got {missing!r}")
        super().__init__(ignore_index=ignore_index)
        self.num_labels = num_labels
        self.missing: Missing = missing
        weights = None if pos_weight is None else _checked_weights(pos_weight, num_labels)
        self.register_buffer("label_weights", weights, persistent=False)

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return self.num_labels

    @property
    def outputs_per_element(self) -> int:
        """One logit for each label."""
        return 1

    def _classes_last(self, outputs: Tensor) -> Tensor:
        return outputs.unsqueeze(-1)

    def _target_shape(self, outputs: Tensor) -> Size:
        return outputs.shape[1:]

    def observed(self, target: Tensor) -> Tensor | None:  # noqa: D102
        observed = super().observed(target)
        if self.missing == "error" or not target.is_floating_point():
            return observed
        is_number = target.isnan().logical_not()
        return is_number if observed is None else observed & is_number

    def fill(self, target: Tensor) -> Tensor:
        """Replaces missing labels by zero, and numbers by integers.

        Args:
            target: Targets, shape [B, L, ...].

        Returns:
            The shape of `target`.
        """
        return super().fill(target).long()

    def metric_target(self, target: Tensor) -> Tensor:  # noqa: D102
        return self.fill(target)

    def element_weights(self, target: Tensor, weight: Tensor | None = None) -> Tensor | None:  # noqa: D102
        if self.label_weights is None:
            return weight
        factors = self.label_weights.view(-1, *[1] * (target.dim() - 2))
        of_labels = torch.where(self.fill(target).bool(), factors, torch.ones_like(factors))
        return of_labels if weight is None else of_labels * weight.view(-1, *[1] * (target.dim() - 1))

    @property
    def num_target_features(self) -> int:  # noqa: D102
        return self.num_labels

    def target_features(self, target: Tensor) -> Tensor:
        """Labels as numbers.

        Args:
            target: Shape [B, L].

        Returns:
            Shape [B, L].
        """
        return self.fill(target).to(torch.get_default_dtype())

    def per_output(self, values: Tensor, outputs: Tensor) -> Tensor:  # noqa: D102
        return values if values.dim() == outputs.dim() else super().per_output(values, outputs)

    def _check_type(self, target: Tensor) -> None:
        if target.is_complex():
            raise InputTypeError(f"{type(self).__name__} needs labels 0 and 1, got {target.dtype}")

    def check_values(self, target: Tensor) -> None:  # noqa: D102
        observed = self.observed(target)
        known = target if observed is None else target[observed]
        wrong = (known != 0) & (known != 1)
        if wrong.any():
            ignored = "" if self.ignore_index is None else f", or {self.ignore_index} if they are missing"
            remedy = "; MultiLabel(missing='ignore') ignores NaN" if known[wrong].isnan().any() else ""
            raise InputValueError(f"labels must be 0 or 1{ignored}, got {known[wrong][0].item()}{remedy}")


def _checked_weights(pos_weight: float | Sequence[float], num_labels: int) -> Tensor:
    weights = torch.as_tensor(pos_weight, dtype=torch.get_default_dtype())
    if weights.shape not in (Size(), (num_labels,)) or not ((weights >= 0) & weights.isfinite()).all():
        raise InputValueError(
            f"pos_weight must be one finite number that is not negative, or {num_labels}, one for each label, "
            f"got {pos_weight}"
        )
    return weights.expand(num_labels).clone()
