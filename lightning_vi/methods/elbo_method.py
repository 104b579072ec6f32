"""What methods with a KL divergence in their objective share."""

from torch import Tensor, nn

from lightning_vi.likelihoods import Likelihood
from lightning_vi.methods.arguments import check_at_least
from lightning_vi.methods.base import UQMethod
from lightning_vi.methods.optimizers import LRSchedulerFactory, OptimizerFactory
from lightning_vi.objectives import ObjectiveTerms


class ElboMethod(UQMethod):
    """A method trained on an evidence lower bound: it needs N, and the weight of its KL divergence may grow.

    Args:
        backbone: The network, owned by the method.
        likelihood: The observation model; the method owns a copy.
        num_mc_samples_test: Samples for validation, test and prediction.
        burnin_epochs: Epochs on posterior means and the likelihood's point loss, without KL.
        kl_weight: Weight of the KL divergence; 1 is the evidence lower bound.
        kl_warmup_epochs: Epochs after burn-in over which the weight grows linearly from near 0.
        num_data: Size of the training set; by default the training dataloader tells.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

    Raises:
        ValueError: If a count or weight is out of range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        num_mc_samples_test: int,
        burnin_epochs: int,
        kl_weight: float,
        kl_warmup_epochs: int,
        num_data: int | None,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        check_at_least("kl_warmup_epochs", kl_warmup_epochs, 0)
        if num_data is not None:
            check_at_least("num_data", num_data, 1)
        if not kl_weight >= 0:
            raise ValueError(f"kl_weight must not be negative, got {kl_weight}")
        super().__init__(
            backbone,
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
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

    def on_fit_start(self) -> None:  # noqa: D102
        super().on_fit_start()
        self._require_num_data(self.num_data)

    def _logged_terms(self, terms: ObjectiveTerms) -> dict[str, Tensor]:
        num_data = self._require_num_data(self.num_data)
        elbo = -(terms.nll + terms.kl / num_data)
        return {"train_loss": terms.loss, "train_nll": terms.nll, "train_kl": terms.kl, "train_elbo": elbo}

    def _require_num_data(self, num_data: int | None) -> int:
        if num_data is None:
            raise ValueError("num_data is unknown: the training data have no length, so give num_data=...")
        return num_data
