r"""Conformal intervals around intervals that a method predicts already.

Romano, Patterson and Candes, "Conformalized quantile regression", NeurIPS 2019.

.. math:: \big[l(x) - q,\ u(x) + q\big], \qquad
    q = \Big\lceil (n + 1)(1 - \alpha) \Big\rceil\text{-th smallest of } \max\big(l(x_i) - y_i,\ y_i - u(x_i)\big)

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`l, u`           `method`: its `lower` and `upper`, or Gaussian quantiles
:math:`1 - \alpha`     `coverage`
:math:`i`              the n calibration data
:math:`q`              `quantile`, the result, one for each of D targets
=====================  ====================================================================
"""

from dataclasses import replace
from statistics import NormalDist

import torch
from torch import Tensor

from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.likelihoods import Prediction
from lightning_vi.sampling import NetworkInput


class ConformalQuantileRegression(ConformalMethod):
    r"""Intervals that hold the target with a probability of at least `coverage`, from intervals that may not.

    The method's own `lower` and `upper` are moved outward by one distance, or inward where they are too wide: those of
    `QuantileRegression`, whose outermost levels should lie `coverage` apart. Other methods give the mean plus and minus
    the Gaussian quantile of `coverage` times the predictive standard deviation. Where ends that are moved inward would
    cross, both are their middle. `ConformalMethod` says what is guaranteed, and on what conditions. With fewer than
    coverage / (1 - coverage) calibration data the intervals are infinite, and a warning says so.

    Args:
        method: The fitted method; it is copied. Its likelihood is for regression.
        coverage: Strictly between 0 and 1, for each target on its own.
        method_checkpoint: A Lightning checkpoint with the method's weights, unless it has them already.

    Raises:
        TypeError: If `method` is no method, or one for classification.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If `coverage` is out of range, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import QuantileRegression
        >>> from lightning_vi.likelihoods import Quantiles
        >>> network = torch.nn.Linear(1, 3)  # the quantiles at 5%, 50% and 95%
        >>> conformal = ConformalQuantileRegression(QuantileRegression(network, Quantiles()), coverage=0.9)
        >>> conformal.calibrate([(torch.zeros(20, 1), torch.randn(20, 1))])
        >>> sorted(conformal.predict_step(torch.zeros(4, 1)))
        ['aleatoric_uct', 'epistemic_uct', 'lower', 'pred', 'pred_uct', 'upper']
    """

    task = "regression"
    other_task_advice = "AdaptivePredictionSets"

    def __init__(self, method: Predictor, *, coverage: float = 0.9, method_checkpoint: str | None = None) -> None:
        super().__init__(method, coverage=coverage, method_checkpoint=method_checkpoint)

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002, D102
        lower, upper = self._interval(self.checked_prediction(predictive, target))
        return torch.maximum(lower - target, target - upper)

    def calibrated(self, x: NetworkInput, prediction: Prediction) -> Prediction:  # noqa: ARG002, D102
        lower, upper = self._interval(prediction)
        distance = self.quantile.to(lower.dtype)
        middle = (lower + upper) / 2
        return replace(
            prediction,
            lower=torch.minimum(lower - distance, middle),
            upper=torch.maximum(upper + distance, middle),
        )

    def _interval(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        if prediction.lower is not None and prediction.upper is not None:
            return prediction.lower, prediction.upper
        half_width = NormalDist().inv_cdf((1 + self.coverage) / 2) * prediction.total_var.sqrt()
        return prediction.mean - half_width, prediction.mean + half_width
