r"""Prediction intervals with separate factors of the epistemic and the aleatoric uncertainty (CLEAR).

Azizi, Bodik, Heiss and Yu, "CLEAR: Calibrated Learning for Epistemic and Aleatoric Risk", arXiv 2507.08150.

.. math:: \big[\mu(x) - \gamma_a a(x) - \gamma_e e(x),\ \mu(x) + \gamma_a a(x) + \gamma_e e(x)\big], \qquad
    \gamma_a = (1 - t)\, q_t, \quad \gamma_e = t\, q_t

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`\mu`            `method`: predictive mean
:math:`a, e`           its aleatoric and epistemic standard deviations
:math:`q_t`            conformal quantile of :math:`|y_i - \mu(x_i)| / ((1 - t) a(x_i) + t e(x_i))`
                       of n calibration data
:math:`t`              `epistemic_weight`, a result: the one of 101 values between 0 and 1 whose
                       intervals have the smallest mean interval score
=====================  ====================================================================
"""

import torch
from torch import Tensor

from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.functional.calibration import conformal_quantile
from lightning_vi.likelihoods import Prediction
from lightning_vi.sampling import NetworkInput

NUM_WEIGHTS = 101
MAX_ELEMENTS = 2**20


class CLEAR(ConformalMethod):
    r"""Prediction intervals that weigh epistemic against aleatoric uncertainty (Azizi et al., 2025).

    One factor for both, as in `SplitConformal`, keeps their ratio, which is often wrong: an ensemble may disagree too
    little while its noise is right. Here the ratio is that of the best interval score, the sum of the pinball losses of
    both ends, on the calibration data, for each target. The paper takes both parts as intervals of their own; here they
    are standard deviations. Predictions have the ends in `lower` and `upper` and are otherwise unchanged.

    The quantile is that of `SplitConformal` for a given ratio. To choose the ratio on the same data costs a little
    coverage, which vanishes as 1 / n; with ``exact=True`` every second datum chooses the ratio, the others the
    quantile, and the guarantee of `ConformalMethod` holds exactly.

    Args:
        method: The fitted method; it is copied. Its likelihood is for regression.
        coverage: Probability of coverage of each target, strictly between 0 and 1.
        exact: Whether the ratio and the quantile come from different data.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for classification.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If `coverage` is out of range, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Gaussian
        >>> conformal = CLEAR(Deterministic(torch.nn.Identity(), Gaussian(noise_std=0.5)), coverage=0.75)
        >>> conformal.calibrate([(torch.zeros(3, 1), torch.tensor([[-0.5], [1.0], [2.0]]))])
        >>> conformal.aleatoric_factor, conformal.epistemic_factor  # one network has no epistemic part
        (tensor([4.]), tensor([0.]))
    """

    task = "regression"
    other_task_advice = "AdaptivePredictionSets"
    has_groups = False
    epistemic_weight: Tensor

    def __init__(
        self,
        method: Predictor,
        *,
        coverage: float = 0.9,
        exact: bool = False,
        method_checkpoint: str | None = None,
    ) -> None:
        super().__init__(method, coverage=coverage, method_checkpoint=method_checkpoint)
        self.exact = exact
        self.register_buffer("epistemic_weight", torch.zeros(self.likelihood.num_predictions))

    @property
    def aleatoric_factor(self) -> Tensor:
        """Factor of the aleatoric standard deviation, shape [D]."""
        return self.quantile * (1 - self.epistemic_weight)

    @property
    def epistemic_factor(self) -> Tensor:
        """Factor of the epistemic standard deviation, shape [D]."""
        return torch.where(self.epistemic_weight == 0, 0, self.quantile * self.epistemic_weight)

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002
        """Joins the absolute errors and both standard deviations.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ..., D].

        Returns:
            Shape [B, 3, ..., D].
        """
        prediction = self.checked_prediction(predictive, target)
        parts = (prediction.aleatoric_var.sqrt(), prediction.epistemic_var.sqrt())
        return torch.stack([(target - prediction.mean).abs(), *parts], 1)

    def use_scores(self, scores: Tensor) -> None:
        """Computes the ratio and the quantile.

        Args:
            scores: Shape [N, 3, ..., D].
        """
        rows = scores.movedim(1, -2).reshape(len(scores), -1, 3, scores.shape[-1])
        choosing, calibrating = (rows[::2], rows[1::2]) if self.exact and len(rows) > 1 else (rows, rows)
        error, aleatoric, epistemic = choosing.flatten(0, 1).unsqueeze(2).unbind(1)  # [n, 1, D] each
        weights = torch.linspace(0, 1, NUM_WEIGHTS, dtype=error.dtype, device=error.device)
        scores_by_weight = []
        for part in torch.split(weights, max(1, MAX_ELEMENTS // max(1, error.numel()))):
            width = _width(aleatoric, epistemic, part.unsqueeze(1))
            half = conformal_quantile(error / width, self.coverage) * width
            outside = (error - half).clamp_min(0)
            scores_by_weight.append((2 * half + 2 / (1 - self.coverage) * outside).nanmean(0))
        interval_scores = torch.cat(scores_by_weight).nan_to_num(torch.inf, torch.inf)
        self.epistemic_weight.copy_(weights[interval_scores.argmin(0)])
        error, aleatoric, epistemic = calibrating.flatten(0, 1).unbind(1)
        super().use_scores(error / _width(aleatoric, epistemic, self.epistemic_weight.to(error.dtype)))

    def region(self, x: NetworkInput, prediction: Prediction, quantile: Tensor) -> Prediction:  # noqa: ARG002, D102
        weight = self.epistemic_weight.to(prediction.mean.dtype)
        width = _width(prediction.aleatoric_var.sqrt(), prediction.epistemic_var.sqrt(), weight)
        half = quantile.to(width.dtype) * width
        return self.with_interval(prediction, prediction.mean - half, prediction.mean + half)

    def logged_calibration(self) -> dict[str, Tensor]:  # noqa: D102
        names = {"aleatoric": self.aleatoric_factor, "epistemic": self.epistemic_factor}
        return {f"calibration_{name}_factor_{d}": f for name, each in names.items() for d, f in enumerate(each)}


def _width(aleatoric: Tensor, epistemic: Tensor, weight: Tensor) -> Tensor:
    return ((1 - weight) * aleatoric + weight * epistemic).clamp_min(torch.finfo(aleatoric.dtype).tiny)
