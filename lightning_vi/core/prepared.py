"""Base class of predictors that learn facts of the training data before their first step on them."""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from lightning_vi.arguments import check_at_least
from lightning_vi.core.batch import check_values, to_device
from lightning_vi.core.input_range import InputRange
from lightning_vi.core.intake import network_batch
from lightning_vi.core.optimization import OptimizedPredictor
from lightning_vi.core.optimizers import LRSchedulerFactory, OptimizerFactory
from lightning_vi.core.target_scaling import scale_targets
from lightning_vi.core.training_data import single_dataloader
from lightning_vi.core.training_sample import training_sample
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Likelihood
from lightning_vi.objectives import count_training_data
from lightning_vi.sampling import NetworkInput


class PreparedPredictor(OptimizedPredictor):
    """Base class of predictors that find the size of the training set, the range of inputs and the scaling of targets.

    Args:
        likelihood: The observation model.
        num_mc_samples_test: Number of samples for validation, test and prediction.
        num_data: Size of the training set; by default it is read from the training dataloader.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler; None for a constant learning rate.

    Raises:
        ValueError: If `num_data` is not positive.
    """

    backbone: nn.Module

    def __init__(
        self,
        likelihood: Likelihood,
        *,
        num_mc_samples_test: int,
        num_data: int | None,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        if num_data is not None:
            check_at_least("num_data", num_data, 1)
        super().__init__(
            likelihood, num_mc_samples_test=num_mc_samples_test, optimizer=optimizer, lr_scheduler=lr_scheduler
        )
        self._num_data_given = num_data
        self._train_size: int | None = None
        self._was_trained_elsewhere = False
        self._scales_by_batch = False
        self._prepared_loader: Any = None

    @abstractmethod
    def point_outputs(self, x: NetworkInput) -> Tensor:
        """Computes network outputs in one forward pass, without sampling.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """

    @property
    @abstractmethod
    def needs_num_data(self) -> bool:
        """True if the loss depends on N."""

    @property
    def is_trained(self) -> bool:
        """True after a fit and after calls of `elbo` with gradients, also if loaded from a state dictionary.

        A network without trainable parameters counts as trained. Set it to True for one that was trained in another
        way.
        """
        is_frozen = not any(parameter.requires_grad for parameter in self.backbone.parameters())
        return self._train_size is not None or self._was_trained_elsewhere or is_frozen

    @is_trained.setter
    def is_trained(self, is_trained: bool) -> None:
        self._was_trained_elsewhere = is_trained

    @property
    def num_data(self) -> int | None:
        """Size N of the training set, None if unknown."""
        return self._train_size if self._num_data_given is None else self._num_data_given

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
            raise InputValueError(
                "num_data is unknown: the training data have no length, so give num_data=..., or the dataset a __len__"
            )
        return num_data

    def _prepare(self) -> None:
        """Finds N, the range of the inputs and the scaling of the targets, once for each training dataloader.

        `Trainer.fit`, the search for a learning rate or a batch size, and reloaded dataloaders come by here before
        their first step.
        """
        loader = single_dataloader(self.trainer)
        if loader is self._prepared_loader:
            return
        train_size = count_training_data(loader)
        if train_size == 0:
            raise InputValueError("the training set is empty")
        self._prepare_for_data(loader)
        known, self._train_size = self.num_data, train_size
        if self.needs_num_data:
            self.on_new_num_data(known, self.require_num_data(self.num_data))
        self._prepared_loader = loader

    def on_new_num_data(self, known: int | None, num_data: int) -> None:
        """Adapts what depends on the size of the training set; called before the first step on a dataloader.

        Args:
            known: The size so far, None if unknown.
            num_data: The size.
        """

    def _prepare_for_data(self, dataloader: Any) -> None:
        """Finds the range of the inputs, and the scaling of the targets unless the datamodule has one.

        It runs before N is set, which tells a trained method from a new one; repeated calls change nothing.
        """
        datamodule = getattr(self.trainer, "datamodule", None)
        mean, std = (getattr(datamodule, name, None) for name in ("target_mean", "target_std"))
        likelihood, is_scaling = self.likelihood, False
        if mean is not None and std is not None:
            likelihood.set_target_scaling(mean, std)
        else:
            is_scaling = likelihood.scale_targets and not self.is_trained and not likelihood.is_scaled
        sample = training_sample(dataloader, rows_only=not is_scaling, target_dim=likelihood.prediction_dim)
        self.input_range = None if sample is None or sample.inputs is None else InputRange.of(sample.inputs)
        self._scales_by_batch |= is_scaling and sample is None
        if is_scaling and sample is not None:
            moved = (to_device(self, batch) for batch in sample.batches)
            batches = [network_batch(x, target, self) for x, target in moved]
            scale_targets(self, sample.targets, batches)

    def mean_prediction(self, outputs: Tensor) -> Tensor:
        """Prediction from the outputs of `point_outputs`, for the scaling of targets.

        Args:
            outputs: Shape [1, B, ...].

        Returns:
            Shape [B, ..., D].
        """
        return self.likelihood.point_prediction(outputs)

    def _check_values(self, x: NetworkInput, target: Tensor, weight: Tensor | None = None) -> None:
        if self._scales_by_batch:
            self._scales_by_batch = False
            scale_targets(self, target.movedim(self.likelihood.prediction_dim, -1), [(x, target)])
        check_values(self.likelihood, x, target, weight, "training inputs")

    def size_of_fit(self) -> int | None:
        """Returns the size of the training set, also before the fit has counted it; None if it is unknown."""
        if self._num_data_given is None and self._trainer is not None and math.isfinite(self.num_steps):
            return count_training_data(single_dataloader(self.trainer))
        return self.num_data

    def get_extra_state(self) -> Tensor:
        """Returns the size of the training set; -2 if unknown for a trained method, -1 for an untrained one."""
        unknown = -2 if self.is_trained else -1
        return torch.tensor(unknown if self._train_size is None else self._train_size)

    def set_extra_state(self, state: Tensor) -> None:
        """Restores the size of the training set, and whether the method is trained."""
        self._train_size = None if state < 0 else int(state)
        self._was_trained_elsewhere = int(state) == -2
