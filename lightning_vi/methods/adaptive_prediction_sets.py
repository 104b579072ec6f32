r"""Conformal sets of classes that are large where a classifier is uncertain.

Romano, Sesia and Candes, "Classification with valid and adaptive coverage", NeurIPS 2020 (APS); Angelopoulos, Bates,
Jordan and Malik, "Uncertainty sets for image classifiers using conformal prediction", ICLR 2021 (RAPS).

.. math:: C(x) = \{c : s(x, c) \le q\}, \qquad
    s(x, c) = \sum_{k:\, r(k) \le r(c)} p_k(x) + \lambda \max(0, r(c) - k_{\mathrm{reg}})

=========================  ====================================================================
symbol                     argument
=========================  ====================================================================
:math:`p`                  `method`: class probabilities; r is the rank of a class among them
:math:`\lambda`            `penalty`: 0 for APS
:math:`k_{\mathrm{reg}}`   `allowed_size`
:math:`q`                  `quantile`, the result: the :math:`\lceil (n + 1)\,` `coverage`
                           :math:`\rceil`-th smallest :math:`s(x_i, y_i)` of n calibration data
=========================  ====================================================================
"""

from dataclasses import replace

from torch import Tensor

from lightning_vi.functional.calibration import adaptive_set_scores
from lightning_vi.likelihoods import Prediction
from lightning_vi.methods.arguments import check_at_least
from lightning_vi.methods.base import UQMethod
from lightning_vi.methods.conformal import ConformalMethod
from lightning_vi.metrics import PredictionSetCoverage, PredictionSetSize


class AdaptivePredictionSets(ConformalMethod):
    r"""Sets of classes that hold the label with a probability of at least `coverage`.

    They are `pred_set` of a prediction, a boolean for each class [B, C, ...]; the rest of it stays. `ConformalMethod`
    says what is guaranteed, and on what conditions.

    Nothing is random here: the papers' scores have a uniform random number times the probability of the class itself,
    these the whole probability, so that two predictions for a datum agree. The guarantee is the same, but the sets are
    larger: many scores are near 1 where the label is among the least probable classes, and the sets of a good
    classifier can hold the label far more often than `coverage`. The most probable class belongs to every set, which
    the score alone would leave out of some; that can only add to the coverage.

    With fewer than coverage / (1 - coverage) calibration data each set has all classes, and a warning says so.

    Args:
        method: The trained method; it is copied. Its likelihood is for classification.
        coverage: Strictly between 0 and 1.
        penalty: :math:`\lambda` for each rank beyond `allowed_size`; a positive one makes large sets rare (RAPS).
        allowed_size: :math:`k_{\mathrm{reg}}`, how many classes a set may have without penalty.
        method_checkpoint: A Lightning checkpoint with the method's weights, if it does not have them yet.

    Raises:
        TypeError: If `method` is no method, or one for regression.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If a number is out of range, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Categorical
        >>> logits = torch.tensor([[0.7, 0.2, 0.1]]).log()
        >>> sets = AdaptivePredictionSets(Deterministic(torch.nn.Identity(), Categorical(3)), coverage=0.5)
        >>> sets.calibrate([(logits.expand(3, 3), torch.tensor([0, 1, 1]))])
        >>> sets.predict_step(logits)["pred_set"]
        tensor([[ True,  True, False]])
    """

    task = "classification"
    other_task_advice = "SplitConformal or ConformalQuantileRegression"

    def __init__(
        self,
        method: UQMethod,
        *,
        coverage: float = 0.9,
        penalty: float = 0.0,
        allowed_size: int = 1,
        method_checkpoint: str | None = None,
    ) -> None:
        if not 0 <= penalty < float("inf"):
            raise ValueError(f"penalty must not be negative, and finite, got {penalty!r}")
        check_at_least("allowed_size", allowed_size, 0)
        super().__init__(method, coverage=coverage, method_checkpoint=method_checkpoint)
        self.penalty = penalty
        self.allowed_size = allowed_size
        self.test_metrics.add_metrics(
            {"conformal_coverage": PredictionSetCoverage(), "conformal_set_size": PredictionSetSize()}
        )

    def scores(self, prediction: Prediction, target: Tensor) -> Tensor:  # noqa: D102
        return self._class_scores(prediction).gather(1, target.long().unsqueeze(1)).squeeze(1)

    def calibrated(self, prediction: Prediction) -> Prediction:  # noqa: D102
        scores = self._class_scores(prediction)
        chosen = scores <= self.quantile.to(scores.dtype)
        return replace(prediction, pred_set=chosen.scatter(1, prediction.mean.argmax(1, keepdim=True), True))

    def _class_scores(self, prediction: Prediction) -> Tensor:
        return adaptive_set_scores(prediction.mean, self.penalty, self.allowed_size)
