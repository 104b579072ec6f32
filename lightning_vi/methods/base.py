"""What all methods share: steps, metrics, predictions and their contract."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torchmetrics import MetricCollection

from lightning_vi.functional import RunningMoments
from lightning_vi.likelihoods import Likelihood, Prediction, RegressionLikelihood
from lightning_vi.methods.arguments import check_at_least, is_plain
from lightning_vi.methods.batch import split_batch, split_labelled_batch
from lightning_vi.methods.epoch_means import EpochMeans
from lightning_vi.methods.optimizers import LRSchedulerFactory, OptimizerFactory, build_optimizer
from lightning_vi.metrics import default_metrics
from lightning_vi.noise import NoiseStream
from lightning_vi.objectives import ObjectiveTerms, count_training_data
from lightning_vi.sampling import NetworkInput, evaluating, tensors


class UQMethod(LightningModule, ABC):
    """A network and a likelihood, trained and asked for predictions in one way whatever the method.

    A method fills in three hooks: `point_outputs`, `objective` and `sampled_outputs`.

    Args:
        backbone: The network, owned by the method.
        likelihood: The observation model; the method owns a copy.
        num_mc_samples_test: Samples for validation, test and prediction.
        burnin_epochs: Epochs that train `point_outputs` on the likelihood's point loss first.
        optimizer: Makes the optimizer from an iterable of parameters.
        lr_scheduler: Makes a scheduler, stepped once an epoch, from the optimizer.

    Raises:
        ValueError: If a count is out of range.
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        num_mc_samples_test: int,
        burnin_epochs: int,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        super().__init__()
        check_at_least("num_mc_samples_test", num_mc_samples_test, 1)
        check_at_least("burnin_epochs", burnin_epochs, 0)
        objects = [
            "backbone",
            "likelihood",
            "prior",
            "optimizer",
            "lr_scheduler",
            "inference_network",
            "method",
            "methods",
        ]
        self.save_hyperparameters(ignore=objects)
        self.save_hyperparameters(ignore=[*objects, *(k for k, value in self.hparams.items() if not is_plain(value))])
        if "_instantiator" in self.hparams:  # LightningCLI describes all arguments, objects too, in plain values
            self.save_hyperparameters()
        self.backbone = backbone
        self.likelihood = copy.deepcopy(likelihood)
        self.num_mc_samples_test = num_mc_samples_test
        self.burnin_epochs = burnin_epochs
        self.noise = NoiseStream()
        self._optimizer_factory = optimizer
        self._lr_scheduler_factory = lr_scheduler
        self._train_size: int | None = None
        self._is_first_epoch = False
        self._epoch_means = EpochMeans()
        task, width = likelihood.task, likelihood.num_predictions
        self.train_metrics = default_metrics(task, "train_", num_outputs=width, scope="point")
        self.val_metrics = default_metrics(task, "val_", num_outputs=width)
        self.test_metrics = default_metrics(task, "test_", num_outputs=width)

    @abstractmethod
    def point_outputs(self, x: NetworkInput) -> Tensor:
        """Network outputs of one forward pass without any sampling.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """

    @abstractmethod
    def objective(
        self, x: NetworkInput, target: Tensor, *, num_data: int | None, kl_weight: float
    ) -> tuple[Tensor, ObjectiveTerms]:
        """The method's loss on a batch.

        Args:
            x: Input, each tensor of shape [B, ...].
            target: Target, shape [B, ...].
            num_data: N, None where it is not known.
            kl_weight: Weight of the KL divergence.

        Returns:
            The sampled network outputs [S, B, ...] and the terms of the loss.
        """

    @abstractmethod
    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:
        """Outputs of the sampled networks for prediction, in chunks.

        Args:
            x: Input, each tensor of shape [B, ...].
            num_samples: S.
            seed: Which S networks.

        Yields:
            Shape [chunk, B, ...].
        """

    def sample_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Each sample's prediction and its aleatoric spread.

        Args:
            outputs: A chunk of `sampled_outputs`.

        Returns:
            See `Likelihood.predictive_moments`.
        """
        return self.likelihood.predictive_moments(outputs)

    def undecayed_parameters(self) -> Iterable[nn.Parameter]:
        """Parameters that take no weight decay; the likelihood's by default."""
        return self.likelihood.parameters()

    def learning_rate_factors(self) -> Mapping[nn.Parameter, float]:
        """Parameters that learn at rates of their own, with what the optimizer's rate is multiplied by.

        The likelihood's are few and far from where they end, such as the std of the noise: 10 by default.
        """
        return dict.fromkeys(self.likelihood.parameters(), 10.0)

    def trained_network(self) -> nn.Module:
        """The one network that another method can start from.

        Returns:
            The method's own network.

        Raises:
            TypeError: If there is not just one.
        """
        return self.backbone

    def effective_kl_weight(self) -> float:
        """Weight of the KL divergence in the current epoch; 0 for methods without one."""
        return 0.0

    @property
    def num_data(self) -> int | None:
        """Size of the training set, None where it is not known."""
        return self._train_size

    @property
    def in_burnin(self) -> bool:
        """Whether the current epoch of a running fit belongs to the burn-in."""
        return self._trainer is not None and self.trainer.training and self.current_epoch < self.burnin_epochs

    def forward(self, x: NetworkInput) -> Tensor:
        """Network outputs without sampling, see `point_outputs`."""
        return self.point_outputs(x)

    def elbo(self, x: NetworkInput, y: Tensor, *, num_data: int | None = None) -> ObjectiveTerms:
        """The method's full objective on a batch, for a training loop of your own.

        It never burns in and uses the full KL weight. The global random state stays as it was.

        Args:
            x: Input, each tensor of shape [B, ...].
            y: Target in its original units, shape [B, ...].
            num_data: N, the size of the training set; by default what the method was given or has seen.

        Returns:
            ``(loss, nll, kl)``, differentiable.

        Raises:
            ValueError: If N is needed and not known, or not positive, or shapes do not fit.
        """
        with self.noise.fresh(self.global_rank, self.device):
            _, terms = self.objective(
                x, y, num_data=self.num_data if num_data is None else num_data, kl_weight=self.full_kl_weight
            )
        return terms

    @property
    def full_kl_weight(self) -> float:
        """Weight of the KL divergence after warm-up; 0 for methods without one."""
        return 0.0

    def predict(
        self, x: NetworkInput, num_samples: int | None = None, seed: int | None = None, return_samples: bool = False
    ) -> Prediction:
        """The predictive distribution, split into epistemic and aleatoric parts.

        Training mode, weights and the global random state stay as they were, also if a forward pass fails.

        Args:
            x: Input, each tensor of shape [B, ...].
            num_samples: S; `num_mc_samples_test` by default.
            seed: Which S networks; the same ones in every call by default.
            return_samples: Whether to return the samples' means or probabilities too.

        Returns:
            The prediction in target units, see `Prediction`.

        Raises:
            ValueError: If `num_samples` is not positive.
        """
        num_samples = self.num_mc_samples_test if num_samples is None else num_samples
        check_at_least("num_samples", num_samples, 1)
        seed = self.noise.seed if seed is None else seed
        with torch.no_grad(), evaluating(self):
            return self._predict(x, num_samples, seed, return_samples)

    def _predict(self, x: NetworkInput, num_samples: int, seed: int, return_samples: bool) -> Prediction:
        moments, spreads = RunningMoments(), RunningMoments()
        samples = []
        for outputs in self.sampled_outputs(x, num_samples, seed):
            means, spread = self.sample_moments(outputs)
            moments.update(means)
            spreads.update(spread)
            if return_samples:
                samples.append(means)
        return self.likelihood.prediction(
            moments,
            spreads.mean,
            samples=torch.cat(samples) if return_samples else None,
            metadata=self._metadata(moments.count, seed),
        )

    def _metadata(self, num_samples: int | None, seed: int | None) -> dict[str, Any]:
        return {"method": type(self).__name__, "num_samples": num_samples, "seed": seed}

    def _metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:
        outputs = torch.cat(list(self.sampled_outputs(x, self.num_mc_samples_test, self.noise.seed)))
        self.likelihood.check(outputs, target)
        return self.likelihood.metric_inputs(outputs, target)

    def on_fit_start(self) -> None:
        """Finds the size of the training set and the target's scaling."""
        self.trainer.fit_loop.setup_data()
        train_size = count_training_data(self.trainer.train_dataloader)
        if train_size == 0:
            raise ValueError("the training set is empty")
        datamodule = getattr(self.trainer, "datamodule", None)
        mean, std = (getattr(datamodule, name, None) for name in ("target_mean", "target_std"))
        if mean is not None and std is not None and isinstance(self.likelihood, RegressionLikelihood):
            self.likelihood.set_target_scaling(mean, std)
        self._train_size = train_size
        self._is_first_epoch = True
        self._epoch_means.pop()
        self.train_metrics.reset()

    def training_step(self, batch: Any, batch_idx: int = 0) -> Tensor:
        """One step on the point loss during burn-in, on the method's objective afterwards."""
        x, target = split_labelled_batch(batch)
        if self._is_first_epoch:
            self._check_values(x, target)
        with self.noise.fresh(self.global_rank, self.device):
            if self.in_burnin:
                outputs = self.point_outputs(x).unsqueeze(0)
                self.likelihood.check(outputs, target)
                loss = self.likelihood.point_loss(outputs, target)
                logged = {"train_loss": loss}
                loss = self._involving_all_parameters(loss)
            else:
                outputs, terms = self.objective(x, target, num_data=self.num_data, kl_weight=self.effective_kl_weight())
                loss = terms.loss
                logged = self._logged_terms(terms)
        self._record(outputs.detach(), target, logged, batch_idx)
        return loss

    def _involving_all_parameters(self, loss: Tensor) -> Tensor:
        """The same loss, with a gradient for each parameter where processes have to exchange them."""
        if self.trainer.world_size > 1:
            loss = loss + 0.0 * sum(p.sum() for p in self.parameters() if p.requires_grad)
        return loss

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _record(self, outputs: Tensor, target: Tensor, logged: dict[str, Tensor], batch_idx: int) -> None:
        self._epoch_means.update(logged, target.shape[0])
        interval: int = getattr(self.trainer, "log_every_n_steps", 0)
        if interval and (batch_idx + 1) % interval == 0:
            self.log("train_loss_step", logged["train_loss"], prog_bar=True)
        self.train_metrics.update(preds=self._point_prediction(outputs), target=target)

    def _point_prediction(self, outputs: Tensor) -> Tensor:
        return self.likelihood.point_prediction(outputs)

    def _logged_terms(self, terms: ObjectiveTerms) -> dict[str, Tensor]:
        return {"train_loss": terms.loss, "train_nll": terms.nll}

    def _check_values(self, x: NetworkInput, target: Tensor) -> None:
        for tensor in tensors(x):
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise ValueError("the training inputs have NaN or infinite values")
        self.likelihood.check_values(target)

    def on_train_epoch_end(self) -> None:
        """Logs the training metrics and the stage."""
        self._is_first_epoch = False
        self.log_dict(self._epoch_means.pop(), sync_dist=True)
        self.log_dict(self.train_metrics.compute())
        self.train_metrics.reset()
        stage = {"train_kl_weight": 0.0 if self.in_burnin else self.effective_kl_weight()}
        if self.burnin_epochs:
            stage["train_burnin"] = float(self.in_burnin)
        self.log_dict(stage)

    def validation_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Scores the predictive mixture."""
        _update(self.val_metrics, self._metric_inputs(*split_labelled_batch(batch)))

    def on_validation_epoch_end(self) -> None:
        """Logs the validation metrics."""
        self.log_dict(self.val_metrics.compute())
        self.val_metrics.reset()

    def test_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:  # noqa: ARG002
        """Scores the predictive mixture."""
        _update(self.test_metrics, self._metric_inputs(*split_labelled_batch(batch)))

    def on_test_epoch_end(self) -> None:
        """Logs the test metrics."""
        self.log_dict(self.test_metrics.compute())
        self.test_metrics.reset()

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> dict[str, Tensor]:  # noqa: ARG002
        """The predictive distribution of a batch.

        Args:
            batch: ``(x, y)``, ``{"input": x, "target": y}``, or the input alone.
            batch_idx: Not used.
            dataloader_idx: Not used.

        Returns:
            `pred`, `pred_uct`, `epistemic_uct`, `aleatoric_uct` and, for classification, `probs_var`, see
            `Prediction.as_dict`.
        """
        return self.predict(split_batch(batch)[0]).as_dict()

    def make_optimizer(self) -> Optimizer:
        """The optimizer of all trainable parameters; variational and likelihood parameters take no weight decay."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return build_optimizer(
            self._optimizer_factory, trained, self.undecayed_parameters(), self.learning_rate_factors()
        )

    def configure_optimizers(self) -> Any:
        """Builds the optimizer and the scheduler."""
        optimizer = self.make_optimizer()
        if self._lr_scheduler_factory is None:
            return optimizer
        scheduler = self._lr_scheduler_factory(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            monitor = getattr(scheduler, "monitor", "train_loss")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def get_extra_state(self) -> Tensor:
        """The size of the training set, -1 where it is not known."""
        return torch.tensor(-1 if self._train_size is None else self._train_size)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the size of the training set."""
        self._train_size = None if state < 0 else int(state)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _update(metrics: MetricCollection, inputs: Mapping[str, Any]) -> None:
    metrics.update(**inputs)
