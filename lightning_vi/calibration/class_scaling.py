"""Base class of calibrations that map class probabilities to others."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.core.batch_forms import check_target
from lightning_vi.core.predictive import Predictive, class_metric_inputs
from lightning_vi.functional import entropy
from lightning_vi.likelihoods import Likelihood, Prediction
from lightning_vi.sampling import NetworkInput

TINY = 1e-30
SMALLEST_LOG_PROB = -1e4


class ClassScaling(CalibratedMethod):
    """Base class of maps of the averaged class probabilities that are fitted to calibration data.

    As for `TemperatureScaling`, the map is applied to the averaged probabilities, the epistemic shares are those of the
    method's samples, and `samples` are returned before the map. The most probable class may change.

    Subclasses implement `fit_map` and `recalibrate`.
    """

    task = "classification"
    other_task_advice = "VarianceScaling"

    @abstractmethod
    def fit_map(self, log_probs: Tensor, labels: Tensor) -> None:
        """Fits the map and stores it in buffers.

        Args:
            log_probs: Log-probabilities, shape [N, C], float64 on the CPU, at least -1e4.
            labels: Shape [N].
        """

    @abstractmethod
    def recalibrate(self, log_probs: Tensor) -> Tensor:
        """Maps log-probabilities.

        Args:
            log_probs: With the classes in the last dimension, shape [..., C], at least -1e4.

        Returns:
            Normalized log-probabilities, shape [..., C].
        """

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002
        """Joins the log-probabilities and the label, as a further class.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Labels, shape [B, ...].

        Returns:
            Shape [B, C + 1, ...].
        """
        log_probs = predictive.log_probs()
        self.checked_prediction(predictive, target)
        log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
        return torch.cat([log_probs, target.unsqueeze(1).to(log_probs.dtype)], 1)

    def use_scores(self, scores: Tensor) -> None:  # noqa: D102
        rows = scores.movedim(1, -1).flatten(0, -2)
        rows = rows[~rows.isnan().any(-1)].cpu().double()
        self.fit_map(rows[:, :-1].clamp_min(SMALLEST_LOG_PROB), rows[:, -1].long())

    def make_calibrated(self, x: NetworkInput, predictive: Predictive) -> Predictive:  # noqa: ARG002, D102
        return RecalibratedClasses(predictive, self._map, self.likelihood)

    def _map(self, log_probs: Tensor) -> Tensor:
        last = log_probs.clamp_min(SMALLEST_LOG_PROB).movedim(1, -1)
        return self.recalibrate(last).movedim(-1, 1)


class RecalibratedClasses(Predictive):
    """Predictive distribution with other class probabilities and unchanged epistemic shares.

    Args:
        inner: The distribution to recalibrate.
        recalibrate: Maps log-probabilities to normalized ones, both of shape [B, C, ...].
        likelihood: The observation model.
    """

    def __init__(self, inner: Predictive, recalibrate: Callable[[Tensor], Tensor], likelihood: Likelihood) -> None:
        self.inner = inner
        self.recalibrate = recalibrate
        self.likelihood = likelihood

    def keep(self) -> None:  # noqa: D102
        self.inner.keep()

    def log_probs(self) -> Tensor:  # noqa: D102
        return self.recalibrate(self.inner.log_probs())

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        probs = self.log_probs().exp()  # called first, so that its pass over the samples is reused for the prediction
        prediction = self.inner.prediction(return_samples=return_samples)
        variance, uncertainty = probs * (1 - probs), entropy(probs, dim=1)
        epistemic_var = variance * _share(prediction.epistemic_var, prediction.total_var)
        mutual_information = uncertainty * _share(prediction.mutual_information, prediction.predictive_entropy)
        return replace(
            prediction,
            mean=probs,
            probs=probs,
            epistemic_var=epistemic_var,
            aleatoric_var=variance - epistemic_var,
            total_var=variance,
            probs_var=epistemic_var,
            predictive_entropy=uncertainty,
            expected_entropy=uncertainty - mutual_information,
            mutual_information=mutual_information,
        )

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        self.keep()
        check_target(self.prediction(), self.likelihood.metric_target(target))
        return class_metric_inputs(self.log_probs(), target, self.likelihood)


def _share(part: Tensor | None, whole: Tensor | None) -> Tensor | float:
    """Returns the epistemic share of an uncertainty, between 0 and 1; 0 if there is no uncertainty."""
    if part is None or whole is None:
        return 0.0
    return (part / whole.clamp_min(TINY)).clamp(0, 1)
