r"""Variational inference with a low-rank plus diagonal covariance.

Ong, Nott and Smith, "Gaussian variational approximation with a factor covariance structure", Journal of Computational
and Graphical Statistics, 2018; for neural networks Tomczak, Swaroop and Turner, "Efficient low rank Gaussian
variational inference for neural networks", NeurIPS 2020.

.. math:: q(w) = \mathcal{N}\big(w \mid \mu,\ \mathrm{diag}(\sigma) (I + V V^\top)\, \mathrm{diag}(\sigma)\big), \qquad
    w = \mu + \sigma \odot (\epsilon + V z)

=================== =============================================================
symbol              argument
=================== =============================================================
:math:`w`           all weights of the modules in `stochastic_module_names`
:math:`V`           `rank` columns; they learn at a tenth of the optimizer's rate
:math:`\sigma`      starts at `init_std`
:math:`\mathrm E_q` `num_mc_samples_train` draws by `estimator`
=================== =============================================================
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import nn

from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.variational.base import VariationalArguments, VariationalMethod
from lightning_vi.posteriors import LowRankCoupling


class LowRankVI(VariationalMethod):
    r"""Joint Gaussian posterior of all stochastic weights with low-rank plus diagonal covariance.

    It supports any prior, likelihood and module. The cost of a sample is proportional to `rank` times the number of
    stochastic weights. In training z is sampled once for the batch, while linear layers sample the part
    :math:`\sigma \odot \epsilon` on their outputs for each row (local reparameterization), which lowers the variance of
    the gradient. Other modules, and predictions, sample weights.

    Args:
        backbone: Any network; it is copied, and its weights become posterior means.
        likelihood: The observation model; it is copied.
        rank: Number of columns of V.
        **arguments: The other arguments of `VariationalMethod`. `estimator` must be ``"auto"``,
            ``"local_reparameterization"`` or ``"reparameterization"``.

    Raises:
        ValueError: If `rank` is not positive, the estimator is flipout, or as for `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = LowRankVI(MLP(1, [50], 2), HeteroscedasticGaussian(), rank=4)
        >>> method.coupling.factor.shape
        torch.Size([202, 4])
    """

    coupling_learning_rate = 0.1

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        rank: int = 5,
        **arguments: Unpack[VariationalArguments],
    ) -> None:
        self.rank = rank  # used by make_coupling, which the base constructor calls
        super().__init__(backbone, likelihood, **arguments)

    def make_coupling(self, shapes: Sequence[torch.Size]) -> LowRankCoupling:  # noqa: D102
        return LowRankCoupling(shapes, self.rank)
