r"""Recalibration of the quantiles of any method's predictive distribution.

Kuleshov, Fenner and Ermon, "Accurate uncertainties for deep learning using calibrated regression", ICML 2018.

.. math:: F^{\mathrm{new}}(y \mid x) = R\big(F(y \mid x)\big), \qquad
    R(p) = \frac{1}{N} \#\{n : F(y_n \mid x_n) \le p\}

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`F`              `method`: distribution function of its predictive mixture
:math:`n`              the N calibration data
:math:`R`              linear between the points (`knots`, `levels`), one for each of D targets
:math:`K`              `num_bins`
=====================  ====================================================================
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_vi.arguments import check_at_least
from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.core.batch_forms import check_target
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional.mixture import Mixture
from lightning_vi.functional.recalibrated import RecalibratedMixture, pit_knots
from lightning_vi.functional.scoring import mixture_log_prob
from lightning_vi.likelihoods import Likelihood, Prediction
from lightning_vi.sampling import NetworkInput


class QuantileRecalibration(CalibratedMethod):
    r"""A map of the distribution function of each target that makes its quantiles calibrated (Kuleshov et al., 2018).

    Where the predicted quantile at p has a share R(p) of the calibration data below it, it becomes the quantile at
    R(p). `VarianceScaling` changes the width of a distribution by one factor; this calibration also mends its shape,
    such as skewness, heavy tails and a biased mean. Predictions have the mean, variance and central interval of the
    recalibrated distribution, which are integrated numerically; the epistemic share of the variance is the method's.
    Metrics score the recalibrated distribution. `samples` are moved and scaled with the prediction.

    R is linear between the quantiles of the calibration data at 1/K, 2/K, ... and their smallest and largest value, so
    that it has a density. It needs some tens of data for each of the K parts. Beyond the calibration data, with a
    probability of 1 / (N + 1) on either side, the distribution has the tails of the method's. A method whose standard
    deviation is far too small, so that many targets are more than five of them away, has to be scaled first, because
    its distribution function is 0 or 1 there: ``QuantileRecalibration(VarianceScaling(method))``.

    Args:
        method: The fitted method; it is copied. Its likelihood is for real-valued targets.
        num_bins: K, the number of linear parts of R.
        interval_level: Probability of the interval in `lower` and `upper`, strictly between 0 and 1.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or one for classification or for counts.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If a number is out of range, or the checkpoint is not one of this method.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.likelihoods import Gaussian
        >>> calibrated = QuantileRecalibration(Deterministic(torch.nn.Identity(), Gaussian(noise_std=1.0)), num_bins=10)
        >>> calibrated.calibrate([(torch.zeros(1000, 1), torch.linspace(1, 2, 1000).unsqueeze(1))])
        >>> result = calibrated.predict_step(torch.zeros(1, 1))  # uniform between 1 and 2
        >>> [round(float(result[key]), 1) for key in ("pred", "pred_uct", "lower", "upper")]
        [1.5, 0.3, 1.0, 2.0]
    """

    task = "regression"
    other_task_advice = "TemperatureScaling"
    levels: Tensor
    knots: Tensor

    def __init__(
        self,
        method: Predictor,
        *,
        num_bins: int = 20,
        interval_level: float = 0.95,
        method_checkpoint: str | None = None,
    ) -> None:
        check_at_least("num_bins", num_bins, 2)
        if isinstance(interval_level, bool) or not 0 < interval_level < 1:
            raise InputValueError(f"interval_level must lie strictly between 0 and 1, got {interval_level!r}")
        super().__init__(method, method_checkpoint=method_checkpoint)
        self.num_bins = num_bins
        self.interval_level = interval_level
        line = torch.linspace(0, 1, num_bins + 3)
        self.register_buffer("levels", line)
        self.register_buffer("knots", line.unsqueeze(1).repeat(1, self.likelihood.num_predictions))

    @classmethod
    def check_likelihood(cls, likelihood: Likelihood) -> None:  # noqa: D102
        super().check_likelihood(likelihood)
        if likelihood.support != "real":
            raise InputTypeError(
                f"QuantileRecalibration is for real numbers, but {type(likelihood).__name__} is for counts"
            )

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002
        """Computes the probability integral transform F(y).

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ..., D].

        Returns:
            Shape [B, ..., D].
        """
        predictive.keep()
        self.checked_prediction(predictive, target)
        mixture = _mixture(predictive.metric_inputs(target))
        return mixture.cdf(target.to(mixture.means.dtype).unsqueeze(0)).squeeze(0)

    def use_scores(self, scores: Tensor) -> None:  # noqa: D102
        levels, knots = pit_knots(scores.flatten(0, -2), self.num_bins)
        self.levels.copy_(levels)
        self.knots.copy_(knots)

    def make_calibrated(self, x: NetworkInput, predictive: Predictive) -> Predictive:  # noqa: ARG002, D102
        return RecalibratedPredictive(predictive, self.levels, self.knots, self.interval_level, self.likelihood)


class RecalibratedPredictive(Predictive):
    """Predictive distribution whose distribution function is mapped by a piecewise linear function.

    Args:
        inner: The distribution to recalibrate.
        levels: Values of the function from 0 to 1, shape [K].
        knots: Where it has these values, shape [K, D].
        interval_level: Probability of the prediction interval.
        likelihood: The observation model.
    """

    def __init__(
        self, inner: Predictive, levels: Tensor, knots: Tensor, interval_level: float, likelihood: Likelihood
    ) -> None:
        self.inner = inner
        self.levels, self.knots = levels, knots
        self.level = interval_level
        self.likelihood = likelihood
        self._summary: tuple[Tensor, Tensor, Tensor] | None = None

    def keep(self) -> None:  # noqa: D102
        self.inner.keep()

    def log_probs(self) -> Tensor:  # noqa: D102
        return self.inner.log_probs()

    def prediction(self, *, return_samples: bool = False) -> Prediction:  # noqa: D102
        self.keep()
        old = self.inner.prediction(return_samples=return_samples)
        # Any target will do: only the components are read.
        if self._summary is None:
            tail = (1 - self.level) / 2
            mixture = self._recalibrated(self.inner.metric_inputs(torch.zeros_like(old.mean)))
            self._summary = mixture.summary([tail, 1 - tail])
        mean, variance, (lower, upper) = self._summary
        share = (old.epistemic_var / old.total_var.clamp_min(torch.finfo(variance.dtype).tiny)).clamp(0, 1)
        epistemic_var = share * variance
        samples = old.samples
        if samples is not None:
            scale = (epistemic_var / torch.where(old.epistemic_var > 0, old.epistemic_var, 1)).sqrt()
            samples = mean + scale * (samples - old.mean)
        return replace(
            old,
            mean=mean,
            epistemic_var=epistemic_var,
            aleatoric_var=variance - epistemic_var,
            total_var=variance,
            samples=samples,
            lower=lower,
            upper=upper,
            metadata=old.metadata | {"interval_level": self.level},
        )

    def metric_inputs(self, target: Tensor) -> dict[str, Any]:  # noqa: D102
        self.keep()
        prediction = self.prediction()
        check_target(prediction, target)
        inputs = self.inner.metric_inputs(target)
        mixture = self._recalibrated(inputs)
        log_slopes = mixture.slope(self.likelihood.fill(target).to(prediction.mean.dtype)).log()
        observed = self.likelihood.observed(target)
        if observed is not None:
            log_slopes = torch.where(observed, log_slopes, 0)
        log_prob = mixture_log_prob(inputs["log_prob"]) + log_slopes.flatten(1).sum(1)
        return inputs | {
            "preds": prediction.mean,
            "log_prob": log_prob.unsqueeze(0),
            "means": prediction.mean.unsqueeze(0),
            "stds": prediction.total_var.sqrt().unsqueeze(0),
            "mixture": Mixture(mixture.cdf, prediction.mean.unsqueeze(0), prediction.total_var.sqrt().unsqueeze(0)),
            "lower": prediction.lower,
            "upper": prediction.upper,
        }

    def _recalibrated(self, inputs: dict[str, Any]) -> RecalibratedMixture:
        mixture = _mixture(inputs)
        dtype = mixture.means.dtype
        return RecalibratedMixture(mixture, self.levels.to(dtype), self.knots.to(dtype))


def _mixture(inputs: dict[str, Any]) -> Mixture:
    given: Mixture | None = inputs.get("mixture")
    if given is not None:
        return given
    means, stds = inputs["means"], inputs["stds"]
    return Mixture(lambda values: torch.special.ndtr((values - means) / stds), means, stds)
