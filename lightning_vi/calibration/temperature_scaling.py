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

import torch
from torch import Tensor

from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.calibration.class_scaling import RecalibratedClasses
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.functional.calibration import best_temperature, log_odds_against, temper
from lightning_vi.sampling import NetworkInput


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
        return RecalibratedClasses(predictive, self._temper, self.likelihood)

    def _temper(self, log_probs: Tensor) -> Tensor:
        return temper(log_probs, self.temperature.to(log_probs.dtype))

    def logged_calibration(self) -> dict[str, Tensor]:  # noqa: D102
        return {"calibration_temperature": self.temperature}
