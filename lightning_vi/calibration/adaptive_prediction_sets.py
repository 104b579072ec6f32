r"""Adaptive prediction sets: conformal sets of classes that are larger for uncertain predictions.

Romano, Sesia and Candes, "Classification with valid and adaptive coverage", NeurIPS 2020 (APS); Angelopoulos, Bates,
Jordan and Malik, "Uncertainty sets for image classifiers using conformal prediction", ICLR 2021 (RAPS).

.. math:: C(x) = \{c : s(x, c) \le q\}, \qquad
    s(x, c) = \sum_{k:\, r(k) < r(c)} p_k(x) + u\, p_c(x) + \lambda \max(0, r(c) - k_{\mathrm{reg}})

=========================  ====================================================================
symbol                     argument
=========================  ====================================================================
:math:`p`                  `method`: class probabilities; r is the rank of a class among them
:math:`u`                  `randomised`: a number between 0 and 1 for each x, or 1
:math:`\lambda`            `penalty`: 0 for APS
:math:`k_{\mathrm{reg}}`   `allowed_size`
:math:`q`                  `quantile`, the result: the :math:`\lceil (n + 1)\,` `coverage`
                           :math:`\rceil`-th smallest :math:`s(x_i, y_i)` of n calibration data
=========================  ====================================================================
"""

from torch import Tensor

from lightning_vi.arguments import check_at_least
from lightning_vi.calibration.conformal_sets import ConformalSets, uniforms_of
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputValueError
from lightning_vi.functional.calibration import adaptive_set_scores
from lightning_vi.likelihoods import Prediction
from lightning_vi.sampling import NetworkInput


class AdaptivePredictionSets(ConformalSets):
    r"""Sets of classes that contain the label with probability at least `coverage`.

    Predictions have the set in `pred_set`, a boolean for each class, shape [B, C, ...], and are otherwise unchanged.

    Randomization by u makes the coverage nearly exact. The papers draw u for each datum. Here it is a hash of the
    input, so that repeated predictions agree; the score remains a fixed function of input and label, as the guarantee
    requires. With ``randomised=False`` u is 1, and sets tend to be larger, especially those of an accurate classifier,
    because its smallest probabilities fill up the sum to 1. Every set contains the most probable class, even if its
    score is too large, which can only increase the coverage.

    See `ConformalMethod` for the guarantee and its conditions. With fewer than coverage / (1 - coverage) calibration
    data each set contains all classes, and a warning is issued.

    Args:
        method: The fitted method; it is copied. Its likelihood is for classification.
        coverage: Probability of coverage, strictly between 0 and 1.
        penalty: :math:`\lambda`, the penalty of each rank beyond `allowed_size`. Positive values make large sets rare
            (RAPS).
        allowed_size: :math:`k_{\mathrm{reg}}`, the number of classes without penalty.
        randomised: Whether u is a hash of the input instead of 1.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for regression.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If a number is out of range, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Categorical
        >>> logits = torch.tensor([[0.7, 0.2, 0.1]]).log()
        >>> method = Deterministic(torch.nn.Identity(), Categorical(3))
        >>> sets = AdaptivePredictionSets(method, coverage=0.5, randomised=False)
        >>> sets.calibrate([(logits.expand(3, 3), torch.tensor([0, 1, 1]))])
        >>> sets.predict_step(logits)["pred_set"]
        tensor([[ True,  True, False]])
    """

    def __init__(
        self,
        method: Predictor,
        *,
        coverage: float = 0.9,
        penalty: float = 0.0,
        allowed_size: int = 1,
        randomised: bool = True,
        method_checkpoint: str | None = None,
    ) -> None:
        if not 0 <= penalty < float("inf"):
            raise InputValueError(f"penalty must be non-negative and finite, got {penalty!r}")
        check_at_least("allowed_size", allowed_size, 0)
        super().__init__(method, coverage=coverage, method_checkpoint=method_checkpoint)
        self.penalty = penalty
        self.allowed_size = allowed_size
        self.randomised = randomised

    def class_scores(self, x: NetworkInput, prediction: Prediction) -> Tensor:  # noqa: D102
        probs = prediction.mean
        uniforms = uniforms_of(x, probs) if self.randomised else 1.0
        return adaptive_set_scores(probs, self.penalty, self.allowed_size, uniforms)
