r"""Isotonic scaling of any method's class probabilities.

Zadrozny and Elkan, "Transforming classifier scores into accurate multiclass probability estimates", KDD 2002.

.. math:: p(y = c \mid x) = \frac{g_c(\bar p_c(x))}{\sum_k g_k(\bar p_k(x))}, \qquad
    g_c = \arg\min_{g \text{ non-decreasing}} \sum_n \big(g(\bar p_c(x_n)) - 1\{y_n = c\}\big)^2

=====================  ====================================================
symbol                 argument
=====================  ====================================================
:math:`\bar p`         `method`, averaged over its samples
:math:`n`              the N calibration data
:math:`g_c`            `knots` and `values`, the results, for each class
=====================  ====================================================
"""

import torch
from torch import Tensor

from lightning_vi.calibration.class_scaling import ClassScaling
from lightning_vi.core.predictor import Predictor
from lightning_vi.functional.class_maps import fit_isotonic, interpolate

NUM_KNOTS = 512


class IsotonicScaling(ClassScaling):
    r"""A non-decreasing function of the probability of each class, one against the rest, normalized.

    It has no parametric form and needs some hundreds of calibration data for each class; with few data it overfits.
    Frequencies of 0 and 1 are bounded by 1 / (2 N + 2) and its complement, so that no class is excluded and the
    negative log-likelihood stays finite. The functions are linear between at most 512 knots. The most probable class
    may change. Epistemic shares and samples are treated as in `TemperatureScaling`.

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
        >>> x, y = 3 * torch.eye(2).repeat(5, 1), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1, 0])
        >>> calibrated = IsotonicScaling(Deterministic(torch.nn.Identity(), Categorical(2)))
        >>> calibrated.calibrate([(x, y)])
        >>> calibrated.predict_step(x[:1])["pred"]  # four of five labels are 0
        tensor([[0.8000, 0.2000]])
    """

    knots: Tensor
    values: Tensor

    def __init__(self, method: Predictor, *, method_checkpoint: str | None = None) -> None:
        super().__init__(method, method_checkpoint=method_checkpoint)
        line = torch.linspace(0, 1, NUM_KNOTS).repeat(self.likelihood.num_predictions, 1)
        self.register_buffer("knots", line)
        self.register_buffer("values", line.clone())

    def fit_map(self, log_probs: Tensor, labels: Tensor) -> None:  # noqa: D102
        smallest = 1 / (2 * len(labels) + 2)
        for index, probs in enumerate(log_probs.exp().T):
            knots, values = fit_isotonic(probs, (labels == index).double(), NUM_KNOTS)
            self.knots[index] = knots
            self.values[index] = values.clamp(smallest, 1 - smallest)

    def recalibrate(self, log_probs: Tensor) -> Tensor:  # noqa: D102
        pairs = zip(log_probs.exp().unbind(-1), self.knots, self.values, strict=True)
        probs = [interpolate(p, knots.to(p.dtype), values.to(p.dtype)) for p, knots, values in pairs]
        logs = torch.stack(probs, -1).clamp_min(torch.finfo(log_probs.dtype).tiny).log()
        return logs.log_softmax(-1)
