r"""Mean-variance estimation: a network that predicts the mean and the noise.

Nix and Weigend, "Estimating the mean and variance of the target probability distribution", ICNN 1994; the weighting by
:math:`\sigma^{2\beta}` is from Seitzer et al., "On the pitfalls of heteroscedastic uncertainty estimation with
probabilistic neural networks", ICLR 2022.

.. math:: \mathcal{L} = -\frac1N \sum_n \lfloor \sigma(x_n)^{2\beta} \rfloor\,
    \ln \mathcal{N}(y_n \mid \mu(x_n), \sigma(x_n)^2)

==============================  ===============================================
symbol                          argument
==============================  ===============================================
:math:`\mu, \sigma`             `backbone`, with `HeteroscedasticGaussian`
:math:`\beta`                   `beta`; the brackets stop the gradient
first epochs on squared error   `burnin_epochs`
==============================  ===============================================
"""

from torch import Tensor, nn

from lightning_vi.arguments import check_instance
from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import HeteroscedasticGaussian, Likelihood
from lightning_vi.methods.deterministic.base import PointMethod


class MeanVarianceEstimation(PointMethod):
    """Heteroscedastic regression with a deterministic network (Nix & Weigend, 1994).

    Args:
        backbone: Any network whose output is twice as wide as the target; it is copied.
        likelihood: The observation model; it is copied.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss, the squared error, so that
            the mean is learned before the noise.
        beta: Exponent of the weighting, in [0, 1]. 0 is the negative log-likelihood; with 1 the gradient of the mean is
            that of the squared error (Seitzer et al., 2022).
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        TypeError: If the likelihood is not heteroscedastic.
        ValueError: If `beta` lies outside [0, 1] or `burnin_epochs` is negative.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> method = MeanVarianceEstimation(MLP(1, [50], 2), HeteroscedasticGaussian(), burnin_epochs=10)
        >>> sorted(method.predict_step(torch.zeros(4, 1)))
        ['aleatoric_uct', 'epistemic_uct', 'pred', 'pred_uct']
    """

    likelihood: HeteroscedasticGaussian

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: HeteroscedasticGaussian,
        *,
        burnin_epochs: int = 0,
        beta: float = 0.0,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        check_instance("likelihood", likelihood, Likelihood)
        if not isinstance(likelihood.unwrapped, HeteroscedasticGaussian):
            raise InputTypeError(f"likelihood must be HeteroscedasticGaussian, got {type(likelihood).__name__}")
        if not 0 <= beta <= 1:
            raise InputValueError(f"beta must lie in [0, 1], got {beta}")
        super().__init__(
            backbone, likelihood, burnin_epochs=burnin_epochs, optimizer=optimizer, lr_scheduler=lr_scheduler
        )
        self.beta = beta

    def loss(self, outputs: Tensor, log_prob: Tensor) -> Tensor:  # noqa: D102
        if self.beta > 0:
            _, std = self.likelihood.standardized_moments(outputs)
            log_prob = log_prob * std.detach() ** (2 * self.beta)
        return super().loss(outputs, log_prob)
