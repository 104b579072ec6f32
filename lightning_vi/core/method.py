"""Base class of trainable methods: objective, burn-in, weight of the KL divergence, optimizer and training steps."""

import copy
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_vi.arguments import check_at_least
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.intake import network_input, network_target
from lightning_vi.core.layout import check_targets_last
from lightning_vi.core.optimizers import LRSchedulerFactory, OptimizerFactory, build_optimizer
from lightning_vi.core.predictive import GaussianPredictive, Predictive, SampledPredictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.metrics import default_metrics
from lightning_vi.noise import NoiseStream
from lightning_vi.objectives import ObjectiveTerms, count_training_data
from lightning_vi.sampling import NetworkInput, tensors


class UQMethod(Predictor):
    """Base class of methods that train a network under a likelihood.

    A method fills in three hooks: `point_outputs`, `objective` and `sampled_outputs`. Where the network's output is
    Gaussian in closed form, it fills in `output_moments` too.

    Args:
        backbone: The network, owned by the method.
        likelihood: The observation model; it is copied.
        num_mc_samples_test: Number of samples for validation, test and prediction.
        burnin_epochs: Number of initial epochs that train `point_outputs` on the likelihood's point loss, without KL
            divergence.
        kl_weight: Weight of the KL divergence; 1 is the evidence lower bound.
        kl_warmup_epochs: Number of epochs after burn-in over which the weight increases linearly to `kl_weight`.
        num_data: Size of the training set; by default it is read from the training dataloader.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.

    Raises:
        ValueError: If a count or weight is out of range.
    """

    has_kl = False
    """True if the objective has a KL divergence, for which the size of the training set must be known."""
    minimizes_elbo = True
    """True if the loss of a method with a divergence is the negative evidence lower bound, ``nll + kl / num_data``."""

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        num_mc_samples_test: int,
        burnin_epochs: int,
        kl_weight: float = 0.0,
        kl_warmup_epochs: int = 0,
        num_data: int | None = None,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        check_at_least("burnin_epochs", burnin_epochs, 0)
        check_at_least("kl_warmup_epochs", kl_warmup_epochs, 0)
        if num_data is not None:
            check_at_least("num_data", num_data, 1)
        if not kl_weight >= 0:
            raise InputValueError(f"kl_weight must not be negative, got {kl_weight}")
        super().__init__(likelihood, num_mc_samples_test=num_mc_samples_test)
        self.backbone = backbone
        self.likelihood = copy.deepcopy(likelihood)
        self.noise = NoiseStream()
        self.burnin_epochs = burnin_epochs
        self.kl_weight = kl_weight
        self.kl_warmup_epochs = kl_warmup_epochs
        self.train_metrics = default_metrics(
            likelihood.task, "train_", num_outputs=likelihood.num_predictions, scope="point"
        )
        self._optimizer_factory = optimizer
        self._lr_scheduler_factory = lr_scheduler
        self._num_data_given = num_data
        self._train_size: int | None = None
        self._is_first_epoch = False
        self._is_layout_checked = False
        self._epoch_sums: dict[str, Tensor] = {}
        self._epoch_rows = 0

    @abstractmethod
    def point_outputs(self, x: NetworkInput) -> Tensor:
        """Computes network outputs in one forward pass, without sampling.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """

    @abstractmethod
    def objective(
        self, x: NetworkInput, target: Tensor, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        """Computes the loss of a batch.

        Args:
            x: Input, each tensor of shape [B, ...].
            target: Target, shape [B, ...].
            num_data: N, None if unknown.
            kl_weight: Weight of the KL divergence.

        Returns:
            The sampled network outputs [S, B, ...] and the terms of the loss.
        """

    @abstractmethod
    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:
        """Computes outputs of the sampled networks for prediction, in chunks.

        Args:
            x: Input, each tensor of shape [B, ...].
            num_samples: S.
            seed: Names the S networks.

        Yields:
            Shape [chunk, B, ...].
        """

    def output_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor] | None:  # noqa: ARG002
        """Computes mean and standard deviation of a Gaussian network output in closed form.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Each of shape [B, ...]; None by default, and wherever the output is not Gaussian.
        """
        return None

    def make_predictive(self, x: NetworkInput, num_samples: int, seed: int) -> Predictive:  # noqa: D102
        likelihood = self.predictive_likelihood
        sampled = SampledPredictive(likelihood, partial(self.sampled_outputs, x, num_samples, seed))
        if not likelihood.has_gaussian_noise:
            return sampled
        return GaussianPredictive(likelihood, partial(self.output_moments, x), sampled)

    @property
    def predictive_likelihood(self) -> Likelihood:
        """Observation model of predictions; the trained one by default."""
        return self.likelihood

    def undecayed_parameters(self) -> Iterable[nn.Parameter]:
        """Returns the parameters that take no weight decay; the likelihood's by default."""
        return self.likelihood.parameters()

    def learning_rate_factors(self) -> Mapping[nn.Parameter, float]:
        """Returns factors of the learning rate by parameter.

        The likelihood's parameters, such as the std of the noise, are few and start far from their optimum: 10 by
        default.
        """
        return dict.fromkeys(self.likelihood.parameters(), 10.0)

    def trained_networks(self) -> list[nn.Module]:  # noqa: D102
        return [self.backbone]

    @property
    def is_trained(self) -> bool:  # noqa: D102
        return self._train_size is not None

    @property
    def num_data(self) -> int | None:
        """Size N of the training set, None if unknown."""
        return self._train_size if self._num_data_given is None else self._num_data_given

    @property
    def in_burnin(self) -> bool:
        """True if the current epoch of a running fit belongs to the burn-in."""
        return self._trainer is not None and self.trainer.training and self.current_epoch < self.burnin_epochs

    def effective_kl_weight(self) -> float:
        """Returns the weight of the KL divergence in the current epoch."""
        warm_epochs = self.current_epoch - self.burnin_epochs + 1
        return self.kl_weight * min(1.0, max(0, warm_epochs) / (self.kl_warmup_epochs + 1))

    def forward(self, x: NetworkInput) -> Tensor:
        """Computes network outputs without sampling, see `point_outputs`."""
        return self.point_outputs(x)

    def elbo(self, x: NetworkInput, y: Tensor, *, num_data: int | None = None) -> ObjectiveTerms:
        """Computes the full objective on a batch, for a training loop of your own.

        It never burns in and uses the full KL weight. The global random state stays as it was.

        Args:
            x: Input, each tensor of shape [B, ...].
            y: Target in its original units, shape [B, ...].
            num_data: N, the size of the training set; by default the one that was given or counted in a fit.

        Returns:
            ``(loss, nll, kl)``, differentiable.

        Raises:
            ValueError: If N is needed and unknown, or not positive, or shapes do not fit.
        """
        x, y = network_input(x, self), network_target(y, self)
        with explained(self, x), self.noise.fresh(self.global_rank, self.device):
            outputs, terms = self.objective(
                x, y, num_data=self.num_data if num_data is None else num_data, kl_weight=self.kl_weight
            )
            self._check_layout(x, outputs)
        return terms

    def require_num_data(self, num_data: int | None) -> int:
        """Returns N, and raises an error if it is unknown.

        Args:
            num_data: N.

        Returns:
            N.

        Raises:
            ValueError: If it is None.
        """
        if num_data is None:
            raise InputValueError("num_data is unknown: the training data have no length, so give num_data=...")
        return num_data

    def on_fit_start(self) -> None:
        """Finds the size of the training set and the target's scaling."""
        self.trainer.fit_loop.setup_data()
        train_size = count_training_data(self.trainer.train_dataloader)
        if train_size == 0:
            raise InputValueError("the training set is empty")
        datamodule = getattr(self.trainer, "datamodule", None)
        mean, std = (getattr(datamodule, name, None) for name in ("target_mean", "target_std"))
        if mean is not None and std is not None:
            self.likelihood.set_target_scaling(mean, std)
        self._train_size = train_size
        self._is_first_epoch = True
        self._epoch_sums, self._epoch_rows = {}, 0
        self.train_metrics.reset()
        if self.has_kl:
            self.require_num_data(self.num_data)

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Trains on the point loss during burn-in, on the method's objective afterwards."""
        x, target = self._labeled(batch)
        if self._is_first_epoch:
            self._check_values(x, target)
        with explained(self, x), self.noise.fresh(self.global_rank, self.device):
            if self.in_burnin:
                outputs = self.point_outputs(x).unsqueeze(0)
                self.likelihood.check(outputs, target)
                loss = self.likelihood.point_loss(outputs, target)
                logged = {"train_loss": loss}
                loss = self._involving_all_parameters(loss)
            else:
                outputs, terms = self.objective(x, target, num_data=self.num_data, kl_weight=self.effective_kl_weight())
                loss, logged = terms.loss, self._logged_terms(terms)
            self._check_layout(x, outputs)
        self._record(outputs.detach(), target, logged, batch_idx)
        return loss

    def _check_layout(self, x: NetworkInput, outputs: Tensor) -> None:
        """Checks in the first step that the targets are the last dimension of outputs [S, B, ...]."""
        if not self._is_layout_checked and outputs.dim() > 3:
            check_targets_last(self.backbone, self.likelihood, x, self.point_outputs)
        self._is_layout_checked = True

    def _involving_all_parameters(self, loss: Tensor) -> Tensor:
        """The same loss, with a gradient for each parameter, which distributed processes exchange."""
        if self.trainer.world_size > 1:
            loss = loss + 0.0 * sum(p.sum() for p in self.parameters() if p.requires_grad)
        return loss

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _record(self, outputs: Tensor, target: Tensor, logged: dict[str, Tensor], batch_idx: int) -> None:
        # One addition a step: `LightningModule.log` in each step would cost as much as a small network.
        rows = target.shape[0]
        for name, value in logged.items():
            self._epoch_sums[name] = self._epoch_sums.get(name, 0.0) + value.detach() * rows
        self._epoch_rows += rows
        interval: int = getattr(self.trainer, "log_every_n_steps", 0)
        if interval and (batch_idx + 1) % interval == 0:
            self.log("train_loss_step", logged["train_loss"], prog_bar=True)
        self.train_metrics.update(preds=self._point_prediction(outputs), target=target)

    def _point_prediction(self, outputs: Tensor) -> Tensor:
        return self.likelihood.point_prediction(outputs)

    def _logged_terms(self, terms: ObjectiveTerms) -> dict[str, Tensor]:
        logged = {"train_loss": terms.loss, "train_nll": terms.nll}
        if self.has_kl:
            elbo = -(terms.nll + terms.kl / self.require_num_data(self.num_data))
            logged |= {"train_kl": terms.kl, "train_elbo": elbo}
        return logged

    def _check_values(self, x: NetworkInput, target: Tensor) -> None:
        for tensor in tensors(x):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise InputValueError("the training inputs have NaN or infinite values")
        self.likelihood.check_values(target)

    def on_train_epoch_end(self) -> None:
        """Logs the training metrics and the stage."""
        self._is_first_epoch = False
        means = {name: total / self._epoch_rows for name, total in self._epoch_sums.items()}
        self._epoch_sums, self._epoch_rows = {}, 0
        self.log_dict(means, sync_dist=True)
        self.log_dict(self.train_metrics.compute())
        self.train_metrics.reset()
        stage = {"train_kl_weight": 0.0 if self.in_burnin else self.effective_kl_weight()}
        if self.burnin_epochs:
            stage["train_burnin"] = float(self.in_burnin)
        self.log_dict(stage)

    def make_optimizer(self) -> Optimizer:
        """Makes the optimizer of all trainable parameters; variational and likelihood parameters take no weight decay.

        Returns:
            The optimizer.
        """
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return build_optimizer(
            self._optimizer_factory, trained, self.undecayed_parameters(), self.learning_rate_factors()
        )

    def configure_optimizers(self) -> Any:
        """Builds the optimizer and the scheduler.

        Raises:
            ValueError: If there are parameters in float16.
        """
        if any(parameter.dtype == torch.float16 for parameter in self.parameters() if parameter.requires_grad):
            raise InputValueError(
                "precision='16-true' cannot train: gradients below 6e-8, and the eps of Adam, are zero in float16; use "
                "precision='16-mixed' or 'bf16-true'"
            )
        optimizer = self.make_optimizer()
        if self._lr_scheduler_factory is None:
            return optimizer
        scheduler = self._lr_scheduler_factory(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            monitor = getattr(scheduler, "monitor", "train_loss")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def get_extra_state(self) -> Tensor:
        """Returns the size of the training set, -1 if unknown."""
        return torch.tensor(-1 if self._train_size is None else self._train_size)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the size of the training set."""
        self._train_size = None if state < 0 else int(state)
