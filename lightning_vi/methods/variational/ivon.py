r"""Improved variational online Newton (IVON).

Shen, Daheim, Cong, Nickl, Marconi, Bazan, Yokota, Gurevych, Cremers, Khan and Moellenhoff, "Variational learning is
effective for large deep networks", ICML 2024.

.. math:: q(w) = \mathcal{N}\Big(w \mid m, \frac{1}{\lambda (h + \delta)}\Big), \qquad
    p(w) = \mathcal{N}\Big(0, \frac{1}{\lambda \delta}\Big), \qquad
    \hat h = \frac{1}{\sigma} \frac{\partial}{\partial \sigma} \mathrm{E}_q[\ell]

=================== ==================================================
symbol              argument
=================== ==================================================
:math:`\ell`        mean negative log-likelihood of a batch
:math:`\lambda`     `num_data` over `kl_weight`
:math:`\delta`      `weight_decay`
:math:`h`           starts at `hess_init`
:math:`\xi`         `clip_radius`
:math:`\mathrm E_q` `num_mc_samples_train` draws by `estimator`
=================== ==================================================

The update of m and h is that of `lightning_vi.optim.PosteriorIVON`. Options that are None depend on :math:`\lambda` and
on the number of steps T: the prior has a standard deviation of 1, the posterior starts with one of 0.0067, the start of
h counts by :math:`e^{-4}` at the end of the fit, and a step moves a weight by at most s, which is smaller where a unit
has many inputs, but lets weights move in a short fit. With the largest number F of inputs

.. math:: \delta = \frac1\lambda, \qquad h_0 = \frac{1}{\lambda\, 0.0067^2}, \qquad \beta_2 = 1 - \frac{4}{T}, \qquad
    \xi = \frac{s}{\mathrm{lr}\,(h_0 + \delta)}, \qquad s = \min\Big(0.02, \max\Big(\frac1F, \frac{1.25}T\Big)\Big).

The learning rate is 1 for likelihoods with a bounded gradient, such as `Categorical`; for others

.. math:: \mathrm{lr} = \min\Big(0.3,\ 0.4 \frac{N}{T}\Big).
"""

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_vi.arguments import check_positive
from lightning_vi.conversion import ModuleSelector
from lightning_vi.core import LRSchedulerFactory
from lightning_vi.diagnostics import WeightPosterior, weight_posteriors
from lightning_vi.errors import InputTypeError
from lightning_vi.functional import sum_of_logs
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.variational.base import USUAL_STEPS, VariationalMethod, largest_fan_in
from lightning_vi.objectives import ObjectiveTerms, negative_elbo
from lightning_vi.optim import PosteriorIVON, cosine_decay, trained_stds
from lightning_vi.posteriors import DEFAULT_STD, inverse_softplus
from lightning_vi.priors import GaussianPrior
from lightning_vi.sampling import NetworkInput, Vectorization

PRIOR_STD = 1.0
MAX_STEP = 0.02
STEP_TIMES_STEPS = 1.25
"""A weight can move by this distance in a fit at the full learning rate, however many inputs its unit has."""
FORGETTING = 4.0
"""The decay rate of the Hessian is such that its start counts by exp(-4) at the end of a fit."""
USUAL_DECAY = 0.99999
"""Decay rate of the Hessian where the length of the fit is unknown."""
USUAL_LR, LR_FOR_BOUNDED_GRADIENTS = 0.3, 1.0
LR_TIMES_STEPS_PER_DATUM = 0.4
"""Product of the learning rate with the number of steps over the number of data."""


