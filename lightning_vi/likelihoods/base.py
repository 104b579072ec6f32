"""Base class of observation models."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lightning_vi.arguments import all_finite
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional import RunningMoments
from lightning_vi.functional.quadrature import at_nodes, equal_points, gaussian_nodes
from lightning_vi.likelihoods.elements import sum_over_datum, weighted
from lightning_vi.likelihoods.prediction import Prediction

Task = Literal["regression", "classification"]
Support = Literal["real", "counts", "classes"]
Missing = Literal["error", "ignore"]


class Likelihood(nn.Module, ABC):
    """Base class of observation models p(y | f) for network outputs f.

    Outputs of S sampled networks have the shape [S, B, ...]; targets have no sample dimension.

    Attributes:
        task: ``"regression"`` or ``"classification"``.
        support: Values of the targets: ``"real"``, ``"counts"`` or ``"classes"``.
        has_gaussian_noise: True if the noise is Gaussian with a variance that does not depend on the network's output,
            so that Gaussian network outputs give a closed-form predictive distribution.
        has_output_noise: True if the scale of the noise is an output of the network too.
        scale_targets: True if a fit finds the scaling of the targets in its data, see `set_target_scaling`.
        has_bounded_gradient: True if the gradient of the log-likelihood with respect to the outputs is bounded, as
            that of a softmax is.
        is_ordered: True for classes that have an order.
        is_multi_label: True for several labels of a datum, each with the classes "no" and "yes".
    """

    task: Task
    support: Support
    has_gaussian_noise: bool = False
    has_output_noise: bool = False
    has_bounded_gradient: bool = False
    is_ordered: bool = False
    is_multi_label: bool = False
    scale_targets: bool = False

    @property
    @abstractmethod
    def num_outputs(self) -> int:
        """Width of the network's output."""

    @property
    @abstractmethod
    def num_predictions(self) -> int:
        """Number of targets D for regression, of classes C for classification."""

    @property
    def output_dim(self) -> int:
        """Dimension of the network's output [B, ...] that has the width `num_outputs`."""
        return -1

    @property
    def prediction_dim(self) -> int:
        """Dimension of predictions [B, ...] that has the width `num_predictions`; that of targets in regression."""
        return 1 if self.task == "classification" else -1

    @property
    def unwrapped(self) -> "Likelihood":
        """The likelihood inside of one that changes the order of dimensions; else the likelihood itself."""
        return self

    @property
    def softmax_dim(self) -> int | None:
        """Softmax dimension: the dimension of the network's output in which adding a constant changes nothing.

        None if there is none.
        """
        return None

    @property
    def outputs_per_element(self) -> int:
        """Number of network outputs that determine one element of the target: `num_outputs` or a divisor of it.

        The j-th of these outputs for each of D elements are next to each other: the first D outputs, the next D, etc.
        """
        return self.num_outputs

    @property
    def is_scaled(self) -> bool:
        """True if the network's units differ from those of the targets."""
        return False

    def set_target_scaling(self, mean: Tensor, std: Tensor) -> None:  # noqa: ARG002
        """Declares that the network predicts ``(target - mean) / std``; does nothing for targets without units.

        Args:
            mean: Shape [D], in target units.
            std: Shape [D], positive, in target units.

        Raises:
            ValueError: If a shape or value is wrong, or the targets cannot be scaled.
        """
        return

    def scaled_as(self, other: "Likelihood") -> "Likelihood":  # noqa: ARG002
        """Returns the likelihood with the target's scaling of another one, for a network that was trained with that.

        Args:
            other: The likelihood of the trained network.

        Returns:
            A copy; the likelihood itself if it has a scaling, or one of them has no units.
        """
        return self

    @abstractmethod
    def check_outputs(self, outputs: Tensor, target: Tensor | None = None) -> None:
        """Checks the shape of outputs.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, if they are known, for the advice in the error.

        Raises:
            ValueError: If the shape does not fit.
        """

    @abstractmethod
    def check(self, outputs: Tensor, target: Tensor) -> None:
        """Checks the shapes and types of outputs and targets.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].

        Raises:
            ValueError: If a shape does not fit.
            TypeError: If the target's type does not fit.
        """

    def observed(self, target: Tensor) -> Tensor | None:  # noqa: ARG002
        """Returns which elements of the target are observed.

        Elements that are not have no part in log probabilities, losses, metrics, calibrations and curvature.

        Args:
            target: Targets, shape [B, ...].

        Returns:
            True for the observed elements, the shape of `target`; None if none can be missing.
        """
        return None

    def fill(self, target: Tensor) -> Tensor:
        """Replaces missing elements by zero, which is in every support.

        Args:
            target: Targets, shape [B, ...].

        Returns:
            The shape of `target`.
        """
        observed = self.observed(target)
        return target if observed is None else torch.where(observed, target, target.new_zeros(()))

    def metric_target(self, target: Tensor) -> Tensor:
        """Targets as metrics take them: numbers, or labels as integers.

        Args:
            target: Targets, shape [B, ...].

        Returns:
            The shape of `target`; missing elements may have any value.
        """
        return target

    def element_weights(self, target: Tensor, weight: Tensor | None = None) -> Tensor | None:  # noqa: ARG002
        """Weights of a training objective: those of the rows, times those of the classes.

        Args:
            target: Targets, shape [B, ...].
            weight: Weights of the rows, shape [B], or None.

        Returns:
            Shape [B], or the shape of `target`; None if all weights are one.
        """
        return weight

    def per_output(self, values: Tensor, outputs: Tensor) -> Tensor:
        """Spreads values of the target's elements over the network outputs that determine them.

        Args:
            values: Shape [B], or the target's.
            outputs: Network outputs, shape [B, ...].

        Returns:
            The shape of `outputs`.

        Raises:
            TypeError: If the likelihood does not say which outputs these are.
        """
        if values.dim() > 1:
            raise InputTypeError(f"{type(self).__name__} has no per_output, which weights of single elements need")
        return values.view(-1, *[1] * (outputs.dim() - 1)).expand_as(outputs)

    def check_values(self, target: Tensor) -> None:
        """Checks that the observed elements of the target are in the support; this synchronizes with a GPU.

        Args:
            target: Targets, shape [B, ...].

        Raises:
            ValueError: If a value is outside the support.
        """
        if not all_finite(self.fill(target)):
            raise InputValueError("the targets have NaN or infinite values")

    @abstractmethod
    def elementwise_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Log probability (density) of each element of the target; none is missing.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].

        Returns:
            Nats, the shape of `target` with a leading dimension S.
        """

    def observed_log_prob(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Log probability (density) of each element of the target, zero for those that are missing.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].
            weight: Factors, see `element_weights`.

        Returns:
            Nats, the shape of `target` with a leading dimension S.
        """
        return weighted(self.elementwise_log_prob(outputs, self.fill(target)), self.observed(target), weight)

    def log_prob(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Log probability (density) of each datum: the sum over all of its observed elements.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].
            weight: Factors of the log probabilities, see `element_weights`.

        Returns:
            Nats, shape [S, B].
        """
        return self._sums(self.elementwise_log_prob(outputs, self.fill(target)), target, weight)

    def _sums(self, elements: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Sums [S, B] of weighted values [S, B, ...] over the observed elements of each datum."""
        return sum_over_datum(weighted(elements, self.observed(target), weight))

    def log_probs(self, outputs: Tensor) -> Tensor:  # noqa: ARG002
        """Log-probabilities of all classes.

        Args:
            outputs: Network outputs, shape [S, B, ...].

        Returns:
            Normalized log-probabilities in nats, shape [S, B, C, ...].

        Raises:
            TypeError: If the likelihood has no classes.
        """
        raise InputTypeError(f"{type(self).__name__} has no classes")

    def probit_log_probs(self, mean: Tensor, variance: Tensor) -> Tensor:  # noqa: ARG002
        r"""Log-probabilities of all classes under Gaussian network outputs, by the probit approximation.

        .. math:: \mathrm{E}[\sigma(f)] \approx \sigma\big(m / \sqrt{1 + \pi v / 8}\big)

        Args:
            mean: Means m of the network's outputs, shape [B, ...].
            variance: Their variances v, the shape of `mean`; without the mean over classes for a softmax.

        Returns:
            Normalized log-probabilities in nats, shape [B, C, ...].

        Raises:
            TypeError: If the likelihood has no classes.
        """
        raise InputTypeError(f"{type(self).__name__} has no classes")

    def expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Expected log probability of each datum: the sum of `elementwise_expected_log_prob`.

        Args:
            mean: Means of the network's outputs, shape [B, ...].
            variance: Their variances, the shape of `mean`.
            target: Targets, shape [B, ...].
            weight: Factors of the log probabilities, see `element_weights`.

        Returns:
            Nats, shape [B].
        """
        elements = self.elementwise_expected_log_prob(mean, variance, self.fill(target)).unsqueeze(0)
        return self._sums(elements, target, weight)[0]

    def elementwise_expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:
        r"""Expected log probability of each element under independent Gaussian network outputs, without sampling.

        .. math:: \mathrm{E}[\ln p(y \mid f)], \qquad f_k \sim \mathcal{N}(m_k, v_k)

        The default is a deterministic rule, see `lightning_vi.functional.quadrature.gaussian_nodes`:

        - Gauss-Hermite quadrature with 32 nodes where one output determines an element of the target. The error is
          below 1e-5 nats for counts if the outputs' standard deviation is at most 2, and below 1e-2 nats for Student's
          t noise if it is at most 4 noise scales.
        - 512 quasi-Monte Carlo points where several outputs determine an element. The error is about 1e-3 nats for a
          softmax of ten logits with a standard deviation of 1, and larger for log probabilities that vary more.

        Args:
            mean: Means m of the network's outputs, shape [B, ...].
            variance: Their variances v, the shape of `mean`.
            target: Targets, shape [B, ...]; none is missing.

        Returns:
            Nats, the shape of `target`.
        """
        nodes, weights = gaussian_nodes(self.outputs_per_element, like=mean)
        # The gradient of the square root is infinite at 0.
        std = variance.to(nodes.dtype).clamp_min(torch.finfo(nodes.dtype).eps ** 2).sqrt()
        elements = self.elementwise_log_prob(at_nodes(nodes, mean, std, self.output_dim), target)
        expectation: Tensor = torch.tensordot(weights, elements, 1)
        return expectation

    def information_factor(self, outputs: Tensor) -> Tensor:  # noqa: ARG002
        r"""Square root of the output-space Fisher information (GGN).

        .. math:: L L^\top = -\mathrm{E}[\nabla_f^2 \ln p(y \mid f)]

        For a natural parameter, such as logits or the mean under a given noise variance, this is the Hessian of the
        negative log probability.

        Args:
            outputs: Outputs of one network, shape [B, ...], with E elements for each datum.

        Returns:
            L, shape [B, E, R], for the flattened outputs and a rank of at most R.

        Raises:
            TypeError: If the likelihood has no Fisher information.
        """
        raise InputTypeError(f"{type(self).__name__} has no Fisher information of its outputs")

    def gaussian_prediction(self, mean: Tensor, std: Tensor, **extras: Any) -> Prediction:
        """Prediction for independent Gaussian network outputs.

        It is exact with `has_gaussian_noise`. The default treats 64 equally probable outputs of
        `lightning_vi.functional.quadrature.equal_points` as samples.

        Args:
            mean: Means of the network's outputs, shape [B, ...].
            std: Standard deviations of the network's outputs, the shape of `mean`.
            **extras: Further fields of the prediction.

        Returns:
            The prediction in target units.
        """
        moments = RunningMoments()
        means, spread = self.predictive_moments(self._likely_outputs(mean, std))
        moments.update(means)
        return self.prediction(moments, spread.mean(0), **extras)

    def gaussian_metric_inputs(self, mean: Tensor, std: Tensor, target: Tensor) -> dict[str, Any]:
        """Inputs of the metrics for independent Gaussian network outputs, see `gaussian_prediction`.

        Args:
            mean: Means of the network's outputs, shape [B, ...].
            std: Standard deviations of the network's outputs, the shape of `mean`.
            target: Targets, shape [B, ...].

        Returns:
            The keys of `metric_inputs`; the density of a datum is the product of its elements' marginals.
        """
        outputs = self._likely_outputs(mean, std)
        log_prob = self.elementwise_log_prob(outputs, self.fill(target)).logsumexp(0, keepdim=True)
        log_prob = self._sums(log_prob - math.log(len(outputs)), target)
        return self.metric_inputs(outputs, target) | {"log_prob": log_prob}

    def gaussian_log_probs(self, mean: Tensor, std: Tensor) -> Tensor:
        """Log-probabilities of all classes for independent Gaussian network outputs, see `gaussian_prediction`.

        Args:
            mean: Means of the network's outputs, shape [B, ...].
            std: Standard deviations of the network's outputs, the shape of `mean`.

        Returns:
            Normalized log-probabilities in nats, shape [B, C, ...].

        Raises:
            TypeError: If the likelihood has no classes.
        """
        log_probs = self.log_probs(self._likely_outputs(mean, std))
        return log_probs.logsumexp(0) - math.log(len(log_probs))

    def _likely_outputs(self, mean: Tensor, std: Tensor) -> Tensor:
        """Equally probable outputs [Q, B, ...]."""
        points = equal_points(self.outputs_per_element, like=mean)
        return at_nodes(points, mean, std.to(points.dtype), self.output_dim)

    @abstractmethod
    def elementwise_point_loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Loss of burn-in for each element, without noise parameters: squared error or cross-entropy.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...]; none is missing.

        Returns:
            The shape of `target` with a leading dimension S.
        """

    def point_loss(self, outputs: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """Loss of burn-in, without noise parameters.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].
            weight: Factors, see `element_weights`.

        Returns:
            Mean over samples and data of the sum over each datum's observed elements, a scalar tensor.
        """
        elements = self.elementwise_point_loss(outputs, self.fill(target))
        return self._sums(elements, target, weight).mean()

    @abstractmethod
    def point_prediction(self, outputs: Tensor) -> Tensor:
        """Mean prediction over samples, without a spread.

        Args:
            outputs: Network outputs, shape [S, B, ...].

        Returns:
            Predictive means [B, ..., D] in target units, or probabilities [B, C, ...].
        """

    @abstractmethod
    def predictive_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and aleatoric spread of each sample.

        Args:
            outputs: Network outputs, shape [S, B, ...].

        Returns:
            Means and variances [S, B, ..., D], or probabilities [S, B, C, ...] and entropies [S, B, ...].
        """

    @abstractmethod
    def prediction(self, moments: RunningMoments, spread: Tensor, **extras: Any) -> Prediction:
        """Prediction of the mixture over samples.

        Args:
            moments: Moments over the samples of the first output of `predictive_moments`.
            spread: Mean over the samples of the second output.
            **extras: Further fields of the prediction.

        Returns:
            The prediction.
        """

    @abstractmethod
    def metric_inputs(self, outputs: Tensor, target: Tensor) -> dict[str, Any]:
        """Inputs of the metrics, by argument name.

        Inputs of several chunks of samples are joined by `join_chunks`, those of an ensemble's members by
        `join_members`.

        Args:
            outputs: Network outputs, shape [S, B, ...].
            target: Targets, shape [B, ...].

        Returns:
            `preds`, `target` and `log_prob` [S, B], for regression also `means` and `stds` [S, B, ..., D], and
            `mixture` where the predictive distribution is not a mixture of Gaussians.
        """

    @abstractmethod
    def marginalize(self, means: Tensor, spreads: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction and aleatoric spread of mixtures over a latent variable.

        Args:
            means: First output of `predictive_moments` for S samples and L values of the variable, shape
                [S, L, B, ...].
            spreads: Second output, shape [S, L, B, ...].

        Returns:
            Prediction and spread of each sample, shapes [S, B, ...]; the spread includes the variation over the
            variable.
        """

    @property
    def num_target_features(self) -> int:
        """Width of `target_features`."""
        return self.num_predictions

    @abstractmethod
    def target_features(self, target: Tensor) -> Tensor:
        """Targets as inputs of a network, of order one.

        Args:
            target: Targets, shape [B, D], or labels [B].

        Returns:
            Shape [B, num_target_features].
        """
