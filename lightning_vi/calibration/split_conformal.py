r"""Split conformal prediction intervals around any method's predictive mean.

Papadopoulos, Proedrou, Vovk and Gammerman, "Inductive confidence machines for regression", ECML 2002; Lei, G'Sell,
Rinaldo, Tibshirani and Wasserman, "Distribution-free predictive inference for regression", JASA 2018.

.. math:: \big[\mu(x) - q\, \sigma(x),\ \mu(x) + q\, \sigma(x)\big], \qquad
    q = \Big\lceil (n + 1)(1 - \alpha) \Big\rceil\text{-th smallest of } \frac{|y_i - \mu(x_i)|}{\sigma(x_i)}

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`\mu, \sigma`    `method`: predictive mean and standard deviation
:math:`\sigma = 1`     ``normalised=False``
:math:`1 - \alpha`     `coverage`
:math:`i`              the n calibration data
:math:`q`              `quantile`, the result, one for each of D targets
=====================  ====================================================================
"""

import torch
from torch import Tensor

from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.likelihoods import Prediction
from lightning_vi.sampling import NetworkInput


class SplitConformal(ConformalMethod):
    """Prediction intervals around the mean that contain the target with probability at least `coverage`.

    Predictions have the ends of the interval in `lower` and `upper` and are otherwise unchanged. The width of
    normalized intervals is proportional to the predictive standard deviation (Lei et al., 2018, section 5.2);
    otherwise it is constant.

    See `ConformalMethod` for the guarantee and its conditions. With fewer than coverage / (1 - coverage) calibration
    data the intervals are infinite, and a warning is issued.

    Args:
        method: The fitted method; it is copied. Its likelihood is for regression.
        coverage: Probability of coverage of each target, strictly between 0 and 1.
        normalised: Whether the width is proportional to the predictive standard deviation.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for classification.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If `coverage` is out of range, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Gaussian
        >>> conformal = SplitConformal(Deterministic(torch.nn.Identity(), Gaussian(noise_std=0.5)), coverage=0.75)
        >>> conformal.calibrate([(torch.zeros(3, 1), torch.tensor([[-0.5], [1.0], [2.0]]))])
        >>> result = conformal.predict_step(torch.ones(1, 1))
        >>> result["lower"], result["upper"]
        (tensor([[-1.]]), tensor([[3.]]))
    """

    task = "regression"
    other_task_advice = "AdaptivePredictionSets"

    def __init__(
        self,
        method: Predictor,
        *,
        coverage: float = 0.9,
        normalised: bool = True,
        method_checkpoint: str | None = None,
    ) -> None:
        super().__init__(method, coverage=coverage, method_checkpoint=method_checkpoint)
        self.normalised = normalised

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002, D102
        prediction = self.checked_prediction(predictive, target)
        return (target - prediction.mean).abs() / self._scale(prediction)

    def region(self, x: NetworkInput, prediction: Prediction, quantile: Tensor) -> Prediction:  # noqa: ARG002, D102
        half_width = quantile.to(prediction.mean.dtype) * self._scale(prediction)
        return self.with_interval(prediction, prediction.mean - half_width, prediction.mean + half_width)

    def _scale(self, prediction: Prediction) -> Tensor:
        return prediction.total_var.sqrt() if self.normalised else torch.ones_like(prediction.mean)
