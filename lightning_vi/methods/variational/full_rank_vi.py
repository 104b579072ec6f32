r"""Variational inference with a full covariance matrix.

Opper and Archambeau, "The variational Gaussian approximation revisited", Neural Computation, 2009; Kucukelbir, Tran,
Ranganath, Gelman and Blei, "Automatic differentiation variational inference", JMLR, 2017.

.. math:: q(w) = \mathcal{N}(w \mid \mu, L L^\top), \qquad L = \mathrm{diag}(\sigma) (I + N), \qquad
    w = \mu + L \epsilon

=================== ====================================================
symbol              argument
=================== ====================================================
:math:`w`           all weights of the modules in `stochastic_module_names`
:math:`N`           strictly lower triangular, starts at zero
:math:`\sigma`      starts at `init_std`
:math:`\mathrm E_q` `num_mc_samples_train` draws of all weights
=================== ====================================================
"""

from collections.abc import Sequence
from typing import Unpack

import torch
from torch import nn

from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.variational.base import VariationalArguments, VariationalMethod
from lightning_vi.posteriors import FullRankCoupling


class FullRankVI(VariationalMethod):
    """One Gaussian posterior with any covariance for all stochastic weights, for small networks and for heads.

    Any prior, any likelihood and any module can be had. Memory and cost grow with the square of the number of
    stochastic weights.

    Args:
        backbone: Any network; it is copied, and its weights become posterior means.
        likelihood: The observation model; it is copied.
        max_mebibytes: The most memory for the matrix; the optimizer and the gradient need several times that.
        **arguments: The other arguments of `VariationalMethod`. ``estimator`` is ``"auto"`` or
            ``"reparameterization"``, because all weights are drawn together.

    Raises:
        ValueError: If the matrix needs more memory, the estimator draws outputs, or as for `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = FullRankVI(MLP(1, [50], 1), Gaussian(), stochastic_module_names=[-1])
        >>> method.coupling.lower.shape
        torch.Size([51, 51])
    """

    draws_weights = True
    coupling_learning_rate = 0.1

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        max_mebibytes: float = 256.0,
        **arguments: Unpack[VariationalArguments],
    ) -> None:
        self.max_mebibytes = max_mebibytes
        super().__init__(backbone, likelihood, **arguments)

    def make_coupling(self, shapes: Sequence[torch.Size]) -> FullRankCoupling:  # noqa: D102
        return FullRankCoupling(shapes, self.max_mebibytes)
