r"""Laplace's approximation with a linearised predictive.

MacKay, "A practical Bayesian framework for backpropagation networks", Neural Computation 1992; Ritter, Botev and
Barber, "A scalable Laplace approximation for neural networks", ICLR 2018; Immer, Korzepa and Bauer, "Improving
predictions of Bayesian neural nets via local linearization", AISTATS 2021; Daxberger et al., "Laplace redux", NeurIPS
2021.

.. math:: q(w) = \mathcal{N}\Big(w^*, \Big(\sum_n J_n^\top \Lambda_n J_n + s^{-2} I\Big)^{-1}\Big), \qquad
    f(x) \sim \mathcal{N}\big(f_{w^*}(x), J(x) \Sigma J(x)^\top\big)

=================== ============================================================
symbol              argument
=================== ============================================================
:math:`w`           weights of `stochastic_module_names`; the rest are points
:math:`w^*`         the trained weights
:math:`J`           Jacobian of the network's outputs
:math:`\Lambda_n`   Fisher information of the likelihood at the outputs of n
:math:`\sum_n`      `structure`: whole, a block for each output, a Kronecker
                    product for each layer, or diagonal
:math:`s`           `prior_std`
=================== ============================================================
"""

from collections.abc import Sequence

from torch import nn

from lightning_vi.conversion import ModuleSelector
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.laplace_method import LaplaceMethod, Predictive, PriorStd, Structure
from lightning_vi.methods.optimizers import LRSchedulerFactory, OptimizerFactory, default_optimizer


class Laplace(LaplaceMethod):
    r"""A deterministic network with a Gaussian around its trained weights.

    Training is that of `Deterministic`; one more pass over the training data at the end measures the curvature. For a
    network that is trained already, call `fit_posterior` with a dataloader.

    With `Gaussian` noise the predictive is closed form. Classes are predicted by the probit approximation, logits
    divided by :math:`\sqrt{1 + \pi v / 8}`, both without what all logits share; samples of the linearised network say
    which share of their entropy is epistemic. Everything else is a mixture over samples of the linearised network.

    Args:
        backbone: Any network; it is copied.
        likelihood: The observation model; it is copied.
        stochastic_module_names: Modules with a posterior, by name, glob, index, class or predicate: the last layer by
            default, None for all. Frozen weights have none.
        structure: ``"full"``; ``"per_output"``, one block for the weights behind each output of a layer, which in a
            last layer leaves nothing out for `Gaussian` and `HeteroscedasticGaussian`; ``"kronecker"``, for linear
            layers and convolutions; or ``"diagonal"``.
        prior_std: Prior standard deviation s of each weight with a posterior. A number belongs to the training too, as
            the penalty :math:`\lVert w \rVert^2 / 2 s^2 N`. With ``"marginal_likelihood"`` training goes without it,
            and s is chosen at the end, so that the evidence is largest.
        predictive: ``"probit"`` or ``"sampling"``, for classification.
        max_mebibytes: The largest size of the matrices of the first two structures.
        num_mc_samples_test: Samples for prediction where it has no closed form.
        burnin_epochs: Epochs on the likelihood's point loss.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

    Raises:
        ValueError: If an option is unknown, a number is out of range, or the modules do not fit the structure.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = Laplace(MLP(1, [50], 1), Gaussian(noise_std=0.5), prior_std=1.0)
        >>> method.fit_posterior([(torch.randn(20, 1), torch.randn(20, 1))])
        >>> method.predict(torch.zeros(8, 1)).epistemic_var.shape
        torch.Size([8, 1])
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        stochastic_module_names: Sequence[ModuleSelector] | None = (-1,),
        structure: Structure = "kronecker",
        prior_std: PriorStd = "marginal_likelihood",
        predictive: Predictive = "probit",
        max_mebibytes: float = 256.0,
        num_mc_samples_test: int = 50,
        burnin_epochs: int = 0,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        super().__init__(
            backbone,
            likelihood,
            stochastic_module_names=stochastic_module_names,
            structure=structure,
            prior_std=prior_std,
            predictive=predictive,
            max_mebibytes=max_mebibytes,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
