r"""Scaling of the standard deviations that any method predicts.

Levi, Gispan, Giladi and Fetaya, "Evaluating and calibrating uncertainty prediction in regression tasks", Sensors 2022;
Laves, Ihler, Fast, Kahrs and Ortmaier, "Well-calibrated regression uncertainty in medical imaging with deep learning",
MIDL 2020.

.. math:: y_d \sim \mathcal{N}\big(\mu_d(x), s_d^2\, \sigma_d(x)^2\big), \qquad
    s_d^2 = \frac1N \sum_n \frac{(y_{nd} - \mu_d(x_n))^2}{\sigma_d(x_n)^2}

=============================  ====================================================
symbol                         argument
=============================  ====================================================
:math:`\mu, \sigma`            `method`: predictive mean and standard deviation
:math:`n`                      the calibration data
:math:`s`                      `std_factor`, the result, one for each of D targets
=============================  ====================================================
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_vi.functional.mixture import Mixture
from lightning_vi.likelihoods import Likelihood, Prediction
from lightning_vi.likelihoods.counts import CountLikelihood
from lightning_vi.methods.base import UQMethod
from lightning_vi.methods.calibrated import CalibratedMethod, check_target
from lightning_vi.sampling import NetworkInput

MIN_FACTOR = 1e-3


class VarianceScaling(CalibratedMethod):
    r"""One number for each target that makes a regression more or less certain.

    The factor :math:`s_d` is that of the largest likelihood on the calibration data, if the predictive distribution is
    taken for a Gaussian of its mean and variance; it is at least 0.001. The predictive mean stays, the standard
    deviation is multiplied by :math:`s_d`, and so are its epistemic and its aleatoric part. Metrics score the method's
    own predictive mixture, stretched by :math:`s_d` around its mean. `lower` and `upper` of a method that gives
    intervals stay.

    Args:
        method: The trained method; it is copied. Its likelihood is for real numbers.
        method_checkpoint: A Lightning checkpoint with the method's weights, if it does not have them yet.

    Raises:
        TypeError: If `method` is no method, or one for classification or for counts.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Gaussian
        >>> calibrated = VarianceScaling(Deterministic(torch.nn.Identity(), Gaussian(noise_std=0.5)))
        >>> calibrated.calibrate([(torch.zeros(2, 1), torch.tensor([[2.0], [-2.0]]))])
        >>> calibrated.predict_step(torch.ones(1, 1))["pred_uct"]
        tensor([[2.]])
    """

    task = "regression"
    other_task_advice = "TemperatureScaling"
    std_factor: Tensor

    def __init__(self, method: UQMethod, *, method_checkpoint: str | None = None) -> None:
        super().__init__(method, method_checkpoint=method_checkpoint)
        self.register_buffer("std_factor", torch.ones(method.likelihood.num_predictions))

    @classmethod
    def check_likelihood(cls, likelihood: Likelihood) -> None:  # noqa: D102
        super().check_likelihood(likelihood)
        if isinstance(likelihood, CountLikelihood):
            raise TypeError(f"VarianceScaling is for real numbers, but {type(likelihood).__name__} is for counts")

    def scores(self, x: NetworkInput, prediction: Prediction, target: Tensor) -> Tensor:  # noqa: ARG002
        """Squared standardised residuals.

        Args:
            x: Input, each tensor of shape [B, ...].
            prediction: The method's own prediction.
            target: Targets, shape [B, ..., D].

        Returns:
            Shape [B, ..., D].
        """
        return (target - prediction.mean).square() / prediction.total_var

    def use_scores(self, scores: Tensor) -> None:  # noqa: D102
        self.std_factor.copy_(scores.flatten(0, -2).mean(0).sqrt().clamp_min(MIN_FACTOR))

    def calibrated(self, x: NetworkInput, prediction: Prediction) -> Prediction:  # noqa: ARG002, D102
        factor = self.std_factor.to(prediction.mean.dtype)
        square, samples = factor.square(), prediction.samples
        return replace(
            prediction,
            epistemic_var=square * prediction.epistemic_var,
            aleatoric_var=square * prediction.aleatoric_var,
            total_var=square * prediction.total_var,
            samples=None if samples is None else prediction.mean + factor * (samples - prediction.mean),
        )

    def calibrated_metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:
        r"""The mixture stretched around its mean m, whose density at y is the old one at m + (y - m) / s, over s.

        Args:
            x: Input, each tensor of shape [B, ...].
            target: Targets, shape [B, ..., D].

        Returns:
            See `Likelihood.metric_inputs`.
        """
        prediction = self.method.predict(x)
        check_target(prediction, target)
        mean, factor = prediction.mean, self.std_factor.to(prediction.mean.dtype)
        inputs = self.method._metric_inputs(x, mean + (target - mean) / factor)
        num_positions = target[0].numel() // len(factor)
        stretched = {
            "means": mean + factor * (inputs["means"] - mean),
            "stds": factor * inputs["stds"],
            "log_prob": inputs["log_prob"] - num_positions * factor.log().sum(),
            "target": target,
        }
        if "mixture" in inputs:
            old: Mixture = inputs["mixture"]
            stretched["mixture"] = Mixture(
                lambda values: old.component_cdf(mean + (values - mean) / factor),
                stretched["means"],
                stretched["stds"],
            )
        return inputs | stretched

    def logged_calibration(self) -> dict[str, Tensor]:  # noqa: D102
        return {f"calibration_std_factor_{index}": factor for index, factor in enumerate(self.std_factor)}
