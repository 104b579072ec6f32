r"""Top-k prediction sets: the same number of most probable classes for every input.

Angelopoulos, Bates, Jordan and Malik, "Uncertainty sets for image classifiers using conformal prediction", ICLR 2021,
section 3, as a baseline.

.. math:: C(x) = \{c : r(x, c) - u \le q\}

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`r`              rank of a class among the probabilities of `method`; 1 is the largest
:math:`u`              `randomised`: a number between 0 and 1 for each x, or 0
:math:`q`              `quantile`, the result: the :math:`\lceil (n + 1)\,` `coverage`
                       :math:`\rceil`-th smallest score of n calibration data
=====================  ====================================================================
"""

import torch
from torch import Tensor

from lightning_vi.calibration.conformal_sets import ConformalSets, uniforms_of
from lightning_vi.core.predictor import Predictor
from lightning_vi.likelihoods import Prediction
from lightning_vi.sampling import NetworkInput


class TopKSets(ConformalSets):
    r"""Sets of the k most probable classes that contain the label with probability at least `coverage`.

    k is the smallest number that is large enough on the calibration data. The sets do not adapt to the input: they are
    a baseline, and a guide to how long a list of suggestions has to be. The coverage is higher than `coverage`, because
    k is a whole number; with `randomised`, sets have k - 1 or k classes by a hash of the input, and the coverage is
    nearly exact. Predictions have the set in `pred_set`, a boolean for each class, shape [B, C, ...]. Ties of
    probabilities are ordered by class index.

    See `ConformalMethod` for the guarantee and its conditions. With fewer than coverage / (1 - coverage) calibration
    data each set contains all classes, and a warning is issued.

    Args:
        method: The fitted method; it is copied. Its likelihood is for classification.
        coverage: Probability of coverage, strictly between 0 and 1.
        randomised: Whether u is a hash of the input instead of 0.
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
        >>> sets = TopKSets(Deterministic(torch.nn.Identity(), Categorical(3)), coverage=0.5)
        >>> sets.calibrate([(logits.expand(3, 3), torch.tensor([0, 1, 1]))])
        >>> sets.predict_step(logits)["pred_set"]
        tensor([[ True,  True, False]])
    """

    def __init__(
        self,
        method: Predictor,
        *,
        coverage: float = 0.9,
        randomised: bool = False,
        method_checkpoint: str | None = None,
    ) -> None:
        super().__init__(method, coverage=coverage, method_checkpoint=method_checkpoint)
        self.randomised = randomised

    def class_scores(self, x: NetworkInput, prediction: Prediction) -> Tensor:  # noqa: D102
        probs = prediction.mean.to(torch.promote_types(prediction.mean.dtype, torch.float32))
        order = probs.argsort(dim=1, descending=True, stable=True)
        ranks = torch.arange(1, probs.shape[1] + 1, device=probs.device, dtype=probs.dtype)
        ranks = ranks.view(-1, *[1] * (probs.dim() - 2)).expand_as(probs)
        scores = torch.empty_like(probs).scatter_(1, order, ranks)
        return scores - uniforms_of(x, probs) if self.randomised else scores
