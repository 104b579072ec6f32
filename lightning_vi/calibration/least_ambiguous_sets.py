r"""Least ambiguous prediction sets: all classes of at least a given probability (THR, LAC).

Sadinle, Lei and Wasserman, "Least ambiguous set-valued classifiers with bounded error levels", JASA 2019.

.. math:: C(x) = \{c : 1 - p_c(x) \le q\}

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`p`              `method`: class probabilities
:math:`q`              `quantile`, the result: the :math:`\lceil (n + 1)\,` `coverage`
                       :math:`\rceil`-th smallest :math:`1 - p_{y_i}(x_i)` of n calibration data
=====================  ====================================================================
"""

from torch import Tensor

from lightning_vi.calibration.conformal_sets import ConformalSets
from lightning_vi.core.predictor import Predictor
from lightning_vi.likelihoods import Prediction
from lightning_vi.sampling import NetworkInput


class LeastAmbiguousSets(ConformalSets):
    r"""Sets of classes that contain the label with probability at least `coverage`, of the smallest mean size.

    If the probabilities are right, no sets of the same coverage are smaller on average. The coverage of difficult
    inputs is lower than that of easy ones, where `AdaptivePredictionSets` has larger sets and more even coverage.
    Predictions have the set in `pred_set`, a boolean for each class, shape [B, C, ...], and are otherwise unchanged.
    Every set contains the most probable class.

    See `ConformalMethod` for the guarantee and its conditions. With fewer than coverage / (1 - coverage) calibration
    data each set contains all classes, and a warning is issued.

    Args:
        method: The fitted method; it is copied. Its likelihood is for classification.
        coverage: Probability of coverage, strictly between 0 and 1.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for regression.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If `coverage` is out of range, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Categorical
        >>> logits = torch.tensor([[0.6, 0.3, 0.1]]).log()
        >>> sets = LeastAmbiguousSets(Deterministic(torch.nn.Identity(), Categorical(3)), coverage=0.5)
        >>> sets.calibrate([(logits.expand(3, 3), torch.tensor([0, 1, 1]))])
        >>> sets.predict_step(logits)["pred_set"]
        tensor([[ True,  True, False]])
    """

    def __init__(self, method: Predictor, *, coverage: float = 0.9, method_checkpoint: str | None = None) -> None:
        super().__init__(method, coverage=coverage, method_checkpoint=method_checkpoint)

    def class_scores(self, x: NetworkInput, prediction: Prediction) -> Tensor:  # noqa: ARG002, D102
        return 1 - prediction.mean
