r"""Variational inference over the last layer alone.

A deterministic network :math:`\phi` gives features, and the layer behind it is Bayesian. With Gaussian noise the
predictive distribution has a closed form,

.. math:: f(x) \sim \mathcal{N}\big(\phi(x) \mu^\top,\ \phi(x)^2 (\sigma^2)^\top\big), \qquad
    y \sim \mathcal{N}\big(\mathrm{E}[f], \mathrm{Var}[f] + \sigma_y^2\big),

and nothing is sampled; otherwise the features are computed once for all samples. See Snoek et al., "Scalable Bayesian
optimization using deep neural networks", ICML 2015, for the idea and Blundell et al., ICML 2015, for the posterior.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from lightning_vi.likelihoods import Gaussian, Likelihood, Prediction
from lightning_vi.methods.optimizers import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.methods.variational import VariationalMethod
from lightning_vi.priors import Prior


class LastLayerVI(VariationalMethod):
    """A deterministic network with a variational last layer.

    The last layer may be linear on features [B, ..., F] or a convolution; all leading and spatial dimensions are kept.

    Args:
        backbone: Any network; it is copied, and the weights of its last layer become posterior means.
        likelihood: The observation model; it is copied.
        stochastic_module_names: The last layer's name, glob or index; by default the last layer with parameters.
        prior: The prior of the last layer's weight and bias; the standard Gaussian by default.
        estimator: ``"auto"``, ``"reparameterization"``, ``"local_reparameterization"`` or ``"flipout"``.
        init_std: Initial posterior standard deviation.
        num_mc_samples_train: Samples in each training step.
        num_mc_samples_test: Samples for validation, test and prediction; not used where the predictive is exact.
        burnin_epochs: Epochs on posterior means and the likelihood's point loss, without sampling or KL.
        kl_weight: Weight of the KL divergence; 1 is the evidence lower bound.
        kl_warmup_epochs: Epochs after burn-in over which the weight grows linearly from near 0.
        num_data: Size of the training set; by default the training dataloader tells.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

    Raises:
        ValueError: If more than one layer is selected, a count or weight is out of range, or the estimator is unknown.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> method = LastLayerVI(MLP(1, [50, 50], 1), Gaussian())
        >>> print(method.conversion)
        module  kind    parameters  stochastic  estimator                 why
        0       Linear  100         no          -                         not selected
        2       Linear  2550        no          -                         not selected
        4       Linear  51          yes         local_reparameterization  selected
        >>> method.predict(torch.zeros(8, 1)).metadata["num_samples"] is None  # closed form
        True
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
            stochastic_module_names=[-1] if stochastic_module_names is None else stochastic_module_names,
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
        if len(self.engine.layers) != 1:
            raise ValueError(
                f"stochastic_module_names={stochastic_module_names!r} must select one layer, the last, but selects "
                f"{len(self.engine.layers)}:\n{self.conversion}"
            )

    def _exact_output(self, x: Tensor) -> tuple[Gaussian, Tensor, Tensor] | None:
        """The likelihood and the moments of the network's output, where they determine the predictive."""
        if not isinstance(self.likelihood, Gaussian):
            return None
        moments = self.engine.output_moments(x)
        return None if moments is None else (self.likelihood, *moments)

    def _predict(self, x: Tensor, num_samples: int, seed: int, return_samples: bool) -> Prediction:
        exact = None if return_samples else self._exact_output(x)
        if exact is None:
            return super()._predict(x, num_samples, seed, return_samples)
        likelihood, mean, std = exact
        return likelihood.exact_prediction(mean, std, metadata=self._metadata(None, None))

    def _metric_inputs(self, x: Tensor, target: Tensor) -> dict[str, Tensor]:
        exact = self._exact_output(x)
        if exact is None:
            return super()._metric_inputs(x, target)
        likelihood, mean, std = exact
        likelihood.check(mean.unsqueeze(0), target)
        return likelihood.exact_metric_inputs(mean, std, target)
