r"""Mean-field variational inference, known as Bayes by Backprop.

Blundell, Cornebise, Kavukcuoglu and Wierstra, "Weight uncertainty in neural networks", ICML 2015.

.. math:: q(w) = \prod_i \mathcal{N}(w_i \mid \mu_i, \sigma_i^2), \qquad
    \mathcal{L} = -\frac1N \sum_n \mathrm{E}_q[\ln p(y_n \mid f_w(x_n))] + \frac{\beta}{N} \mathrm{KL}[q \| p]

==================  ============================================
symbol              argument
==================  ============================================
:math:`f_w`         `backbone`, `stochastic_module_names`
:math:`p(y | f)`    `likelihood`
:math:`p(w)`        `prior`
:math:`\sigma_i`    starts at `init_std`
:math:`\beta`       `kl_weight`, grows over `kl_warmup_epochs`
:math:`N`           `num_data`
:math:`\mathrm E_q` `num_mc_samples_train` draws by `estimator`
==================  ============================================
"""

from collections.abc import Sequence

from torch import nn

from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.optimizers import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.methods.variational import VariationalMethod
from lightning_vi.priors import Prior


class MeanFieldVI(VariationalMethod):
    """Independent Gaussian posteriors for the weights of any network (Blundell et al., 2015).

    Args:
        backbone: Any network; it is copied, and its weights become posterior means.
        likelihood: The observation model; it is copied.
        stochastic_module_names: Names, globs or indices of the stochastic modules; None for every layer that can be
            converted.
        prior: The prior of each weight and bias; the standard Gaussian by default.
        estimator: ``"auto"``, ``"reparameterization"``, ``"local_reparameterization"`` or ``"flipout"``.
        init_std: Initial posterior standard deviation.
        num_mc_samples_train: Samples in each training step.
        num_mc_samples_test: Samples for validation, test and prediction.
        burnin_epochs: Epochs on posterior means and the likelihood's point loss, without sampling or KL.
        kl_weight: Weight of the KL divergence; 1 is the evidence lower bound.
        kl_warmup_epochs: Epochs after burn-in over which the weight grows linearly from near 0.
        num_data: Size of the training set; by default the training dataloader tells.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

    Raises:
        ValueError: If a count or weight is out of range, the estimator is unknown, or a name selects nothing.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import HeteroscedasticGaussian
        >>> method = MeanFieldVI(MLP(1, [50, 50], 2), HeteroscedasticGaussian(), num_mc_samples_train=10)
        >>> prediction = method.predict(torch.zeros(8, 1))
        >>> prediction.mean.shape, prediction.epistemic_var.shape
        (torch.Size([8, 1]), torch.Size([8, 1]))
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        stochastic_module_names: Sequence[str | int] | None = None,
        prior: Prior | None = None,
        estimator: str = "auto",
        init_std: float = 0.05,
        num_mc_samples_train: int = 10,
        num_mc_samples_test: int = 50,
        burnin_epochs: int = 0,
        kl_weight: float = 1.0,
        kl_warmup_epochs: int = 0,
        num_data: int | None = None,
        optimizer: OptimizerFactory = default_optimizer,
        lr_scheduler: LRSchedulerFactory | None = None,
    ) -> None:
        super().__init__(
            backbone,
            likelihood,
            stochastic_module_names=stochastic_module_names,
            prior=prior,
            estimator=estimator,
            init_std=init_std,
            num_mc_samples_train=num_mc_samples_train,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            kl_weight=kl_weight,
            kl_warmup_epochs=kl_warmup_epochs,
            num_data=num_data,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
