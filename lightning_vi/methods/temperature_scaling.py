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

from lightning_vi.functional import entropy
from lightning_vi.functional.calibration import best_temperature, log_odds_against, temper
from lightning_vi.likelihoods import Prediction
from lightning_vi.methods.base import UQMethod
from lightning_vi.methods.calibrated import CalibratedMethod, check_target
from lightning_vi.sampling import NetworkInput

TINY = 1e-30


class TemperatureScaling(CalibratedMethod):
    r"""One number that makes a classifier more or less certain (Guo et al., 2017).

    The order of the classes stays. T is larger than 1 where the method is too certain, and 1 where it is calibrated; it
    stays between 0.01 and 100.

    The temperature is that of the averaged probabilities, which are what the calibration data can be wrong about. The
    method's samples say which share of the uncertainty is epistemic: that of the entropy and that of each class's
    variance stay what they were before. (Tempering each sample is another definition; the average of tempered samples
    is not the tempered average, so the parts would not add up to the entropy of what is predicted.) `samples`, if asked
    for, are those of the method, before tempering.

    Args:
        method: The trained method; it is copied. Its likelihood is for classification.
        method_checkpoint: A Lightning checkpoint with the method's weights, if it does not have them yet.

    Raises:
        TypeError: If `method` is no method, or one for regression.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Categorical
        >>> x, y = 10 * torch.eye(2).repeat(5, 1), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1, 0])
        >>> calibrated = TemperatureScaling(Deterministic(torch.nn.Identity(), Categorical(2)))
        >>> calibrated.calibrate([(x, y)])
        >>> calibrated.predict_step(x[:1])["pred"]  # 8 of 10 labels are as predicted
        tensor([[0.8000, 0.2000]])
    """

    task = "classification"
    other_task_advice = "VarianceScaling"
    temperature: Tensor

    def __init__(self, method: UQMethod, *, method_checkpoint: str | None = None) -> None:
        super().__init__(method, method_checkpoint=method_checkpoint)
        self.register_buffer("temperature", torch.tensor(1.0))

    def scores(self, x: NetworkInput, prediction: Prediction, target: Tensor) -> Tensor:  # noqa: ARG002, D102
        return log_odds_against(log(prediction.mean), target)

    def use_scores(self, scores: Tensor) -> None:  # noqa: D102
        self.temperature.copy_(best_temperature(scores))

    def calibrated(self, x: NetworkInput, prediction: Prediction) -> Prediction:  # noqa: ARG002, D102
        probs = temper(log(prediction.mean), self.temperature.to(prediction.mean.dtype)).exp()
        variance, uncertainty = probs * (1 - probs), entropy(probs, dim=1)
        epistemic_var = variance * share(prediction.epistemic_var, prediction.total_var)
        mutual_information = uncertainty * share(prediction.mutual_information, prediction.predictive_entropy)
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

    def calibrated_metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:  # noqa: D102
        prediction = self.predict(x)
        check_target(prediction, target)
        log_prob = -torch.logsumexp(log_odds_against(log(prediction.mean), target), dim=1)
        return {
            "preds": prediction.mean,
            "log_prob": log_prob.reshape(len(log_prob), -1).sum(-1).unsqueeze(0),
            "target": target.long(),
        }

    def logged_calibration(self) -> dict[str, Tensor]:  # noqa: D102
        return {"calibration_temperature": self.temperature}


def share(part: Tensor | None, whole: Tensor | None) -> Tensor | float:
    """Which share of an uncertainty is epistemic.

    Args:
        part: The epistemic part, any shape; None counts as zero.
        whole: The uncertainty, the same shape.

    Returns:
        Between 0 and 1, the same shape; zero where there is no uncertainty.
    """
    if part is None or whole is None:
        return 0.0
    return (part / whole.clamp_min(TINY)).clamp(0, 1)


def log(probs: Tensor) -> Tensor:
    """Logarithms of probabilities, finite where a probability is 0.

    Args:
        probs: Any shape.

    Returns:
        The shape of `probs`.
    """
    return probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
