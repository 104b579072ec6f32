r"""Variance scaling of any method's predictions.

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

from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.core.batch_forms import check_target
from lightning_vi.core.predictive import Predictive, TransformedPredictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputTypeError
from lightning_vi.functional.mixture import Mixture
from lightning_vi.likelihoods import Likelihood, Prediction
from lightning_vi.sampling import NetworkInput

MIN_FACTOR = 1e-3


class VarianceScaling(CalibratedMethod):
    r"""Scaling of the predictive standard deviation by one factor for each target.

    The factor :math:`s_d` maximizes the likelihood of the calibration data under a Gaussian with the predictive mean
    and the scaled variance. It is at least 0.001. It multiplies the predictive standard deviation and its epistemic and
    aleatoric parts; the predictive mean is unchanged, and so are `lower` and `upper` of a method that predicts
    intervals. Metrics score the method's predictive mixture, stretched by :math:`s_d` around its mean.

    Args:
        method: The fitted method; it is copied. Its likelihood is for real-valued targets.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for classification or for counts.
        FileNotFoundError: If the checkpoint does not exist.
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

    def __init__(self, method: Predictor, *, method_checkpoint: str | None = None) -> None:
        super().__init__(method, method_checkpoint=method_checkpoint)
        self.register_buffer("std_factor", torch.ones(method.likelihood.num_predictions))

    @classmethod
    def check_likelihood(cls, likelihood: Likelihood) -> None:  # noqa: D102
        super().check_likelihood(likelihood)
        if likelihood.support != "real":
            raise InputTypeError(f"VarianceScaling is for real numbers, but {type(likelihood).__name__} is for counts")

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002
        """Computes the squared standardized residuals.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ..., D].

        Returns:
            Shape [B, ..., D].
        """
        prediction = self.checked_prediction(predictive, target)
        return (target - prediction.mean).square() / prediction.total_var

    def use_scores(self, scores: Tensor) -> None:  # noqa: D102
        self.std_factor.copy_(scores.flatten(0, -2).nanmean(0).sqrt().clamp_min(MIN_FACTOR))

    def make_calibrated(self, x: NetworkInput, predictive: Predictive) -> Predictive:  # noqa: ARG002, D102
        return ScaledPredictive(predictive, self.std_factor, self.likelihood)

    def logged_calibration(self) -> dict[str, Tensor]:  # noqa: D102
        return {f"calibration_std_factor_{index}": factor for index, factor in enumerate(self.std_factor)}


class ScaledPredictive(TransformedPredictive):
    """Predictive distribution that is stretched around its mean m.

    Its density at y is that of the inner distribution at m + (y - m) / s, divided by s.

    Args:
        inner: The distribution to stretch.
        factor: Factors s, shape [D].
        likelihood: The observation model.
    """

    def __init__(self, inner: Predictive, factor: Tensor, likelihood: Likelihood) -> None:
        super().__init__(inner, self._scale)
        self.likelihood = likelihood
        self.factor = factor

    def _scale(self, prediction: Prediction) -> Prediction:
        factor = self.factor.to(prediction.mean.dtype)
        square, samples = factor.square(), prediction.samples
        return replace(
            prediction,
            epistemic_var=square * prediction.epistemic_var,
            aleatoric_var=square * prediction.aleatoric_var,
            total_var=square * prediction.total_var,
            samples=None if samples is None else prediction.mean + factor * (samples - prediction.mean),
        )

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        self.keep()
        prediction = self.inner.prediction()
        check_target(prediction, target)
        mean, factor = prediction.mean, self.factor.to(prediction.mean.dtype)
        inputs = self.inner.metric_inputs(mean + (target - mean) / factor)
        observed = self.likelihood.observed(target)
        log_factors = factor.log().expand_as(target)
        if observed is not None:
            log_factors = log_factors * observed
        stretched = {
            "means": mean + factor * (inputs["means"] - mean),
            "stds": factor * inputs["stds"],
            "log_prob": inputs["log_prob"] - log_factors.flatten(1).sum(1),
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
