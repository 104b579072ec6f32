r"""Variational inference over the last layer only.

A deterministic network :math:`\phi` computes features, and the layer after it is Bayesian. With Gaussian noise the
predictive distribution has a closed form,

.. math:: f(x) \sim \mathcal{N}\big(\phi(x) \mu^\top,\ \phi(x)^2 (\sigma^2)^\top\big), \qquad
    y \sim \mathcal{N}\big(\mathrm{E}[f], \mathrm{Var}[f] + \sigma_y^2\big),

and nothing is sampled; otherwise the features are computed once for all samples. In training they have one dropout
mask per step, which all samples share: the gradient is unbiased for the mean over masks and weights. See Snoek et al.,
"Scalable Bayesian optimization using deep neural networks", ICML 2015, for the idea and Blundell et al., ICML 2015, for
the posterior.
"""

from collections.abc import Sequence
from typing import Unpack

from torch import Tensor, nn

from lightning_vi.conversion import ModuleSelector
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.variational.base import VariationalMethod, VariationalOptions
from lightning_vi.sampling import NetworkInput


class LastLayerVI(VariationalMethod):
    """A deterministic network with a variational last layer.

    The last layer may be linear on features [B, ..., F] or a convolution; all leading and spatial dimensions are kept.

    Args:
        backbone: Any network; it is copied, and the weights of its last layer become posterior means.
        likelihood: The observation model; it is copied.
        stochastic_module_names: The last layer by name, glob, index, class or predicate; by default the one that is
            called last, not counting normalizations.
        **arguments: The other arguments of `VariationalMethod`. `num_mc_samples_test` has no effect if the predictive
            distribution has a closed form.

    Raises:
        ValueError: If more than one layer is selected, a count or weight is out of range, or the estimator is unknown.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = LastLayerVI(MLP(1, [50, 50], 1), Gaussian())
        >>> print(method.conversion)
        module  kind    parameters  stochastic  estimator                 why
        0       Linear  100         no          -                         not selected
        2       Linear  2550        no          -                         not selected
        4       Linear  51          yes         local_reparameterization  selected
        total           2701        51
        >>> method.predict(torch.zeros(8, 1)).metadata["num_samples"] is None  # closed form
        True
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        stochastic_module_names: Sequence[ModuleSelector] = (-1,),
        **arguments: Unpack[VariationalOptions],
    ) -> None:
        super().__init__(backbone, likelihood, stochastic_module_names=stochastic_module_names, **arguments)
        if len(self.engine.modules) != 1:
            raise InputValueError(
                f"stochastic_module_names={stochastic_module_names!r} must select one layer, the last, but selects "
                f"{len(self.engine.modules)}:\n{self.conversion}"
            )
        self.engine.shares_dropout = True

    def output_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor] | None:  # noqa: D102
        return self.engine.output_moments(x)
