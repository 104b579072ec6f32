"""Base class of methods with a single deterministic network."""

import copy
from collections.abc import Iterator

from torch import Tensor, nn

from lightning_vi.core import LRSchedulerFactory, OptimizerFactory, Predictive, UQMethod
from lightning_vi.likelihoods import Likelihood
from lightning_vi.objectives import ObjectiveTerms
from lightning_vi.sampling import NetworkInput, call


class PointMethod(UQMethod):
    """Base class of methods that train one deterministic network on a negative log-likelihood.

    Args:
        backbone: Any network; it is copied.
        likelihood: The observation model; it is copied.
        num_mc_samples_test: Number of samples for validation, test and prediction; 1 for methods that do not sample.
        burnin_epochs: Number of initial epochs that train on the likelihood's point loss.
        optimizer: Function from an iterable of parameters to an optimizer.
        lr_scheduler: Function from the optimizer to a scheduler, which is stepped once per epoch.
    """

    def __init__(
        self,
        backbone: nn.Module,
        likelihood: Likelihood,
        *,
        num_mc_samples_test: int = 1,
        burnin_epochs: int,
        num_data: int | None = None,
        optimizer: OptimizerFactory,
        lr_scheduler: LRSchedulerFactory | None,
    ) -> None:
        super().__init__(
            copy.deepcopy(backbone),
            likelihood,
            num_mc_samples_test=num_mc_samples_test,
            burnin_epochs=burnin_epochs,
            num_data=num_data,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
        )

    def point_outputs(self, x: NetworkInput) -> Tensor:  # noqa: D102
        return call(self.backbone, x)

    def training_outputs(self, x: NetworkInput) -> Tensor:
        """Computes the network outputs for the loss; `point_outputs` by default.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Shape [B, ...].
        """
        return self.point_outputs(x)

    def sampled_outputs(self, x: NetworkInput, num_samples: int, seed: int) -> Iterator[Tensor]:  # noqa: ARG002, D102
        yield self.point_outputs(x).unsqueeze(0)

    def make_moments_predictive(self, x: NetworkInput) -> Predictive:
        """Makes the predictive distribution of the one network.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            The distribution.

        Raises:
            TypeError: If a subclass samples several networks, and has no `propagated_moments`.
        """
        if type(self).sampled_outputs is PointMethod.sampled_outputs:
            return self.make_predictive(x, 1, self.noise.seed)
        return super().make_moments_predictive(x)

    def objective(  # noqa: D102
        self,
        x: NetworkInput,
        target: Tensor,
        weight: Tensor | None = None,
        *,
        num_data: int | None,  # noqa: ARG002
        kl_weight: float,  # noqa: ARG002
    ) -> tuple[Tensor, ObjectiveTerms]:
        outputs = self.training_outputs(x).unsqueeze(0)
        self.likelihood.check(outputs, target)
        log_prob = self.likelihood.observed_log_prob(outputs, target, weight)
        nll = -log_prob.sum() / target.shape[0]
        return outputs, ObjectiveTerms(self.loss(outputs, log_prob), nll, nll.new_zeros(()))

    def loss(self, outputs: Tensor, log_prob: Tensor) -> Tensor:  # noqa: ARG002
        """Computes the training loss; the negative log-likelihood by default.

        Args:
            outputs: Network outputs, shape [1, B, ...].
            log_prob: Weighted log-likelihood of each element of the target, shape [1, B, ...].

        Returns:
            Mean over the batch of the sum over the elements of the target, a scalar tensor.
        """
        return -log_prob.sum() / log_prob.shape[1]