class IVON(VariationalMethod):
    r"""Mean-field Gaussian posterior from a second-order optimizer at about the cost of Adam (Shen et al., 2024).

    The optimizer is part of the method and includes the prior :math:`\mathcal{N}(0, 1 / \lambda \delta)`. The loss of
    `elbo` therefore has the value of the negative evidence lower bound, but only the gradient of its first term; custom
    training loops must use it with the optimizer of `make_optimizer`. Parameters without a posterior, such as a learned
    noise, are trained by Adam. Gradient clipping does not apply to the estimates of curvature.

    Args:
        backbone: Any network; it is copied, and its weights become posterior means.
        likelihood: The observation model; it is copied.
        stochastic_module_names: As for `VariationalMethod`.
        lr: Learning rate of the posterior means. None for 1 if the gradient of the log-likelihood is bounded, otherwise
            0.4 N over the number of steps and at most 0.3; 0.3 if the length of the fit is unknown.
        hess_init: Initial Hessian h of the mean loss. The initial standard deviation is
            :math:`1 / \sqrt{\lambda (h + \delta)}`. None for a standard deviation of 0.0067.
        betas: Decay rates of the running means of gradient and Hessian. The Hessian changes over about
            1 / (1 - betas[1]) steps. None for 0.9 and a quarter of the length of the fit; the second is 0.99999 if the
            length is unknown.
        weight_decay: :math:`\delta`, positive. None for a prior with standard deviation 1.
        clip_radius: :math:`\xi`, the maximum absolute update of a mean before multiplication by
            :math:`\mathrm{lr}\,(h_0 + \delta)`. None for a step of 1 over the largest number of inputs of a unit,
            but at least 1.25 over the number of steps, 2000 if it is unknown, and at most 0.02.
        point_lr: Learning rate of Adam for parameters without a posterior.
        estimator: As for `VariationalMethod`; weights are sampled by default, as in the paper.
        stochastic_biases: As for `VariationalMethod`.
        freeze_backbone: As for `VariationalMethod`.
        vectorization: As for `VariationalMethod`.
        antithetic: As for `VariationalMethod`.
        num_mc_samples_train: Number of samples in each training step.
        num_mc_samples_test: Number of samples for validation, test and prediction.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss, without KL divergence
            and sampling; h is not updated.
        kl_weight: Weight :math:`\beta` of the KL divergence, positive, with :math:`\lambda = N / \beta`.
        kl_warmup_epochs: As for `VariationalMethod`.
        num_data: Size of the training set; by default it is read from the training dataloader.
        lr_scheduler: Function from the optimizer to a scheduler, see `UQMethod`; None for a constant learning rate.

    Raises:
        ValueError: If a number is out of range, or as for `VariationalMethod`.

    Example:
        >>> import torch
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Categorical
        >>> method = IVON(MLP(2, [16], 3), Categorical(3), num_data=100)
        >>> type(method.make_optimizer()).__name__
        'PosteriorIVON'
        >>> round(method.backbone[0].posterior("weight").std[0, 0].item(), 3)
        0.007
    """

    is_divergence_scheduled = True

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        stochastic_module_names: Sequence[ModuleSelector] | None = None,
        lr: float | None = None,
        hess_init: float | None = None,
        betas: tuple[float, float] | None = None,
        weight_decay: float | None = None,
        clip_radius: float | None = None,
        point_lr: float = 3e-3,
        estimator: str = "reparameterization",
        stochastic_biases: bool = True,
        freeze_backbone: bool = False,
        vectorization: Vectorization = "auto",
        antithetic: bool = False,
        num_mc_samples_train: int = 1,
        num_mc_samples_test: int = 50,
        burnin_epochs: int = 0,
        kl_weight: float = 1.0,
        kl_warmup_epochs: int = 0,
        num_data: int | None = None,
        lr_scheduler: LRSchedulerFactory | None = cosine_decay,
    ) -> None:
        if weight_decay is not None:
            check_positive("weight_decay", weight_decay, ", because it sets the prior")
        check_positive("kl_weight", kl_weight, ", because it sets the prior")
        super().__init__(
            backbone,
            likelihood,
            stochastic_module_names=stochastic_module_names,
            estimator=estimator,
            stochastic_biases=stochastic_biases,
            freeze_backbone=freeze_backbone,
            vectorization=vectorization,
            antithetic=antithetic,
            num_mc_samples_train=num_mc_samples_train,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            kl_weight=kl_weight,
            kl_warmup_epochs=kl_warmup_epochs,
            num_data=num_data,
            lr_scheduler=lr_scheduler,
        )
        self._chosen_lr = USUAL_LR
        if lr is not None:
            self.lr = lr
        self.hess_init = hess_init
        self.betas = None if betas is None else (betas[0], betas[1])
        self.weight_decay = weight_decay
        self.clip_radius = clip_radius
        self.point_lr = point_lr
        self.make_optimizer()  # validates the optimizer's arguments
        if num_data is not None:
            self._reset_posterior_stds(num_data)

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> NoReturn:
        """Not available, because the prior of this method has mean zero. Pass the trained network as `backbone`.

        Raises:
            TypeError: Always.
        """
        raise InputTypeError("the prior of IVON has mean zero: give the trained network as backbone")

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        """Returns pairs of means and unconstrained scales."""
        parameters = self.engine.parameters()
        return list(zip(parameters[::2], parameters[1::2], strict=True))

    @torch.no_grad()
    def _reset_posterior_stds(self, num_data: int) -> None:
        options = self._options(num_data)
        std = (num_data / self.kl_weight * (options["hess_init"] + options["weight_decay"])) ** -0.5
        for _, rho in self._pairs():
            rho.fill_(inverse_softplus(std))

    def _decay(self, num_data: int) -> float:
        return PRIOR_STD**-2 * self.kl_weight / num_data if self.weight_decay is None else self.weight_decay

    def _options(self, num_data: int) -> dict[str, float]:
        """Returns the options that depend on the number of data."""
        ess = num_data / self.kl_weight
        decay = self._decay(num_data)
        hess_init = DEFAULT_STD**-2 / ess if self.hess_init is None else self.hess_init
        step = max(self.lr, 1e-12) * (hess_init + decay)
        radius = self._largest_step() / step if self.clip_radius is None else self.clip_radius
        return {"hess_init": hess_init, "weight_decay": decay, "clip_radius": radius}

    def _largest_step(self) -> float:
        """Returns the largest change of a weight in one step."""
        num_steps = self.num_steps if 0 < self.num_steps < math.inf else USUAL_STEPS
        fan_in = largest_fan_in(self.engine.parameters()[::2])
        return min(MAX_STEP, max(1 / fan_in, STEP_TIMES_STEPS / num_steps))

    @property
    def burnin_share(self) -> float:
        """0: it gains nothing by a burn-in."""
        return 0.0

    @property
    def needs_whole_fit(self) -> bool:
        """False: long fits of few noisy rows may overfit."""
        return False

    @property
    def default_lr(self) -> float:
        """Learning rate of the means, chosen when the optimizer is made."""
        return self._chosen_lr

    def _choose_lr(self) -> float:
        num_data, num_steps = self.size_of_fit(), self.num_steps
        if num_data is None or not 0 < num_steps < math.inf:
            return USUAL_LR
        if self.likelihood.has_bounded_gradient:
            return LR_FOR_BOUNDED_GRADIENTS
        return min(USUAL_LR, LR_TIMES_STEPS_PER_DATUM * num_data / num_steps)

    def _betas(self) -> tuple[float, float]:
        if self.betas is not None:
            return self.betas
        if not 0 < self.num_steps < math.inf:
            return 0.9, USUAL_DECAY
        return 0.9, max(0.9, 1 - FORGETTING / self.num_steps)

    def make_optimizer(self) -> Optimizer:
        """Makes the optimizer of all trainable parameters.

        Options that depend on the size of the training set are set again at the start of a fit, which finds it.

        Returns:
            `PosteriorIVON` with one group for the posteriors, and another one for other parameters if there are any.
        """
        pairs = self._pairs()
        variational = {id(parameter) for pair in pairs for parameter in pair}
        num_data = self.size_of_fit() or 1
        self._chosen_lr = self._choose_lr()
        return PosteriorIVON(
            pairs,
            [p for p in self.parameters() if p.requires_grad and id(p) not in variational],
            lr=self.lr,
            ess=num_data / self.kl_weight,
            betas=self._betas(),
            point_lr=self.point_lr,
            has_gradients_of_stds=True,
            **self._options(num_data),
        )

    @property
    def main_factor(self) -> float:  # noqa: D102
        return 1.0

    def on_new_num_data(self, known: int | None, num_data: int) -> None:  # noqa: D102
        if known is None:
            self._reset_posterior_stds(num_data)

    def on_train_start(self) -> None:
        """Sets the effective sample size of the optimizer."""
        super().on_train_start()
        self._set_effective_sample_size()

    def on_train_epoch_start(self) -> None:
        """Sets the effective sample size of the optimizer, during burn-in too."""
        super().on_train_epoch_start()
        self._set_effective_sample_size()

    def _set_effective_sample_size(self) -> None:
        weight = self.kl_weight if self.in_burnin else self.effective_kl_weight()
        num_data = self.require_num_data(self.num_data)
        optimizers = self.optimizers(use_pl_optimizer=False)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            for group in optimizer.param_groups:
                group.update(self._options(num_data), ess=num_data / weight)

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clips the gradients of the means, but not those that estimate the curvature."""
        if not gradient_clip_val or not isinstance(optimizer, PosteriorIVON):
            return
        clip = nn.utils.clip_grad_value_ if gradient_clip_algorithm == "value" else nn.utils.clip_grad_norm_
        clip(optimizer.means(), gradient_clip_val)

    def objective(  # noqa: D102
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        num_data = self.require_num_data(num_data)
        parameters = self.engine.parameters()
        means, stds = parameters[::2], trained_stds(parameters[1::2])
        kl = self._kl(means, stds, num_data)  # first, while the optimizer's results are in the caches
        with self.engine.given_stds(stds):
            outputs = self.engine.training_samples(x, self.num_mc_samples_train)
        self.likelihood.check(outputs, target)
        log_prob = self.likelihood.log_prob(outputs, target, weight)
        return outputs, negative_elbo(log_prob, kl, num_data, kl_weight)

    def weight_posteriors(self) -> Sequence[WeightPosterior]:
        """Returns the marginal posterior of each parameter tensor beside the prior that `weight_decay` and N make."""
        return weight_posteriors(self.backbone, self.engine, GaussianPrior(std=self._prior_std(self.num_data or 1)))

    def open_remedies(self) -> frozenset[str]:
        """Returns the names of remedies, without those for options that this method does not have."""
        return super().open_remedies() & {"fewer_kl_warmup_epochs", "lr_scheduler", "correlations"}

    def _prior_std(self, num_data: int) -> float:
        return float((num_data / self.kl_weight * self._decay(num_data)) ** -0.5)

    @torch.no_grad()
    def _kl(self, means: Sequence[Tensor], stds: Sequence[Tensor], num_data: int) -> Tensor:
        r"""Computes :math:`\sum_i \lambda \delta (\mu_i^2 + \sigma_i^2) / 2 - \ln \sigma_i - c`."""
        precision = self._prior_std(num_data) ** -2
        constant, size = 0.5 * (1 + math.log(precision)), sum(mean.numel() for mean in means)
        means, stds = (
            [each if each.dtype.itemsize > 2 else each.float() for each in moments] for moments in (means, stds)
        )
        norms = torch.stack(torch._foreach_norm([*means, *stds]))
        log_stds = sum_of_logs(stds, norms[len(means) :].max())
        return 0.5 * precision * norms.square().sum() - log_stds - constant * size
