r"""The predictive distribution of a batch, as an object.

A method makes one `Predictive` for a batch of inputs, and everything else reads from it: `predict` and `predict_step`
its `Predictive.prediction`, validation and test its `Predictive.metric_inputs`, calibrations and ensembles both.

===========================  ===============================================================================
class                        :math:`p(y \mid x)`
===========================  ===============================================================================
`SampledPredictive`          :math:`\frac1S \sum_s p(y \mid f_s(x))`, streamed over chunks of samples
`GaussianPredictive`         :math:`\mathcal{N}(\mathrm{E} f, \mathrm{Var} f + \sigma^2)`, in closed form
`MixturePredictive`          :math:`\frac1M \sum_m p_m(y \mid x)`
`TransformedPredictive`      another one with a changed prediction, such as an added interval
===========================  ===============================================================================

All of them are lazy: the network runs when a question is asked, in the modes and on the device it has then.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from lightning_vi.functional import RunningMoments
from lightning_vi.likelihoods import Likelihood, Prediction, join_chunks, join_members

ADDITIONS = ("lower", "upper", "pred_set")
"""Fields of a prediction that metrics read beside the distribution."""


class Predictive(ABC):
    """Base class of predictive distributions of one batch."""

    @abstractmethod
    def prediction(self, *, return_samples: bool = False) -> Prediction:
        """Summarizes the distribution, split into epistemic and aleatoric parts.

        Args:
            return_samples: Whether to return the samples' means or probabilities too.

        Returns:
            The prediction in target units. Its metadata have ``num_samples``, and ``seed`` where that plays no part.
        """

    @abstractmethod
    def log_probs(self) -> Tensor:
        """Log-probabilities of the classes, without rounding of the probabilities.

        Returns:
            Nats, shape [B, C, ...].

        Raises:
            TypeError: If the likelihood is not one for classification.
        """

    @abstractmethod
    def metric_inputs(self, target: Tensor) -> dict[str, Any]:
        """Inputs of the metrics, by argument name.

        Args:
            target: Targets, shape [B, ...].

        Returns:
            See `Likelihood.metric_inputs`; and `lower`, `upper` and `pred_set` where the prediction has them.
        """

    @abstractmethod
    def keep(self) -> None:
        """Keeps the network's outputs, so that any number of questions costs one run of the network."""

    def followed(self, target: Tensor) -> "Predictive":  # noqa: ARG002
        """Returns the distribution of each row of a test batch given the targets of the rows before it.

        Args:
            target: Targets, shape [B, ...].

        Returns:
            By default the distribution itself; another one for calibrations that follow a series.
        """
        return self


@dataclass(frozen=True)
class _Summary:
    """Results of one pass over the samples."""

    moments: RunningMoments
    spread: Tensor
    samples: Tensor | None
    log_probs: Tensor | None


class SampledPredictive(Predictive):
    """Mixture over sampled networks. Its memory does not grow with their number, unless the outputs are kept.

    Args:
        likelihood: The observation model.
        run: Yields the networks' outputs in chunks, each of shape [chunk, B, ...], anew in each call.
        outputs_per_network: Number L of successive outputs that belong to one network, such as one for each value of a
            latent variable; what differs between them is aleatoric.
        metadata: Further metadata of the prediction.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        run: Callable[[], Iterable[Tensor]],
        *,
        outputs_per_network: int = 1,
        metadata: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.likelihood = likelihood
        self.metadata = metadata
        self.outputs_per_network = outputs_per_network
        self._run = run
        self._summary: _Summary | None = None

    def keep(self) -> None:  # noqa: D102
        chunks = list(self._run())
        self._run = lambda: chunks

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        summary = self._summarize(with_samples=return_samples)
        return self.likelihood.prediction(
            summary.moments,
            summary.spread,
            samples=summary.samples if return_samples else None,
            metadata={"num_samples": summary.moments.count, **self.metadata},
        )

    def log_probs(self) -> Tensor:  # noqa: D102
        log_probs = self._summarize(with_log_probs=True).log_probs
        return torch.as_tensor(log_probs)

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        return join_chunks(self._chunk_metric_inputs(outputs, target) for outputs in self._run())

    def _chunk_metric_inputs(self, outputs: Tensor, target: Tensor) -> dict[str, Any]:
        self.likelihood.check(outputs, target)
        return self.likelihood.metric_inputs(outputs, target)

    def _summarize(self, *, with_samples: bool = False, with_log_probs: bool = False) -> _Summary:
        """Moments over the samples, from an earlier pass where it has all that is asked for."""
        known = self._summary
        if known is not None:
            with_samples |= known.samples is not None
            with_log_probs |= known.log_probs is not None
            if (known.samples is not None) == with_samples and (known.log_probs is not None) == with_log_probs:
                return known
        moments, spreads, samples, log_sums = RunningMoments(), RunningMoments(), list[Tensor](), list[Tensor]()
        num_outputs = 0
        for outputs in self._run():
            means, spread = self._moments(outputs)
            moments.update(means)
            spreads.update(spread)
            num_outputs += len(outputs)
            if with_samples:
                samples.append(means)
            if with_log_probs:
                own = self.likelihood.log_probs(outputs).logsumexp(0)
                log_sums = [torch.logaddexp(log_sums[0], own) if log_sums else own]
        self._summary = _Summary(
            moments,
            spreads.mean,
            torch.cat(samples) if with_samples else None,
            log_sums[0] - math.log(num_outputs) if with_log_probs else None,
        )
        return self._summary

    def _moments(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Each network's prediction and aleatoric spread."""
        means, spreads = self.likelihood.predictive_moments(outputs)
        if self.outputs_per_network == 1:
            return means, spreads
        apart = [part.reshape(-1, self.outputs_per_network, *part.shape[1:]) for part in (means, spreads)]
        return self.likelihood.marginalize(*apart)


