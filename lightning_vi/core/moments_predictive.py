"""Predictive distribution for means and variances of the network's outputs."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_vi.core.predictive import Predictive
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.quadrature import NUM_EQUAL_POINTS
from lightning_vi.likelihoods import Likelihood, Prediction
from lightning_vi.sampling import chunk_ranges, memory, num_fitting


class MomentsPredictive(Predictive):
    r"""Predictive distribution of independent Gaussian network outputs :math:`f \sim \mathcal{N}(m, v)`.

    It has a closed form under Gaussian noise. Otherwise the expectation over f is computed by quadrature, see
    `Likelihood.gaussian_prediction`. The density of a datum is the product over its elements.

    Args:
        likelihood: The observation model.
        output_moments: Returns m and v, each of shape [B, ...].
    """

    def __init__(self, likelihood: Likelihood, output_moments: Callable[[], tuple[Tensor, Tensor]]) -> None:
        self.likelihood = likelihood
        self._output_moments = output_moments

    @cached_property
    def _output(self) -> tuple[Tensor, Tensor]:
        """Means and standard deviations."""
        mean, variance = self._output_moments()
        self.likelihood.check_outputs(mean.unsqueeze(0))
        return mean, variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()

    def keep(self) -> None:  # noqa: D102
        self._output  # noqa: B018

    def prediction(self, *, return_samples: bool = False) -> Prediction:
        """Summarizes the distribution, split into epistemic and aleatoric parts.

        Args:
            return_samples: Not available.

        Returns:
            The prediction in target units, with ``approximation`` in its metadata.

        Raises:
            ValueError: If samples are asked for.
        """
        if return_samples:
            raise InputValueError("return_samples=True needs approximation='sampling', because 'moments' has none")
        mean, std = self._output
        size = num_fitting(memory.MAX_SCORED_NUMBERS, NUM_EQUAL_POINTS * max(mean[:1].numel(), 1))
        parts = [
            self.likelihood.gaussian_prediction(mean[first:stop], std[first:stop])
            for first, stop in chunk_ranges(len(mean), size)
        ]
        facts = {"num_samples": None, "seed": None, "approximation": "moments"}
        return Prediction(**_joined(parts), metadata=facts)

    def log_probs(self) -> Tensor:  # noqa: D102
        return self.likelihood.gaussian_log_probs(*self._output)

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        mean, std = self._output
        self.likelihood.check(mean.unsqueeze(0), target)
        return self.likelihood.gaussian_metric_inputs(mean, std, target)


def no_moments(method: object) -> InputTypeError:
    """Makes the error of a method without ``approximation="moments"``.

    Args:
        method: The method.

    Returns:
        The error.
    """
    return InputTypeError(
        f"approximation='moments' needs the marginal variances of the weights, which {type(method).__name__} does not "
        "have: use approximation='sampling'"
    )


def _joined(parts: Sequence[Prediction]) -> dict[str, Any]:
    """Fields of the predictions of several parts of a batch."""
    names = [field.name for field in fields(Prediction) if isinstance(getattr(parts[0], field.name), Tensor)]
    if len(parts) == 1:
        return {name: getattr(parts[0], name) for name in names}
    return {name: torch.cat([getattr(part, name) for part in parts]) for name in names}
