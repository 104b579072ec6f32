r"""Conformalized quantile regression: conformal correction of the prediction intervals of a method.

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

from statistics import NormalDist

import torch
from torch import Tensor

from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.likelihoods import Prediction
from lightning_vi.sampling import NetworkInput


class ConformalQuantileRegression(ConformalMethod):
    r"""Prediction intervals that contain the target with probability at least `coverage` (Romano et al., 2019).

    The ends `lower` and `upper` of the method's intervals are moved by the same distance, outward or, if the intervals
    are too wide, inward. The intervals are those of `QuantileRegression`, whose outermost levels should differ by
    `coverage`. For other methods, they are the mean plus and minus a multiple of the predictive standard deviation, the
    central Gaussian interval of probability `coverage`. Ends that would cross are replaced by their midpoint.

    See `ConformalMethod` for the guarantee and its conditions. With fewer than coverage / (1 - coverage) calibration
    data the intervals are infinite, and a warning is issued.

    Args:
        method: The fitted method; it is copied. Its likelihood is for regression.
        coverage: Probability of coverage of each target, strictly between 0 and 1.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for classification.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If `coverage` is out of range, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import QuantileRegression
        >>> from lightning_vi.likelihoods import Quantiles
        >>> network = torch.nn.Linear(1, 3)  # the quantiles at 5%, 50% and 95%
        >>> method = QuantileRegression(network, Quantiles())
        >>> method.is_trained = True  # or fit it
        >>> conformal = ConformalQuantileRegression(method, coverage=0.9)
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

    def region(self, x: NetworkInput, prediction: Prediction, quantile: Tensor) -> Prediction:  # noqa: ARG002, D102
        lower, upper = self._interval(prediction)
        distance = quantile.to(lower.dtype)
        midpoint = (lower + upper) / 2
        return self.with_interval(
            prediction, torch.minimum(lower - distance, midpoint), torch.maximum(upper + distance, midpoint)
        )

    def _interval(self, prediction: Prediction) -> tuple[Tensor, Tensor]:
        if prediction.lower is not None and prediction.upper is not None:
            return prediction.lower, prediction.upper
        half_width = NormalDist().inv_cdf((1 + self.coverage) / 2) * prediction.total_var.sqrt()
        return prediction.mean - half_width, prediction.mean + half_width
