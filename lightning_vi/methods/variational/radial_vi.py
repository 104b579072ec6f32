r"""Variational inference with radial posteriors.

Farquhar, Osborne and Gal, "Radial Bayesian neural networks: beyond discrete support in large-scale Bayesian deep
learning", AISTATS 2020.

.. math:: w = \mu + \sigma \odot \frac{\epsilon}{\|\epsilon\|}\, |r|, \qquad
    \epsilon \sim \mathcal{N}(0, I), \quad r \sim \mathcal{N}(0, 1)

=================== ==========================================================
symbol              argument
=================== ==========================================================
:math:`w`           each parameter tensor has an r of its own
:math:`D`           the tensor's size; its root makes sigma a standard deviation
:math:`\sigma`      starts at `init_std`
:math:`\mathrm E_q` `num_mc_samples_train` draws of all weights
=================== ==========================================================
"""

from collections.abc import Sequence

import torch

from lightning_vi.methods.variational.base import VariationalMethod
from lightning_vi.posteriors import RadialCoupling


class RadialVI(VariationalMethod):
    """Posteriors that put much of their mass near the mean, and none of it on a distant shell (Farquhar et al., 2020).

    The arguments are those of `VariationalMethod`. ``estimator`` is ``"auto"`` or ``"reparameterization"``, because a
    tensor's elements are drawn together. ``prior`` is a `GaussianPrior` or an `EmpiricalBayesPrior`, from which the
    divergence has a closed form.

    Raises:
        ValueError: If a prior has another shape, the estimator draws outputs, or as for `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = RadialVI(MLP(1, [50], 2), HeteroscedasticGaussian(), num_data=8)
        >>> method.elbo(torch.zeros(8, 1), torch.zeros(8, 1)).kl.shape
        torch.Size([])
    """

    draws_weights = True

    def make_coupling(self, shapes: Sequence[torch.Size]) -> RadialCoupling:  # noqa: D102
        return RadialCoupling(shapes)
