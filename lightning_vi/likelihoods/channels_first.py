"""Regression on images [B, D, H, W], whose targets are channels."""

import copy
from typing import Any

import torch
from torch import Tensor

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional import RunningMoments
from lightning_vi.functional.mixture import Mixture
from lightning_vi.likelihoods.base import Likelihood
from lightning_vi.likelihoods.location_scale import LocationScaleLikelihood
from lightning_vi.likelihoods.prediction import Prediction
from lightning_vi.likelihoods.quantiles import Quantiles
from lightning_vi.likelihoods.regression import RegressionLikelihood


class ChannelsFirst(Likelihood):
    """Likelihood of a regression at each pixel, with the D targets in dimension 1, as convolutions have their channels.

    Network outputs are [B, width, H, W] for the width that the likelihood needs; targets, predictions and their parts
    are [B, D, H, W]. Any number of further dimensions can take the place of height and width. Noise parameters and the
    scaling of the targets belong to the channels.

    Args:
        likelihood: Likelihood of the targets of one pixel, such as ``HeteroscedasticGaussian(num_targets=D)``; not
            `Quantiles`.

    Raises:
        TypeError: If `likelihood` is not for regression, or is `Quantiles`.

    Example:
        >>> import torch
        >>> from lightning_vi.likelihoods import Gaussian
        >>> likelihood = ChannelsFirst(Gaussian(noise_std=0.5, num_targets=3))
        >>> likelihood.log_prob(torch.zeros(7, 2, 3, 8, 8), torch.zeros(2, 3, 8, 8)).shape
        torch.Size([7, 2])
    """

    def __init__(self, likelihood: RegressionLikelihood) -> None:
        super().__init__()
        if not isinstance(likelihood, RegressionLikelihood) or isinstance(likelihood, Quantiles):
            advice = (
                ": Categorical and Bernoulli have class_dim" if getattr(likelihood, "task", "") != "regression" else ""
            )
            raise InputTypeError(
                "ChannelsFirst needs a likelihood for regression other than Quantiles, got a "
                f"{type(likelihood).__name__}{advice}"
            )
        self.inner = likelihood
        self.task = likelihood.task
        self.support = likelihood.support
        self.has_gaussian_noise = likelihood.has_gaussian_noise
        self.has_output_noise = likelihood.has_output_noise
        self.has_bounded_gradient = likelihood.has_bounded_gradient
        self.scale_targets = likelihood.scale_targets

    @property
    def unwrapped(self) -> Likelihood:  # noqa: D102
        return self.inner

    @property
    def num_outputs(self) -> int:  # noqa: D102
        return self.inner.num_outputs

    @property
    def num_predictions(self) -> int:  # noqa: D102
        return self.inner.num_predictions

    @property
    def outputs_per_element(self) -> int:  # noqa: D102
        return self.inner.outputs_per_element

    @property
    def output_dim(self) -> int:
        """1, that of the channels."""
        return 1

    @property
    def prediction_dim(self) -> int:
        """1, that of the channels."""
        return 1

    @property
    def is_scaled(self) -> bool:  # noqa: D102
        return self.inner.is_scaled

    def set_target_scaling(self, mean: Tensor, std: Tensor) -> None:  # noqa: D102
        self.inner.set_target_scaling(mean, std)

    def scaled_as(self, other: Likelihood) -> Likelihood:  # noqa: D102
        scaled = self.inner.scaled_as(other.unwrapped)
        if scaled is self.inner:
            return self
        result = copy.copy(self)
        result._modules = {**self._modules, "inner": scaled}
        return result

    def check_outputs(self, outputs: Tensor, target: Tensor | None = None) -> None:  # noqa: ARG002, D102
        width = self.num_outputs
        if outputs.dim() < 4 or outputs.shape[2] != width:
            raise InputValueError(
                f"{self._name} needs network outputs of shape [B, {width}, ...] with positions, such as "
                f"[B, {width}, H, W], got {list(outputs.shape[1:])}: build the network with {width} output channels"
            )

    def check(self, outputs: Tensor, target: Tensor) -> None:  # noqa: D102
        self.check_outputs(outputs)
        expected = [outputs.shape[1], self.num_predictions, *outputs.shape[3:]]
        if list(target.shape) != expected:
            is_last = target.dim() > 2 and list(target.movedim(-1, 1).shape) == expected
            advice = ": use target.movedim(-1, 1)" if is_last else ""
            if list(target.shape) == [expected[0], *expected[2:]] and expected[1] == 1:
                advice = ": use target.unsqueeze(1)"
            raise InputValueError(f"{self._name} needs targets of shape {expected}, got {list(target.shape)}{advice}")
        if not target.is_floating_point():
            raise InputTypeError(f"{self._name} needs floating-point targets, got {target.dtype}: use target.float()")

    @property
    def _name(self) -> str:
        return f"ChannelsFirst({type(self.inner).__name__}(num_targets={self.num_predictions}))"

    def observed(self, target: Tensor) -> Tensor | None:  # noqa: D102
        return self.inner.observed(target)

    def check_values(self, target: Tensor) -> None:  # noqa: D102
        self.inner.check_values(target)

    def per_output(self, values: Tensor, outputs: Tensor) -> Tensor:  # noqa: D102
        if values.dim() > 1:
            values = _last(values, 1)
        return _first(self.inner.per_output(values, _last(outputs, 1)), 1)

    def elementwise_log_prob(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        return _first(self.inner.elementwise_log_prob(_last(outputs, 2), _last(target, 1)), 2)

    def elementwise_expected_log_prob(self, mean: Tensor, variance: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        parts = (_last(part, 1) for part in (mean, variance, target))
        return _first(self.inner.elementwise_expected_log_prob(*parts), 1)

    def standardized_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation in the network's units.

        Args:
            outputs: Network outputs, shape [S, B, width, ...].

        Returns:
            Each of a shape that broadcasts to [S, B, D, ...].

        Raises:
            TypeError: If the likelihood of a pixel has none.
        """
        if not isinstance(self.inner, LocationScaleLikelihood):
            raise InputTypeError(f"{type(self.inner).__name__} has no location and scale")
        mean, std = self.inner.standardized_moments(_last(outputs, 2))
        return _first(mean, 2), _first(std.expand_as(mean), 2)

    def information_factor(self, outputs: Tensor) -> Tensor:  # noqa: D102
        moved = _last(outputs, 1)
        factor = self.inner.information_factor(moved)
        by_output = factor.view(*moved.shape, factor.shape[-1]).movedim(-2, 1)
        return by_output.reshape(len(outputs), -1, factor.shape[-1])

    def gaussian_prediction(self, mean: Tensor, std: Tensor, **extras: Any) -> Prediction:  # noqa: D102
        return self.inner.gaussian_prediction(_last(mean, 1), _last(std, 1), **extras).moved(-1, 1)

    def gaussian_metric_inputs(self, mean: Tensor, std: Tensor, target: Tensor) -> dict[str, Any]:  # noqa: D102
        return moved_metric_inputs(
            self.inner.gaussian_metric_inputs(_last(mean, 1), _last(std, 1), _last(target, 1)), -1, 1
        )

    def elementwise_point_loss(self, outputs: Tensor, target: Tensor) -> Tensor:  # noqa: D102
        return _first(self.inner.elementwise_point_loss(_last(outputs, 2), _last(target, 1)), 2)

    def point_prediction(self, outputs: Tensor) -> Tensor:  # noqa: D102
        return _first(self.inner.point_prediction(_last(outputs, 2)), 1)

    def predictive_moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        means, variances = self.inner.predictive_moments(_last(outputs, 2))
        return _first(means, 2), _first(variances, 2)

    def prediction(self, moments: RunningMoments, spread: Tensor, **extras: Any) -> Prediction:  # noqa: D102
        return self.inner.prediction(moments, spread, **extras)

    def metric_inputs(self, outputs: Tensor, target: Tensor) -> dict[str, Any]:  # noqa: D102
        return moved_metric_inputs(self.inner.metric_inputs(_last(outputs, 2), _last(target, 1)), -1, 1)

    def marginalize(self, means: Tensor, spreads: Tensor) -> tuple[Tensor, Tensor]:  # noqa: D102
        return self.inner.marginalize(means, spreads)

    def target_features(self, target: Tensor) -> Tensor:
        """Standardized targets.

        Args:
            target: Shape [B, D, ...].

        Returns:
            The shape of `target`.
        """
        return _first(self.inner.target_features(_last(target, 1)), 1)


def moved_metric_inputs(inputs: dict[str, Any], source: int, destination: int) -> dict[str, Any]:
    """Moves the dimension of the targets in the inputs of metrics.

    Args:
        inputs: Outputs of `Likelihood.metric_inputs` of a regression.
        source: Dimension of the targets in `target`, 1 or -1.
        destination: Where it is moved to, -1 or 1.

    Returns:
        The same keys.
    """
    result = dict(inputs)
    for name in ("preds", "target", "lower", "upper"):
        if result.get(name) is not None:
            result[name] = result[name].movedim(source, destination)
    if "means" not in inputs:
        return result
    # Counted from the end, the channels of [..., B, D, H, W] have the same place for any number of leading dimensions.
    first = 1 - inputs["target"].dim()
    source, destination = (first if dim == 1 else dim for dim in (source, destination))
    for name in ("means", "stds"):
        result[name] = inputs[name].movedim(source, destination)
    if "mixture" in inputs:
        old: Mixture = inputs["mixture"]

        def moved(function: Any) -> Any:
            return lambda values: function(values.movedim(destination, source)).movedim(source, destination)

        pmf = None if old.component_pmf is None else moved(old.component_pmf)
        result["mixture"] = Mixture(moved(old.component_cdf), result["means"], result["stds"], pmf)
    return result


def _last(values: Tensor, dim: int) -> Tensor:
    return torch.movedim(values, dim, -1)


def _first(values: Tensor, dim: int) -> Tensor:
    return torch.movedim(values, -1, dim)
