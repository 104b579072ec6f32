r"""Dirichlet calibration of any method's class probabilities.

Kull, Perello-Nieto, Kängsepp, Silva Filho, Song and Flach, "Beyond temperature scaling: Obtaining well-calibrated
multiclass probabilities with Dirichlet calibration", NeurIPS 2019.

.. math:: p_{W, b}(y = c \mid x) = \mathrm{softmax}\big(W \ln \bar p(x) + b\big)_c, \qquad
    W, b = \arg\min -\frac1N \sum_n \ln p_{W, b}(y_n \mid x_n)
    + \frac{\lambda}{C (C - 1)} \sum_{i \ne j} W_{ij}^2 + \frac{\mu}{C} \sum_i b_i^2

=====================  ====================================================
symbol                 argument
=====================  ====================================================
:math:`\bar p`         `method`, averaged over its samples
:math:`n`              the N calibration data
:math:`\lambda`        `off_diagonal_penalty`
:math:`\mu`            `intercept_penalty`
:math:`W, b`           `weight` and `bias`, the results, for C classes
=====================  ====================================================
"""

import math

import torch
from torch import Tensor

from lightning_vi.calibration.class_scaling import ClassScaling
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputValueError
from lightning_vi.functional.class_maps import fit_linear_map


class DirichletScaling(ClassScaling):
    r"""A linear map of the log-probabilities of all classes, with ODIR regularization (Kull et al., 2019).

    The calibrated probabilities are exact if the predicted ones have a Dirichlet distribution within each class. The
    map has C (C + 1) parameters; the penalties of the off-diagonal elements and the intercepts (ODIR) draw it towards
    scaling each class by itself, and matter where classes are many or calibration data few. The paper chooses them by
    cross-validation between 1e-7 and 1e3. The most probable class may change. Epistemic shares and samples are treated
    as in `TemperatureScaling`.

    Args:
        method: The fitted method; it is copied. Its likelihood is for classification.
        off_diagonal_penalty: :math:`\lambda`, the weight of the squares of the off-diagonal elements of W.
        intercept_penalty: :math:`\mu`, the weight of the squares of b.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for regression.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If a penalty is negative, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Categorical
        >>> x, y = 3 * torch.eye(2).repeat(5, 1), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
        >>> calibrated = DirichletScaling(Deterministic(torch.nn.Identity(), Categorical(2)), intercept_penalty=0.0)
        >>> calibrated.calibrate([(x, y)])
        >>> round(float(calibrated.predict_step(x[:1])["pred"][0, 0]), 2)  # four of five labels are 0
        0.8
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        method: Predictor,
        *,
        off_diagonal_penalty: float = 0.01,
        intercept_penalty: float = 0.01,
        method_checkpoint: str | None = None,
    ) -> None:
        for name, value in (("off_diagonal_penalty", off_diagonal_penalty), ("intercept_penalty", intercept_penalty)):
            if not 0 <= value < math.inf:
                raise InputValueError(f"{name} must be non-negative and finite, got {value!r}")
        super().__init__(method, method_checkpoint=method_checkpoint)
        self.off_diagonal_penalty = off_diagonal_penalty
        self.intercept_penalty = intercept_penalty
        num_classes = self.likelihood.num_predictions
        self.register_buffer("weight", torch.eye(num_classes))
        self.register_buffer("bias", torch.zeros(num_classes))

    def fit_map(self, log_probs: Tensor, labels: Tensor) -> None:  # noqa: D102
        weight, bias = fit_linear_map(
            log_probs,
            labels,
            diagonal=False,
            off_diagonal_penalty=self.off_diagonal_penalty,
            intercept_penalty=self.intercept_penalty,
        )
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def recalibrate(self, log_probs: Tensor) -> Tensor:  # noqa: D102
        return (log_probs @ self.weight.to(log_probs.dtype).T + self.bias.to(log_probs.dtype)).log_softmax(-1)
