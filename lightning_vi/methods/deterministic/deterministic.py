r"""A plain network: maximum likelihood, with no epistemic uncertainty.

.. math:: \mathcal{L} = -\frac1N \sum_n \ln p(y_n \mid f_w(x_n))

Weight decay in the optimizer makes it a maximum a posteriori estimate.
"""

from torch import nn

from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.deterministic.base import PointMethod


class Deterministic(PointMethod):
    """A plain network, trained by maximum likelihood: the baseline that every other method has to beat.

    Args:
        backbone: Any network; it is copied.
        likelihood: The observation model; it is copied.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

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
