"""Base class of trainable methods: objective, burn-in, weight of the KL divergence, optimizer and training steps."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, cast

import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_vi.arguments import check_at_least, check_instance
from lightning_vi.core.annealing import annealing_factor
from lightning_vi.core.batch_forms import InputForm, input_form
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.divergence import MAX_GROWTH, LossWatch, check_weights, largest_weight, watched_step
from lightning_vi.core.fit_progress import ended_within, has_known_length, is_searching, planned_epochs
from lightning_vi.core.intake import network_batch
from lightning_vi.core.layout import check_targets_last
from lightning_vi.core.moments_predictive import MomentsPredictive, no_moments
from lightning_vi.core.optimizers import LRSchedulerFactory, OptimizerFactory
from lightning_vi.core.predictive import GaussianPredictive, Predictive, SampledPredictive
from lightning_vi.core.prepared import PreparedPredictor
from lightning_vi.core.scoreboard import update
from lightning_vi.core.strategies import involving_all_parameters
from lightning_vi.core.training_record import TrainingRecord
from lightning_vi.errors import DivergenceError, InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.locks import exclusive
from lightning_vi.metrics import default_metrics
from lightning_vi.noise import NoiseStream
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.sampling import NetworkInput

PLANNED_BURNIN = "planned_burnin_epochs"
"""Key of a checkpoint: the number of burn-in epochs of a fit that chose it."""


class UQMethod(PreparedPredictor):
    """Base class of methods that train a network under a likelihood.

    A method fills in three hooks: `point_outputs`, `objective` and `sampled_outputs`. Where the network's output is
    Gaussian in closed form, it fills in `output_moments` too.

    Args:
        backbone: The network, owned by the method.
        likelihood: The observation model; it is copied.
        num_mc_samples_test: Number of samples for validation, test and prediction.
        burnin_epochs: Number of initial epochs that train `point_outputs` on the likelihood's point loss, without KL
            divergence; None for the share `burnin_share` of the first fit.
        kl_weight: Weight of the KL divergence; 1 is the evidence lower bound.
        kl_warmup_epochs: Number of epochs after burn-in over which the weight increases linearly to `kl_weight`; None
            for an increase in each step over 90% of a fit.
        num_data: Size of the training set; by default it is read from the training dataloader.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch; `PerStep`,
            `OneCycleLR` and `CyclicLR` are stepped after each batch.

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
        burnin_epochs: int | None,
        kl_weight: float = 0.0,
        kl_warmup_epochs: int | None = 0,
        num_data: int | None = None,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        check_instance("backbone", backbone, nn.Module)
        if burnin_epochs is not None:
            check_at_least("burnin_epochs", burnin_epochs, 0)
        if kl_warmup_epochs is not None:
            check_at_least("kl_warmup_epochs", kl_warmup_epochs, 0)
        if not kl_weight >= 0:
            raise InputValueError(f"kl_weight must not be negative, got {kl_weight}")
        super().__init__(
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            num_data=num_data,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )
        self.backbone = backbone
        self.likelihood = copy.deepcopy(likelihood)
        self.noise = NoiseStream()
        self.burnin_epochs = burnin_epochs
        self.kl_weight = kl_weight
        self.kl_warmup_epochs = kl_warmup_epochs
        self.train_metrics = default_metrics(
            likelihood.task, "train_", num_outputs=likelihood.num_predictions, scope="point"
        )
        self._is_first_epoch = False
        self._trained_on_tensor: bool | None = None
        self._is_layout_checked = False
        self._record = TrainingRecord(self.train_metrics)
        self._watch = LossWatch()
        self._weight_limit = math.inf
        self._resumed_epoch: dict[str, Any] | None = None
        self._planned_burnin = 0
        self._resumed_burnin: int | None = None

    @abstractmethod
    def objective(
        self, x: NetworkInput, target: Tensor, weight: Tensor | None = None, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        """Computes the loss of a batch.

        Args:
            x: Input, each tensor of shape [B, ...].
            target: Target, shape [B, ...].
            weight: Factors of the log probabilities, see `Likelihood.element_weights`.
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

    def propagated_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor]:
        """Computes means and variances of the network's output in one pass, for ``approximation="moments"``.

        The default are those of `output_moments`.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Each of shape [B, ...].

        Raises:
            TypeError: If the method has no marginal variances of the weights, or the network calls a function that has
                no rule.
        """
        moments = self.output_moments(x)
        if moments is None:
            raise no_moments(self)
        return moments[0], moments[1].square()

    def make_moments_predictive(self, x: NetworkInput) -> Predictive:  # noqa: D102
        return MomentsPredictive(self.predictive_likelihood, partial(self.propagated_moments, x))

    @property
    def predictive_likelihood(self) -> Likelihood:
        """Observation model of predictions; the trained one by default."""
        return self.likelihood

    def input_form(self) -> InputForm:  # noqa: D102
        return input_form(self.backbone, self._trained_on_tensor)

    def trained_networks(self) -> list[nn.Module]:  # noqa: D102
        return [self.backbone]

    @property
    def needs_num_data(self) -> bool:
        """True if the loss depends on N."""
        return self.has_kl

    @property
    def burnin_share(self) -> float:
        """Share of a fit that is burn-in if `burnin_epochs` is None; 0 by default."""
        return 0.0

    @property
    def num_burnin_epochs(self) -> int:
        """Number of initial epochs of the current fit that are burn-in."""
        return self._planned_burnin if self.burnin_epochs is None else self.burnin_epochs

    @property
    def needs_whole_fit(self) -> bool:
        """True if a fit that is stopped early has another posterior, as it is for its end; False by default."""
        return False

    @property
    def in_burnin(self) -> bool:
        """True if the current epoch of a running fit belongs to the burn-in."""
        return self._trainer is not None and self.trainer.training and self.current_epoch < self.num_burnin_epochs

    def effective_kl_weight(self) -> float:
        """Returns the weight of the KL divergence in the current step."""
        return self.kl_weight * annealing_factor(self._trainer, self.num_burnin_epochs, self.kl_warmup_epochs)

    def forward(self, x: NetworkInput) -> Tensor:
        """Computes network outputs without sampling, see `point_outputs`."""
        if torch.compiler.is_compiling():
            return self.point_outputs(x)
        with exclusive(self):
            return self.point_outputs(x)

    def elbo(
        self, x: NetworkInput, y: Tensor, weight: Tensor | None = None, *, num_data: int | None = None
    ) -> ObjectiveTerms:
        """Computes the full objective on a batch, for a training loop of your own.

        It never burns in and uses the full KL weight. The global random state stays as it was. The values of the batch
        are checked, which synchronizes with a GPU, unless the call is compiled.

        Args:
            x: Input, each tensor of shape [B, ...].
            y: Target in its original units, shape [B, ...].
            weight: Weights of the rows, shape [B]; 1 by default. A row of weight 2 counts as two rows.
            num_data: N, the size of the training set; by default the one that was given or counted in a fit.

        Returns:
            ``(loss, nll, kl)``, differentiable.

        Raises:
            ValueError: If N is needed and unknown, or not positive, shapes do not fit, or a value is not finite or
                outside of the likelihood's support.
        """
        x, y = network_batch(x, y, self)
        if not torch.compiler.is_compiling():
            self._check_values(x, y, weight)
        with explained(self, x), self.noise.fresh(self.global_rank, self.device):
            outputs, terms = self.objective(
                x,
                y,
                self.likelihood.element_weights(y, weight),
                num_data=self.num_data if num_data is None else num_data,
                kl_weight=self.kl_weight,
            )
            self._check_layout(x, outputs)
        if torch.is_grad_enabled() and not self._was_trained_elsewhere:
            self._was_trained_elsewhere = True
        return terms

    def epoch_means(self) -> dict[str, Tensor]:
        """Returns the means of the logged terms over the rows of the current epoch so far, of this process."""
        return self._record.means()

    def setup(self, stage: str) -> None:
        """Checks the Trainer's strategy, and keeps the state of the datamodule of a fit."""
        super().setup(stage)
        if stage == "fit":
            self.data_state = getattr(getattr(self.trainer, "datamodule", None), "data_state", None)

    def on_fit_start(self) -> None:
        """Refuses training data that cannot be used, and plans the burn-in."""
        self.trainer.fit_loop.setup_data()
        resumed, self._resumed_burnin = self._resumed_burnin, None
        if resumed is not None:
            self._planned_burnin = resumed
        elif self.is_trained or is_searching(self.trainer) or not has_known_length(self.trainer):
            self._planned_burnin = 0
        else:
            self._planned_burnin = int(self.burnin_share * planned_epochs(self.trainer))
        self._prepared_loader = None
        self._prepare()
        self._is_first_epoch = True

    def on_train_start(self) -> None:
        """Prepares for the training data; restores the dataloader's position and the sums of a resumed epoch."""
        self._prepare()
        self._watch.start()
        self._weight_limit = MAX_GROWTH * (1 + largest_weight(self))
        self._restore_rates()
        # `on_fit_start` makes the dataloader before Lightning has read the positions.
        loop = self.trainer.fit_loop
        if loop.restarting and loop._combined_loader_states_to_load:
            loop._load_combined_loader_states()
            iter(cast(Any, loop._data_fetcher))
        so_far, self._resumed_epoch = self._resumed_epoch, None
        if so_far is not None and so_far["epoch"] == self.current_epoch:
            self._record.restore(so_far)
            self.train_metrics.to(self.device)

    def on_train_epoch_start(self) -> None:
        """Prepares for the training data of the epoch, which may be other ones, and begins its sums."""
        self._prepare()
        self._record.reset()
        if self.current_epoch == self.num_burnin_epochs:
            self._watch.start()

    def on_train_end(self) -> None:
        """Releases the dataloader, refuses weights that are not finite and warns if the fit ended in the burn-in."""
        self._prepared_loader = None
        check_weights(self, self._weight_limit)
        if self.num_burnin_epochs and ended_within(self.trainer, self.num_burnin_epochs):
            rank_zero_warn(
                f"The fit ended in its burn-in of {self.num_burnin_epochs} epochs: the noise"
                f"{' and the posterior standard deviations' if self.has_kl else ''} are not trained. Train for more "
                "epochs, or give fewer burnin_epochs"
            )

    def on_validation_start(self) -> None:
        """Checks the losses so far."""
        super().on_validation_start()
        self._watch.flush(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the planned burn-in, and the sums of the epoch so far unless each process has its own.

        Raises:
            DivergenceError: If a weight is not finite.
        """
        if self._trainer is not None and self.trainer.training:
            self._watch.flush(self)
            check_weights(self, self._weight_limit)
            if self.trainer.world_size == 1 and (so_far := self._record.state(self.current_epoch)) is not None:
                checkpoint["epoch_so_far"] = so_far
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            checkpoint[PLANNED_BURNIN] = self._planned_burnin
        super().on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checks the checkpoint and reads the planned burn-in and the sums of its epoch.

        Raises:
            ValueError: If it is damaged or of a newer format.
        """
        super().on_load_checkpoint(checkpoint)
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self._resumed_epoch = checkpoint.get("epoch_so_far")
            if checkpoint["global_step"] > 0:  # not the state from which searches for a learning rate return
                self._resumed_burnin = checkpoint.get(PLANNED_BURNIN, 0)

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """Trains on the point loss during burn-in, on the method's objective afterwards."""
        x, target, weight = self._labeled(batch)
        self._begin_step(x, target, weight)
        check_batch = partial(self._check_values, x, target, weight)
        weight = self.likelihood.element_weights(target, weight)
        with (
            watched_step(self, check_batch),
            explained(self, x),
            self.noise.fresh(self.global_rank, self.device),
        ):
            if self.in_burnin:
                outputs = self.point_outputs(x).unsqueeze(0)
                self.likelihood.check(outputs, target)
                loss = self.likelihood.point_loss(outputs, target, weight)
                logged = {"train_loss": loss}
                loss = involving_all_parameters(loss, self)
            else:
                outputs, terms = self.objective(
                    x, target, weight, num_data=self.num_data, kl_weight=self.effective_kl_weight()
                )
                loss, logged = terms.loss, self._logged_terms(terms)
            self._check_layout(x, outputs)
        self._end_step(outputs.detach(), target, logged, check_batch, batch_idx)
        return loss

    def _begin_step(self, x: NetworkInput, target: Tensor, weight: Tensor | None) -> None:
        if len(target) == 0:
            raise InputValueError("a training batch has no rows: set drop_last=True, or make the dataset skip it")
        self._trained_on_tensor = isinstance(x, Tensor)
        if self._is_first_epoch or target.device.type == "cpu":  # elsewhere it would wait for the device
            self._check_values(x, target, weight)

    def _check_layout(self, x: NetworkInput, outputs: Tensor) -> None:
        """Checks in the first step that the targets are the last dimension of outputs [S, B, ...]."""
        if self._is_layout_checked:
            return
        if outputs.dim() > 3:
            check_targets_last(self.backbone, self.likelihood, x, self.point_outputs)
        self._is_layout_checked = True

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _end_step(
        self,
        outputs: Tensor,
        target: Tensor,
        logged: dict[str, Tensor],
        check_batch: Callable[[], None],
        batch_idx: int,
        prediction: Tensor | None = None,
    ) -> None:
        """Checks the loss of a step and records it, with the prediction from the outputs by default."""
        try:
            self._watch.check(logged["train_loss"], self)
        except DivergenceError:
            check_batch()
            raise
        self._record.add(logged, target.shape[0])
        interval: int = getattr(self.trainer, "log_every_n_steps", 0)
        if interval and (batch_idx + 1) % interval == 0:
            self.log("train_loss_step", logged["train_loss"], prog_bar=True)
        prediction = self._point_prediction(outputs) if prediction is None else prediction
        inputs = {"preds": prediction, "target": self.likelihood.metric_target(target)}
        update(self.train_metrics, inputs, self.likelihood.observed(target))

    def _point_prediction(self, outputs: Tensor) -> Tensor:
        return self.likelihood.point_prediction(outputs)

    def _logged_terms(self, terms: ObjectiveTerms) -> dict[str, Tensor]:
        logged = {"train_loss": terms.loss, "train_nll": terms.nll}
        if self.has_kl:
            elbo = -(terms.nll + terms.kl / self.require_num_data(self.num_data))
            logged |= {"train_kl": terms.kl, "train_elbo": elbo}
        return logged

    def on_train_epoch_end(self) -> None:
        """Logs the training metrics and the stage."""
        self._is_first_epoch = False
        self._watch.flush(self)
        check_weights(self, self._weight_limit)
        self.log_dict(self._record.means(), sync_dist=True)
        if any(metric.update_called for metric in self.train_metrics.values()):  # not if resumed behind the last batch
            self.log_dict(self.train_metrics.compute())
        self._record.reset()
        stage = {"train_kl_weight": 0.0 if self.in_burnin else self.effective_kl_weight()}
        if self.num_burnin_epochs:
            stage["train_burnin"] = float(self.in_burnin)
        self.log_dict(stage)
