r"""Variational inference with radial posteriors.

Farquhar, Osborne and Gal, "Radial Bayesian neural networks: beyond discrete support in large-scale Bayesian deep
learning", AISTATS 2020.

.. math:: w = \mu + \sqrt{D}\, \sigma \odot \frac{\epsilon}{\|\epsilon\|}\, |r|, \qquad
    \epsilon \sim \mathcal{N}(0, I), \quad r \sim \mathcal{N}(0, 1)

The paper has no :math:`\sqrt D`. It changes the parameter, not the family of posteriors: the paper's scale is
:math:`\sqrt D\, \sigma`. With it, :math:`\sigma` is the standard deviation of a weight for tensors of any size.

=================== ==========================================================
symbol              argument
=================== ==========================================================
:math:`w`           each parameter tensor has a separate r
:math:`D`           number of elements of the tensor
:math:`\sigma`      starts at `init_std`
:math:`\mathrm E_q` `num_mc_samples_train` draws of all weights
=================== ==========================================================
"""

from collections.abc import Sequence

import torch

from lightning_vi.methods.variational.base import VariationalMethod
from lightning_vi.posteriors import RadialCoupling


class RadialVI(VariationalMethod):
    """Radial posterior over the weights of any network (Farquhar et al., 2020).

    In high dimensions the mass of a Gaussian lies on a shell far from its mean. A radial posterior has most of its mass
    near the mean instead.

    The arguments are those of `VariationalMethod`. `estimator` must be ``"auto"`` or ``"reparameterization"``, because
    the elements of a tensor are sampled jointly. `prior` must be a `GaussianPrior` or an `EmpiricalBayesPrior`, for
    which the KL divergence has a closed form.

    Raises:
        ValueError: If the KL divergence has no closed form, the estimator samples outputs, or as for
            `VariationalMethod`.

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
