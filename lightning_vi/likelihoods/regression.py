"""Base class of observation models of real numbers and counts."""

from abc import abstractmethod
from typing import Any, get_args

import torch
from torch import Tensor

from lightning_vi.arguments import all_finite
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional import RunningMoments
from lightning_vi.functional.mixture import Mixture
from lightning_vi.likelihoods.advice import on_regression_outputs, on_regression_targets
from lightning_vi.likelihoods.base import Likelihood, Missing, Support
from lightning_vi.likelihoods.prediction import Prediction


class RegressionLikelihood(Likelihood):
    """Base class of distributions with a mean and a variance for each of D targets.

    Args:
        num_targets: D.
        missing: ``"ignore"`` if NaN stands for targets that were not observed; ``"error"`` if it is an error.

    Raises:
        ValueError: If `num_targets` is not positive or `missing` is unknown.
    """

    task = "regression"
    support: Support = "real"

    def __init__(self, num_targets: int = 1, missing: Missing = "error") -> None:
        super().__init__()
        if num_targets < 1:
            raise InputValueError(f"num_targets must be positive, got {num_targets}")
        if missing not in get_args(Missing):
            raise InputValueError(f"missing must be one of {list(get_args(Missing))}, got {missing!r}")
        self.num_targets = num_targets
        self.missing: Missing = missing

    def observed(self, target: Tensor) -> Tensor | None:  # noqa: D102
        return target.isnan().logical_not() if self.missing == "ignore" else None

    def per_output(self, values: Tensor, outputs: Tensor) -> Tensor:  # noqa: D102
        if values.dim() < 2:
            return super().per_output(values, outputs)
        return values.repeat(*[1] * (values.dim() - 1), self.num_outputs // self.num_targets)

    def check_values(self, target: Tensor) -> None:  # noqa: D102
        if not all_finite(self.fill(target)):
            remedy = "" if self.missing == "ignore" else f"; {type(self).__name__}(missing='ignore') ignores NaN"
            raise InputValueError(f"the targets have NaN or infinite values{remedy}")

    @abstractmethod
    def set_target_scaling(self, mean: Tensor, std: Tensor) -> None:
        """Declares that the network predicts ``(target - mean) / std``.

        Args:
            mean: Shape [D], in target units.
            std: Shape [D], positive, in target units.

        Raises:
            ValueError: If a shape or value is wrong, or the targets cannot be scaled.
        """

    @abstractmethod
    def mixture(self, outputs: Tensor) -> Mixture | None:
        """Mixture over samples, for metrics.

        Args:
            outputs: Network outputs, shape [S, B, ..., width].

        Returns:
            The mixture in target units; None for Gaussian components, which metrics score in closed form.
        """

    @property
    def num_predictions(self) -> int:  # noqa: D102
        return self.num_targets

    @property
    def outputs_per_element(self) -> int:  # noqa: D102
        return 1 if self.num_outputs == self.num_targets else self.num_outputs

    def check_outputs(self, outputs: Tensor, target: Tensor | None = None) -> None:  # noqa: D102
        width = self.num_outputs
        if outputs.dim() < 3 or outputs.shape[-1] != width:
            name, own = type(self).__name__, outputs.shape[1:]
            got = outputs.shape[-1] if outputs.dim() > 2 else "none"
            advice = on_regression_outputs(name, outputs, self.num_targets, width, target) if outputs.dim() > 2 else ""
            raise InputValueError(
                f"{name}(num_targets={self.num_targets}) needs network outputs of width {width}, got {got} in the "
                f"last dimension of the shape {tuple(own)}{advice}"
            )

    def check(self, outputs: Tensor, target: Tensor) -> None:  # noqa: D102
        self.check_outputs(outputs, target)
        name = type(self).__name__
        expected = torch.Size((*outputs.shape[1:-1], self.num_targets))
        if target.shape != expected:
            advice = on_regression_targets(name, target, expected, self.num_outputs)
            raise InputValueError(
                f"{name}(num_targets={self.num_targets}) needs targets of shape {tuple(expected)}, got "
                f"{tuple(target.shape)}{advice}"
            )
        if not target.is_floating_point():
            raise InputTypeError(f"{name} needs floating-point targets, got {target.dtype}: use target.float()")

    def prediction(self, moments: RunningMoments, spread: Tensor, **extras: Any) -> Prediction:  # noqa: D102
        return Prediction(moments.mean, moments.variance, spread, moments.variance + spread, **extras)

    def marginalize(self, means: Tensor, spreads: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return means.mean(1), means.var(1, correction=0) + spreads.mean(1)

    def metric_inputs(self, outputs: Tensor, target: Tensor) -> dict[str, Any]:  # noqa: D102
        means, variances = self.predictive_moments(outputs)
        inputs = {
            "preds": means.mean(0),
            "means": means,
            "stds": variances.sqrt(),
            "log_prob": self.log_prob(outputs, target),
            "target": target,
        }
        mixture = self.mixture(outputs)
        return inputs if mixture is None else inputs | {"mixture": mixture}
