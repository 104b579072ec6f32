"""What all methods of variational inference share."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypedDict

from torch import Tensor, nn

from lightning_vi.conversion import convert
from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.base import UQMethod, check_at_least
from lightning_vi.methods.optimizers import LRSchedulerFactory, OptimizerFactory, default_optimizer
from lightning_vi.objectives import ObjectiveTerms, negative_elbo
from lightning_vi.priors import Prior
from lightning_vi.sampling import SamplingEngine


class VariationalArguments(TypedDict, total=False):
    """The arguments of `VariationalMethod` that its subclasses hand on."""

    prior: Prior | None
    estimator: str
    init_std: float
    num_mc_samples_train: int
    num_mc_samples_test: int
    burnin_epochs: int
    kl_weight: float
    kl_warmup_epochs: int
    num_data: int | None
    optimizer: OptimizerFactory
    lr_scheduler: LRSchedulerFactory | None


class VariationalMethod(UQMethod):
    """A network with stochastic layers, trained on the evidence lower bound.

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
        check_at_least("num_mc_samples_train", num_mc_samples_train, 1)
        check_at_least("kl_warmup_epochs", kl_warmup_epochs, 0)
        if num_data is not None:
            check_at_least("num_data", num_data, 1)
        if not kl_weight >= 0:
            raise ValueError(f"kl_weight must not be negative, got {kl_weight}")
        network, conversion = convert(
            backbone, stochastic_module_names, prior=prior, estimator=estimator, init_std=init_std
        )
        super().__init__(
            network,
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self.conversion = conversion
        self.engine = SamplingEngine(network)
        self.num_mc_samples_train = num_mc_samples_train
        self.kl_weight = kl_weight
        self.kl_warmup_epochs = kl_warmup_epochs
        self._num_data_given = num_data

    @property
    def num_data(self) -> int | None:  # noqa: D102
        return self._train_size if self._num_data_given is None else self._num_data_given

    @property
    def full_kl_weight(self) -> float:  # noqa: D102
        return self.kl_weight

    def effective_kl_weight(self) -> float:  # noqa: D102
        warm_epochs = self.current_epoch - self.burnin_epochs + 1
        return self.kl_weight * min(1.0, max(0, warm_epochs) / (self.kl_warmup_epochs + 1))

    def undecayed_parameters(self) -> Iterable[nn.Parameter]:
        """The likelihood's and the variational parameters: the prior is the decay that these have."""
        yield from super().undecayed_parameters()
        for layer in self.engine.layers:
            yield from layer.parameters(recurse=False)

    def on_fit_start(self) -> None:  # noqa: D102
        super().on_fit_start()
        self._require_num_data(self.num_data)

    def point_outputs(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.engine.mean_output(x)

    def sampled_outputs(self, x: Tensor, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: D102
        return self.engine.prediction_samples(x, num_samples, seed)

    def objective(  # noqa: D102
        self, x: Tensor, target: Tensor, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        known = self._require_num_data(num_data)
        outputs = self.engine.training_samples(x, self.num_mc_samples_train)
        self.likelihood.check(outputs, target)
        log_prob = self.likelihood.log_prob(outputs, target)
        return outputs, negative_elbo(log_prob, self.engine.kl(), known, kl_weight)

    def _logged_terms(self, terms: ObjectiveTerms) -> dict[str, Tensor]:
        num_data = self._require_num_data(self.num_data)
        elbo = -(terms.nll + terms.kl / num_data)
        return {"train_loss": terms.loss, "train_nll": terms.nll, "train_kl": terms.kl, "train_elbo": elbo}

    def _require_num_data(self, num_data: int | None) -> int:
        if num_data is None:
            raise ValueError("num_data is unknown: the training data have no length, so give num_data=...")
        return num_data
