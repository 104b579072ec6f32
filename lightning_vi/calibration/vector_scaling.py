r"""Vector scaling of any method's class probabilities.

Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017, section 4.2, on the predictive
distribution of a method that averages over samples.

.. math:: p_{w, b}(y = c \mid x) = \mathrm{softmax}\big(w \odot \ln \bar p(x) + b\big)_c, \qquad
    w, b = \arg\max \sum_n \ln p_{w, b}(y_n \mid x_n)

=====================  ====================================================
symbol                 argument
=====================  ====================================================
:math:`\bar p`         `method`, averaged over its samples
:math:`n`              the calibration data
:math:`w, b`           `weight` and `bias`, the results, one for each class
=====================  ====================================================
"""

import torch
from torch import Tensor

from lightning_vi.calibration.class_scaling import ClassScaling
from lightning_vi.core.predictor import Predictor
from lightning_vi.functional.class_maps import fit_linear_map


class VectorScaling(ClassScaling):
    r"""A factor and an offset for the log-probability of each class (Guo et al., 2017).

    It corrects classes that are predicted too often or with too much confidence, where `TemperatureScaling` has the
    same temperature for all. The most probable class may change. It needs more calibration data: some tens for each
    class. Epistemic shares and samples are treated as in `TemperatureScaling`.

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
        >>> x, y = 3 * torch.eye(2).repeat(5, 1), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1, 1, 1])
        >>> calibrated = VectorScaling(Deterministic(torch.nn.Identity(), Categorical(2)))
        >>> calibrated.calibrate([(x, y)])
        >>> round(float(calibrated.predict_step(x[:1])["pred"][0, 0]), 3)  # four of five labels are 0
        0.8
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, method: Predictor, *, method_checkpoint: str | None = None) -> None:
        super().__init__(method, method_checkpoint=method_checkpoint)
        num_classes = self.likelihood.num_predictions
        self.register_buffer("weight", torch.ones(num_classes))
        self.register_buffer("bias", torch.zeros(num_classes))

    def fit_map(self, log_probs: Tensor, labels: Tensor) -> None:  # noqa: D102
        weight, bias = fit_linear_map(log_probs, labels, diagonal=True)
        self.weight.copy_(weight.diagonal())
        self.bias.copy_(bias)

    def recalibrate(self, log_probs: Tensor) -> Tensor:  # noqa: D102
        return (self.weight.to(log_probs.dtype) * log_probs + self.bias.to(log_probs.dtype)).log_softmax(-1)