class GaussianPredictive(Predictive):
    """Closed form for a Gaussian network output and Gaussian noise; samples where there is none or they are asked for.

    Args:
        likelihood: An observation model with `Likelihood.has_gaussian_noise`.
        output_moments: Returns mean and standard deviation of the network's output, each of shape [B, ...], or None
            where the output is not Gaussian.
        sampled: The mixture over sampled networks.
    """

    def __init__(
        self,
        likelihood: Likelihood,
        output_moments: Callable[[], tuple[Tensor, Tensor] | None],
        sampled: SampledPredictive,
    ) -> None:
        self.likelihood = likelihood
        self.sampled = sampled
        self._output_moments = output_moments

    @cached_property
    def _output(self) -> tuple[Tensor, Tensor] | None:
        return self._output_moments()

    def keep(self) -> None:  # noqa: D102
        if self._output is None:
            self.sampled.keep()

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        if return_samples or self._output is None:
            return self.sampled.prediction(return_samples=return_samples)
        return self.likelihood.gaussian_prediction(*self._output, metadata={"num_samples": None, "seed": None})

    def log_probs(self) -> Tensor:  # noqa: D102
        return self.sampled.log_probs()

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        if self._output is None:
            return self.sampled.metric_inputs(target)
        mean, std = self._output
        self.likelihood.check(mean.unsqueeze(0), target)
        return self.likelihood.gaussian_metric_inputs(mean, std, target)


class MixturePredictive(Predictive):
    """Average of several predictive distributions, weighted by their numbers of samples.

    Args:
        likelihood: An observation model of the same task.
        parts: The M distributions.
        sizes: The number of samples of each.
    """

    def __init__(self, likelihood: Likelihood, parts: Sequence[Predictive], sizes: Sequence[int]) -> None:
        self.likelihood = likelihood
        self.parts = parts
        self.sizes = sizes

    def keep(self) -> None:  # noqa: D102
        for part in self.parts:
            part.keep()

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        moments, spreads, samples = RunningMoments(), RunningMoments(), []
        for part, size in zip(self.parts, self.sizes, strict=True):
            prediction = part.prediction(return_samples=return_samples)
            entropy = prediction.expected_entropy
            spread = prediction.aleatoric_var if entropy is None else entropy
            moments.merge(size, prediction.mean, prediction.epistemic_var)
            spreads.merge(size, spread, torch.zeros_like(spread))
            if prediction.samples is not None:
                samples.append(prediction.samples.expand(size, *prediction.mean.shape))
        return self.likelihood.prediction(
            moments,
            spreads.mean,
            samples=_interleave(samples) if return_samples else None,
            metadata={"num_samples": sum(self.sizes)},
        )

    def log_probs(self) -> Tensor:  # noqa: D102
        weighted = [part.log_probs() + math.log(size) for part, size in zip(self.parts, self.sizes, strict=True)]
        return torch.stack(weighted).logsumexp(0) - math.log(sum(self.sizes))

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        unit = math.gcd(*self.sizes)
        inputs = [part.metric_inputs(target) for part in self.parts]
        return join_members([own for own, size in zip(inputs, self.sizes, strict=True) for _ in range(size // unit)])


def _interleave(samples: Sequence[Tensor]) -> Tensor:
    """The first sample of each part, then the second of each, and so on."""
    longest = max(map(len, samples))
    return torch.stack([part[index] for index in range(longest) for part in samples if index < len(part)])


class TransformedPredictive(Predictive):
    """Another predictive distribution with a changed prediction, such as an interval or a set of classes.

    The metrics score the distribution as it was, beside the interval or the set.

    Args:
        inner: The distribution.
        transform: Changes its prediction.
    """

    def __init__(self, inner: Predictive, transform: Callable[[Prediction], Prediction]) -> None:
        self.inner = inner
        self.transform = transform

    def keep(self) -> None:  # noqa: D102
        self.inner.keep()

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        return self.transform(self.inner.prediction(return_samples=return_samples))

    def log_probs(self) -> Tensor:  # noqa: D102
        return self.inner.log_probs()

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        self.keep()
        prediction = self.prediction()
        additions = {name: getattr(prediction, name) for name in ADDITIONS}
        known = {name: value for name, value in additions.items() if value is not None}
        return self.inner.metric_inputs(target) | known


def class_metric_inputs(log_probs: Tensor, target: Tensor, likelihood: Likelihood) -> dict[str, Any]:
    """Metric inputs of class probabilities.

    Args:
        log_probs: Log-probabilities, shape [B, C, ...].
        target: Labels, shape [B, ...].
        likelihood: The observation model, which says which labels are ignored.

    Returns:
        See `Likelihood.metric_inputs`.
    """
    chosen = log_probs.gather(1, likelihood.fill(target).long().unsqueeze(1)).squeeze(1)
    observed = likelihood.observed(target)
    if observed is not None:
        chosen = torch.where(observed, chosen, chosen.new_zeros(()))
    return {
        "preds": log_probs.exp(),
        "log_prob": chosen.reshape(len(chosen), -1).sum(-1).unsqueeze(0),
        "target": likelihood.metric_target(target),
    }
