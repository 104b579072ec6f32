r"""Conformal risk control of prediction sets of pixels or positions.

Angelopoulos, Bates, Fisch, Lei and Schuster, "Conformal risk control", ICLR 2024 (arXiv 2208.02814).

.. math:: \mathrm{E}[L_{n + 1}(\hat t)] \le r, \qquad
    \hat t = \sup \Big\{ t : \frac{n}{n + 1} \frac1n \sum_i L_i(t) + \frac{1}{n + 1} \le r \Big\}, \qquad
    L_i(t) = \frac{\#\{j : p_{y_{ij}}(x_{ij}) < t\}}{\#\{j\}}

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`p`              `method`: class probabilities of the pixels j of image i
:math:`j`              pixels of the class `positive_class`, or all observed pixels
:math:`r`              `risk`
:math:`n`              images of the calibration data
:math:`\hat t`         `threshold`, the result
=====================  ====================================================================
"""

from dataclasses import replace

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Prediction
from lightning_vi.metrics import PredictionSetRisk, PredictionSetSize
from lightning_vi.sampling import NetworkInput


class ConformalRiskControl(CalibratedMethod):
    r"""Sets of classes of each pixel that miss at most a share `risk` of an image's labels, on average over images.

    With `positive_class`, such as a tumor, the share is the false negative rate of its mask: the pixels of that class
    whose `pred_set` does not have it. Otherwise it is the share of all pixels whose set does not have their label.
    The mask of class c is ``pred_set[:, c]``; each set also has the most probable class. The mean is over images and
    calibration data, and holds if the images are exchangeable: the pixels of an image may depend on each other, where
    the conformal sets of pooled pixels, such as `AdaptivePredictionSets`, count each pixel as a datum.

    At least 1 / risk - 1 images are needed, otherwise all sets have all classes, and a warning is issued. Images
    without pixels of the class have no loss.

    Args:
        method: The fitted method; it is copied. Its likelihood is for classification, of pixels or other positions.
        risk: Largest mean share of missed labels, strictly between 0 and 1.
        positive_class: Class whose pixels must not be missed; None for all classes.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for regression.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If a number is out of range, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Bernoulli
        >>> control = ConformalRiskControl(Deterministic(torch.nn.Identity(), Bernoulli()), risk=0.3, positive_class=1)
        >>> images = torch.linspace(0.1, 0.9, 10).logit().view(1, 1, 10).repeat(9, 1, 1)  # nine images of ten pixels
        >>> control.calibrate([(images, torch.ones(9, 10, dtype=torch.long))])
        >>> control.predict_step(images[:1])["pred_set"][0, 1].sum()  # two of ten may be missed
        tensor(8)
    """

    task = "classification"
    other_task_advice = "SplitConformal or ConformalQuantileRegression"
    threshold: Tensor

    def __init__(
        self,
        method: Predictor,
        *,
        risk: float = 0.1,
        positive_class: int | None = None,
        method_checkpoint: str | None = None,
    ) -> None:
        if isinstance(risk, bool) or not 0 < risk < 1:
            raise InputValueError(f"risk must lie strictly between 0 and 1, got {risk!r}")
        super().__init__(method, method_checkpoint=method_checkpoint)
        num_classes = self.likelihood.num_predictions
        if positive_class is not None and not 0 <= positive_class < num_classes:
            raise InputValueError(f"positive_class must lie between 0 and {num_classes - 1}, got {positive_class!r}")
        self.risk = risk
        self.positive_class = positive_class
        metrics = {"risk": PredictionSetRisk(positive_class), "set_size": PredictionSetSize()}
        self.test_metrics.add_metrics({f"conformal_{name}": metric for name, metric in metrics.items()})
        self.register_buffer("threshold", torch.tensor(0.0))

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002
        """Probabilities of the labels that are counted, and infinity for others.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Labels, shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        probs = self._in_set(self.checked_prediction(predictive, target))
        found = probs.gather(1, target.long().unsqueeze(1)).squeeze(1)
        return found if self.positive_class is None else torch.where(target == self.positive_class, found, torch.inf)

    def use_scores(self, scores: Tensor) -> None:
        """Computes the threshold.

        Args:
            scores: Shape [N, ...]; NaN for labels that are missing.
        """
        rows = scores.reshape(len(scores), -1)
        rows = rows if rows.device.type == "mps" else rows.double()
        counted = rows.isfinite()
        shares = counted / counted.sum(1, keepdim=True).clamp_min(1)
        ordered, order = torch.where(counted, rows, torch.inf).flatten().sort()
        # The losses at a threshold are the shares of the pixels below it.
        losses = shares.flatten()[order].cumsum(0)
        allowed = self.risk * (len(rows) + 1) - 1
        if allowed < -1e-9:
            rank_zero_warn(
                f"{len(rows)} calibration images are too few for a risk of {self.risk}: sets contain all classes"
            )
        first_of_tie = torch.searchsorted(ordered, ordered)
        below = torch.cat([losses.new_zeros(1), losses])[first_of_tie]
        possible = ordered[(below <= allowed + 1e-9) & ordered.isfinite()]
        self.threshold.copy_(possible[-1] if len(possible) else torch.tensor(0.0))

    def calibrated(self, x: NetworkInput, prediction: Prediction) -> Prediction:  # noqa: ARG002, D102
        probs = self._in_set(prediction)
        return replace(prediction, pred_set=probs >= self.threshold.to(probs.dtype))

    def logged_calibration(self) -> dict[str, Tensor]:  # noqa: D102
        return {"calibration_threshold": self.threshold}

    def _in_set(self, prediction: Prediction) -> Tensor:
        """Probabilities, with 2 for the most probable class, which is in every set."""
        return prediction.mean.scatter(1, prediction.mean.argmax(1, keepdim=True), 2.0)
