r"""Deterministic network, trained by maximum likelihood, without epistemic uncertainty.

.. math:: \mathcal{L} = -\frac1N \sum_n \ln p(y_n \mid f_w(x_n))

With weight decay in the optimizer it is the maximum a posteriori estimate.
"""

from torch import nn

from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.deterministic.base import PointMethod


class Deterministic(PointMethod):
    """Deterministic network, trained by maximum likelihood: the baseline for all other methods.

    Args:
        backbone: Any network; it is copied.
        likelihood: The observation model; it is copied.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Categorical
        >>> method = Deterministic(MLP(2, [16], 3), Categorical(num_classes=3))
        >>> method.predict_step(torch.zeros(4, 2))["epistemic_uct"]
        tensor([0., 0., 0., 0.])
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        super().__init__(backbone, likelihood, burnin_epochs=0, optimizer=optimizer, lr_scheduler=lr_scheduler)
