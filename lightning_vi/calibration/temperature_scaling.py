r"""Temperature scaling of any method's class probabilities.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017, on the predictive distribution
of a method that averages over samples.

.. math:: p_T(y = c \mid x) = \frac{\bar p_c(x)^{1 / T}}{\sum_k \bar p_k(x)^{1 / T}}, \qquad
    T = \arg\max_T \sum_n \ln p_T(y_n \mid x_n)

=====================  ====================================================
symbol                 argument
=====================  ====================================================
:math:`\bar p`         `method`, averaged over its samples
:math:`n`              the calibration data
:math:`T`              `temperature`, the result
=====================  ====================================================
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.core.batch_forms import check_target
from lightning_vi.core.predictive import Predictive, class_metric_inputs
from lightning_vi.core.predictor import Predictor
from lightning_vi.functional import entropy
from lightning_vi.functional.calibration import best_temperature, log_odds_against, temper
from lightning_vi.likelihoods import Likelihood, Prediction
from lightning_vi.sampling import NetworkInput

TINY = 1e-30


class TemperatureScaling(CalibratedMethod):
    r"""Temperature scaling of the averaged class probabilities (Guo et al., 2017).

    T is larger than 1 for an overconfident method and 1 for a calibrated one. It is restricted to [0.01, 100]. The
    order of the classes does not change.

    The temperature is applied to the averaged probabilities. The epistemic shares of the entropy and of the variance of
    each class are those of the method's samples. (To temper each sample is a different definition: the average of
    tempered samples is not the tempered average, so the parts would not add up to the entropy of the prediction.)
    `samples` are returned before tempering.

    Args:
        method: The fitted method; it is copied. Its likelihood is for classification.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for regression.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Categorical
        >>> x, y = 10 * torch.eye(2).repeat(5, 1), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1, 0])
        >>> calibrated = TemperatureScaling(Deterministic(torch.nn.Identity(), Categorical(2)))
        >>> calibrated.calibrate([(x, y)])
        >>> calibrated.predict_step(x[:1])["pred"]  # 8 of 10 labels agree with the prediction
        tensor([[0.8000, 0.2000]])
    """

    task = "classification"
    other_task_advice = "VarianceScaling"
    temperature: Tensor

    def __init__(self, method: Predictor, *, method_checkpoint: str | None = None) -> None:
        super().__init__(method, method_checkpoint=method_checkpoint)
        self.register_buffer("temperature", torch.tensor(1.0))

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002, D102
        log_probs = predictive.log_probs()
        self.checked_prediction(predictive, target)
        return log_odds_against(log_probs, target)

    def use_scores(self, scores: Tensor) -> None:  # noqa: D102
        rows = scores.movedim(1, -1).flatten(0, -2)
        self.temperature.copy_(best_temperature(rows[~rows.isnan().any(-1)]))

    def make_calibrated(self, x: NetworkInput, predictive: Predictive) -> Predictive:  # noqa: ARG002, D102
        return TemperedPredictive(predictive, self.temperature, self.likelihood)

    def logged_calibration(self) -> dict[str, Tensor]:  # noqa: D102
        return {"calibration_temperature": self.temperature}


class TemperedPredictive(Predictive):
    """Predictive distribution with tempered class probabilities and unchanged epistemic shares.

    Args:
        inner: The distribution to temper.
        temperature: A scalar tensor.
        likelihood: The observation model.
    """

    def __init__(self, inner: Predictive, temperature: Tensor, likelihood: Likelihood) -> None:
        self.inner = inner
        self.likelihood = likelihood
        self.temperature = temperature

    def keep(self) -> None:  # noqa: D102
        self.inner.keep()

    def log_probs(self) -> Tensor:  # noqa: D102
        log_probs = self.inner.log_probs()
        return temper(log_probs, self.temperature.to(log_probs.dtype))

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        probs = self.log_probs().exp()  # called first, so that its pass over the samples is reused for the prediction
        prediction = self.inner.prediction(return_samples=return_samples)
        variance, uncertainty = probs * (1 - probs), entropy(probs, dim=1)
        epistemic_var = variance * _share(prediction.epistemic_var, prediction.total_var)
        mutual_information = uncertainty * _share(prediction.mutual_information, prediction.predictive_entropy)
        return replace(
            prediction,
            mean=probs,
            probs=probs,
            epistemic_var=epistemic_var,
            aleatoric_var=variance - epistemic_var,
            total_var=variance,
            probs_var=epistemic_var,
            predictive_entropy=uncertainty,
            expected_entropy=uncertainty - mutual_information,
            mutual_information=mutual_information,
        )

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        self.keep()
        check_target(self.prediction(), target)
        return class_metric_inputs(self.log_probs(), target, self.likelihood)


def _share(part: Tensor | None, whole: Tensor | None) -> Tensor | float:
    """Returns the epistemic share of an uncertainty, between 0 and 1; 0 if there is no uncertainty."""
    if part is None or whole is None:
        return 0.0
    return (part / whole.clamp_min(TINY)).clamp(0, 1)
