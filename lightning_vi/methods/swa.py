r"""Stochastic weight averaging.

Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, "Averaging weights leads to wider optima and better generalization",
UAI 2018.

.. math:: \bar w = \frac1T \sum_{i=1}^T w_i

=================================== =====================================
symbol                              argument
=================================== =====================================
:math:`w_i`                         the weights at the ends of cycles
first cycle                         `start_epoch`
length c of a cycle                 `snapshot_every`, in epochs
:math:`\alpha_1, \alpha_2`          `averaging_lr`
statistics of batch normalisation   on `batch_norm_rows` training inputs
=================================== =====================================
"""

from torch import nn

from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.averaging_schedule import AveragingRate
from lightning_vi.methods.optimizers import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.methods.weight_averaging import WeightAveragingMethod


class SWA(WeightAveragingMethod):
    """A plain network with the mean of the weights that the end of training passed through; no epistemic uncertainty.

    Args:
        backbone: As for `WeightAveragingMethod`.
        likelihood: The observation model; it is copied.
        start_epoch: As for `WeightAveragingMethod`.
        snapshot_every: As for `WeightAveragingMethod`.
        averaging_lr: As for `WeightAveragingMethod`.
        batch_norm_rows: As for `WeightAveragingMethod`.
        burnin_epochs: Epochs on the likelihood's point loss.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

    Raises:
        ValueError: As for `WeightAveragingMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = SWA(nn.Linear(1, 1, bias=False), Gaussian(0.5))
        >>> for weight in (1.0, 2.0, 6.0):
        ...     _ = nn.init.constant_(method.backbone.weight, weight)
        ...     method.collect()
        >>> method.predict(torch.ones(1, 1)).mean
        tensor([[3.]])
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        start_epoch: int | float = 0.5,
        snapshot_every: int = 1,
        averaging_lr: AveragingRate = None,
        batch_norm_rows: int = 1024,
        burnin_epochs: int = 0,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        super().__init__(
            backbone,
            likelihood,
            start_epoch=start_epoch,
            snapshot_every=snapshot_every,
            averaging_lr=averaging_lr,
            batch_norm_rows=batch_norm_rows,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
