"""What every observation model answers."""

from abc import ABC, abstractmethod
from typing import Any, Literal

from torch import Tensor, nn

from lightning_vi.functional import RunningMoments
from lightning_vi.likelihoods.prediction import Prediction

Task = Literal["regression", "classification"]


class Likelihood(nn.Module, ABC):
    """An observation model p(y | f) for network outputs f; all that tells one task from another.

    Outputs of S sampled networks have the shape [S, B, ...]; targets have no sample dimension.
    """

    task: Task

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Width of the network's output."""

    @property
    @abstractmethod
    def num_predictions(self) -> int:
        """Number of targets D for regression, of classes C for classification."""

    @property
    def shift_dim(self) -> int | None:
        """The dimension of the network's output in which a shift changes nothing, None if there is none."""
        return None

    @abstractmethod
    def check(self, outputs: Tensor, target: Tensor) -> None:
        """Refuses shapes and types that do not belong together.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].

        Raises:
            ValueError: If a shape does not fit.
            TypeError: If the target's type does not fit.
        """

    def check_values(self, target: Tensor) -> None:
        """Refuses target values that the model gives no probability; costs a synchronisation on a GPU.

        Args:
            target: Targets, shape [B, ...].

        Raises:
            ValueError: If a value lies outside the model's support.
        """
        if not target.isfinite().all():
            raise ValueError("the targets have NaN or infinite values")

    @abstractmethod
    def elementwise_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Log probability (density) of each element of the target.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].

        Returns:
            Nats, the shape of `target` with a leading dimension S.
        """

    def log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Log probability (density) of each datum: the sum over all of its elements.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].

        Returns:
            Nats, shape [S, B].
        """
        elements = self.elementwise_log_prob(outputs, target)
        return elements.flatten(2).sum(-1) if elements.dim() > 2 else elements

    @property
    def has_expected_log_prob(self) -> bool:
        """Whether there is an `expected_log_prob`."""
        return type(self).expected_log_prob is not Likelihood.expected_log_prob

    def expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:  # noqa: ARG002
        r"""Expected log probability of each datum under independent Gaussian network outputs, without sampling.

        .. math:: \mathrm{E}[\ln p(y \mid f)], \qquad f_k \sim \mathcal{N}(m_k, v_k)

        Each likelihood says whether its value is exact or a lower bound.

        Args:
            mean: Means m of the network's outputs, shape [B, ...].
            variance: Their variances v, the shape of `mean`.
            target: Targets, shape [B, ...].

        Returns:
            Nats, shape [B].

        Raises:
            TypeError: If the likelihood has no such expectation.
        """
        raise TypeError(f"{type(self).__name__} has no expected log probability in closed form")

    def information_factor(self, outputs: Tensor) -> Tensor:  # noqa: ARG002
        r"""A factor L of the Fisher information of a datum's outputs, :math:`-\mathrm{E}[\nabla^2 \ln p] = L L^\top`.

        For a natural parameter, such as logits or the mean under given noise, it is the Hessian of the negative log
        probability itself.

        Args:
            outputs: Outputs of one network, shape [B, ...]; E is the number of a datum's outputs.

        Returns:
            Shape [B, E, R], the outputs flattened; R directions are enough.

        Raises:
            TypeError: If the likelihood has no such information.
        """
        raise TypeError(f"{type(self).__name__} has no Fisher information of its outputs")

    @abstractmethod
    def point_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """The loss of burn-in, which knows no noise: squared error or cross-entropy.

        Args:
            outputs: Network outputs, shape [1, B, ...].
            target: Targets, shape [B, ...].

        Returns:
            Mean over the data of the sum over each datum's elements, a scalar tensor.
        """

    @abstractmethod
    def point_prediction(self, outputs: Tensor) -> Tensor:
        """The mean over samples of what is predicted, without any spread.

        Args:
            outputs: Network outputs, shape [S, B, ...].

        Returns:
            Predictive means [B, ..., D] in target units, or probabilities [B, C, ...].
        """

    @abstractmethod
    def predictive_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Each sample's prediction and its aleatoric spread.

        Args:
            outputs: Network outputs, shape [S, B, ...].

        Returns:
            Means and variances [S, B, ..., D], or probabilities [S, B, C, ...] and entropies [S, B, ...].
        """

    @abstractmethod
    def prediction(self, moments: RunningMoments, spread: Tensor, **extras: Any) -> Prediction:
        """The prediction of the mixture over samples.

        Args:
            moments: Moments over the samples of the first of `predictive_moments`.
            spread: Mean over the samples of the second.
            **extras: Further fields of the prediction.

        Returns:
            The prediction.
        """

    @abstractmethod
    def metric_inputs(self, outputs: Tensor, target: Tensor) -> dict[str, Any]:
        """What metrics need, by the names of their arguments.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].

        Returns:
            `preds`, `target`, `log_prob`, for regression `means` and `stds`, and `mixture` where those of Gaussians do
            not determine the predictive distribution.
        """

    @abstractmethod
    def marginalise(self, means: Tensor, spreads: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and aleatoric spread of mixtures over a latent variable.

        Args:
            means: What `predictive_moments` returned for S samples with L values of the variable, shape [S, L, B, ...].
            spreads: Their spreads, shape [S, L, B, ...].

        Returns:
            The same for each sample, shapes [S, B, ...]: the spread has what the variable makes the prediction vary.
        """

    @property
    def num_target_features(self) -> int:
        """Width of `target_features`."""
        return self.num_predictions

    @abstractmethod
    def target_features(self, target: Tensor) -> Tensor:
        """Targets as the input of a network: numbers of order one.

        Args:
            target: Targets, shape [B, D], or labels [B].

        Returns:
            Shape [B, num_target_features].
        """
