r"""Black-box alpha-divergence minimization.

Hernandez-Lobato, Li, Rowland, Bui, Hernandez-Lobato and Turner, "Black-box alpha-divergence minimization", ICML 2016.

.. math:: \mathcal{L}_\alpha = -\frac{1}{\alpha} \sum_n \ln \mathrm{E}_q \Big[ p(y_n \mid f_w(x_n))
    \Big( \frac{p(w)}{q(w)} \Big)^{1 / N} \Big]^\alpha

=================== ==============================================
symbol              argument
=================== ==============================================
:math:`f_w`         `backbone`, `stochastic_module_names`
:math:`p(y | f)`    `likelihood`
:math:`p(w)`        `prior`
:math:`q(w)`        independent Gaussians, std starts at `init_std`
:math:`\alpha`      `alpha`
:math:`N`           `num_data`
:math:`\mathrm E_q` `num_mc_samples_train` draws of all weights
=================== ==============================================
"""

import math
from typing import Unpack

from torch import Tensor, nn

from lightning_vi.core.annealing import late_increase
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.variational.base import VariationalArguments, VariationalMethod
from lightning_vi.objectives import ObjectiveTerms, alpha_divergence_energy
from lightning_vi.sampling import NetworkInput

INCREASE_START = 0.7
"""Share of a fit at which alpha begins to increase by default."""
MIN_ALPHA = 1e-3
"""Smallest alpha of the increase; below it the energy, a difference divided by alpha, has rounding errors."""


class AlphaDivergenceVI(VariationalMethod):
    r"""Mean-field Gaussian posterior that minimizes an alpha-divergence (Hernandez-Lobato et al., 2016).

    The limit :math:`\alpha \to 0` is variational inference, which is mode-seeking. :math:`\alpha = 1` averages
    likelihoods over samples, as expectation propagation does, and is mass-covering.

    By default alpha is 0 for 70% of a fit and then increases linearly. From the start, an alpha above 0 makes
    classifiers learn slowly: where few of the samples fit an example, only they have a gradient, and nothing holds the
    standard deviations of the weights. With `kl_warmup_epochs` given, 0 included, alpha is constant.

    The energy of an example is a log-mean-exp over samples. Where all of them miss a narrow density, the nearest one
    determines the estimate, and its gradient exceeds that of the exact energy by orders of magnitude. A Trainer
    therefore clips the norm of the gradient, as for every variational method. In a loop of your
    own, call `torch.nn.utils.clip_grad_norm_(method.parameters(), 1.0)` before each step; without it, heavy-tailed
    inputs can make training diverge, silently or to losses beyond 1e6.

    Args:
        backbone: Any network; it is copied, and its weights become posterior means.
        likelihood: The observation model; it is copied.
        alpha: :math:`\alpha`, non-negative; 0 is variational inference with a sampled KL divergence.
        **arguments: The other arguments of `VariationalMethod`. `estimator` must be ``"auto"`` or
            ``"reparameterization"``, because the energy needs the density of sampled weights.

    Raises:
        ValueError: If `alpha` is negative or not finite, the estimator samples outputs, or as for `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = AlphaDivergenceVI(MLP(1, [50], 2), HeteroscedasticGaussian(), alpha=0.5, num_data=8)
        >>> method.elbo(torch.zeros(8, 1), torch.zeros(8, 1)).loss.shape
        torch.Size([])
    """

    draws_weights = True
    minimizes_elbo = False

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        alpha: float = 0.5,
        **arguments: Unpack[VariationalArguments],
    ) -> None:
        if not 0 <= alpha < math.inf:
            raise InputValueError(f"alpha must be non-negative and finite, got {alpha}")
        super().__init__(backbone, likelihood, **arguments)
        self.alpha = alpha

    def effective_alpha(self) -> float:
        """Returns alpha in the current step."""
        if self.kl_warmup_epochs is not None:
            return self.alpha
        alpha = self.alpha * late_increase(self._trainer, self.num_burnin_epochs, INCREASE_START)
        return alpha if alpha >= min(self.alpha, MIN_ALPHA) else 0.0

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        num_data = self.require_num_data(num_data)
        outputs, log_ratio, kl = self.engine.weighted_pass(x, self.num_mc_samples_train)
        self.likelihood.check(outputs, target)
        of_rows = weight if weight is not None and weight.dim() == 1 else None
        log_prob = self.likelihood.log_prob(outputs, target, None if of_rows is not None else weight)
        return outputs, alpha_divergence_energy(
            log_prob, log_ratio, kl.detach(), num_data, self.effective_alpha(), kl_weight, of_rows
        )
