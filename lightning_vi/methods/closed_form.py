"""Predictions in closed form where the network's output is Gaussian."""

from abc import abstractmethod
from typing import Any

from torch import Tensor

from lightning_vi.likelihoods import Gaussian, Prediction
from lightning_vi.methods.base import UQMethod
from lightning_vi.sampling import NetworkInput


class ClosedFormMethod(UQMethod):
    """A method that knows mean and standard deviation of a Gaussian output, and samples for other likelihoods."""

    @abstractmethod
    def output_moments(self, x: NetworkInput) -> tuple[Tensor, Tensor] | None:
        """Exact moments of the network's output.

        Args:
            x: Input, each tensor of shape [B, ...].

        Returns:
            Mean and standard deviation, each of shape [B, ...]; None where the output is not Gaussian.
        """

    def _exact_output(self, x: NetworkInput) -> tuple[Gaussian, Tensor, Tensor] | None:
        """The likelihood and the moments of the network's output, where they determine the predictive."""
        if not isinstance(self.likelihood, Gaussian):
            return None
        moments = self.output_moments(x)
        return None if moments is None else (self.likelihood, *moments)

    def _predict(self, x: NetworkInput, num_samples: int, seed: int, return_samples: bool) -> Prediction:
        exact = None if return_samples else self._exact_output(x)
        if exact is None:
            return super()._predict(x, num_samples, seed, return_samples)
        likelihood, mean, std = exact
        return likelihood.gaussian_prediction(mean, std, metadata=self._metadata(None, None))

    def _metric_inputs(self, x: NetworkInput, target: Tensor) -> dict[str, Any]:
        exact = self._exact_output(x)
        if exact is None:
            return super()._metric_inputs(x, target)
        likelihood, mean, std = exact
        likelihood.check(mean.unsqueeze(0), target)
        return likelihood.gaussian_metric_inputs(mean, std, target)
