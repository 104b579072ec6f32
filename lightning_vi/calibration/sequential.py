"""Base class of conformal intervals of a series, which follow the targets as they come."""

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from lightning_vi.arguments import check_at_least
from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.calibration.conformal import ConformalMethod, warn_if_too_few
from lightning_vi.core.data_order import is_shuffled
from lightning_vi.core.diagnosis import explained
from lightning_vi.core.intake import network_batch
from lightning_vi.core.predictive import Predictive, TransformedPredictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.core.training_data import single_dataloader
from lightning_vi.errors import InputValueError
from lightning_vi.functional.sequential import ScoreState, follow_scores
from lightning_vi.kernels.base import ResizedOnLoading
from lightning_vi.likelihoods import Prediction
from lightning_vi.locks import exclusive
from lightning_vi.sampling import NetworkInput, evaluating

STATE = ("past_scores", "alpha", "pending_scores", "pending_quantiles")
"""Buffers of the state, in the order of `ScoreState`."""


class SequentialConformal(ResizedOnLoading, CalibratedMethod):
    r"""Base class of intervals whose width follows the errors of the past rows of a series.

    - ``Trainer.test`` takes the rows in their order: each interval depends on the targets of the rows before it. It
      starts from the calibrated state and leaves that as it was, so that another test has the same result. Each of
      several dataloaders starts anew.
    - `update` is for online use: it returns the predictions of new rows and then learns from their targets. The state
      is part of the checkpoint.
    - `predict` and ``Trainer.predict`` have no targets: all rows get the interval of the present state.

    Rows are those of one series, in the order of time. Tests with dataloaders that shuffle are refused, and so are
    those in several processes. A calibration cannot hold it; it holds calibrations.

    Subclasses implement `scores` and `use_scores`, which calls `start`.

    Args:
        method: A conformal method; it is copied.
        gamma: Step size.
        is_rolling: Whether new scores replace the oldest ones.
        delay: Number of rows after a row until its targets are known.
        method_checkpoint: Path of a Lightning checkpoint to load the weights of `method` from.

    Raises:
        ValueError: If `delay` is negative.
    """

    task = "regression"
    other_task_advice = "AdaptivePredictionSets"
    is_sequential = True
    needs_samples: bool = False
    """True if `region` needs the samples of the prediction."""
    method: ConformalMethod
    past_scores: Tensor
    alpha: Tensor
    pending_scores: Tensor
    pending_quantiles: Tensor

    def __init__(
        self,
        method: ConformalMethod,
        *,
        gamma: float,
        is_rolling: bool,
        delay: int,
        method_checkpoint: str | None = None,
    ) -> None:
        check_at_least("delay", delay, 0)
        super().__init__(method, method_checkpoint=method_checkpoint)
        self.gamma = gamma
        self.is_rolling = is_rolling
        self.delay = delay
        own = {name.removeprefix("test_"): metric for name, metric in self.method.test_metrics.clone().items()}
        self.test_metrics.add_metrics({name: own[name] for name in own if name.startswith("conformal_")})
        width = self.likelihood.num_predictions
        self.register_buffer("past_scores", torch.empty(0, width))
        self.register_buffer("alpha", torch.full((width,), 1 - self.method.coverage))
        self.register_buffer("pending_scores", torch.empty(0, 1, width))
        self.register_buffer("pending_quantiles", torch.empty(0, width))
        self._test_state: ScoreState | None = None

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_test_state": None}

    @property
    def source(self) -> Predictor:
        """The predictor whose predictions are calibrated: the one inside of the conformal method."""
        return self.method.method

    @property
    def coverage(self) -> float:
        """Probability of coverage in the long run."""
        return self.method.coverage

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: D102
        return self.method.scores(x, predictive, target)

    def new_scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:
        """Computes the scores of rows that the method was neither trained nor calibrated on; by default `scores`.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ..., D].

        Returns:
            Shape [B, ..., D].
        """
        return self.scores(x, predictive, target)

    def start(self, scores: Tensor) -> None:
        """Sets the state to that before the first row of the series.

        Args:
            scores: Scores of the calibration data in the order of time, shape [N, ..., D]; NaN where they are missing.
        """
        width = self.likelihood.num_predictions
        rows = scores.reshape(len(scores), -1, width)
        self.past_scores = rows.flatten(0, 1).clone()
        self.alpha.fill_(1 - self.coverage)
        self.pending_scores = rows.new_full((self.delay, rows.shape[1], width), math.nan)
        self.pending_quantiles = rows.new_full((self.delay, width), math.nan)
        warn_if_too_few(int(self.past_scores.isnan().logical_not().sum(0).min()), self.coverage)
        self._test_state = None

    def make_calibrated(self, x: NetworkInput, predictive: Predictive) -> Predictive:  # noqa: D102
        quantiles, _ = follow_scores(self._no_score(), self._on_cpu(), **self._rule())
        return _Followed(self, x, predictive, quantiles)

    def region(self, x: NetworkInput, prediction: Prediction, quantiles: Tensor) -> Prediction:
        """Adds intervals to a prediction.

        Args:
            x: Input, each tensor of shape [B, ...].
            prediction: The method's prediction.
            quantiles: One for each row, shape [B, D], or for all, [1, D].

        Returns:
            The prediction. Intervals of the quantile minus infinity, which cover nothing, have the mean as both ends.
        """
        mean = prediction.mean
        each = quantiles.to(mean).reshape(len(quantiles), *[1] * (mean.dim() - 2), -1)
        found = self.method.region(x, prediction, each)
        if found.lower is None or found.upper is None:
            return found
        is_empty = each == -math.inf
        return replace(
            found, lower=torch.where(is_empty, mean, found.lower), upper=torch.where(is_empty, mean, found.upper)
        )

    @torch.no_grad()
    def update(self, x: Any, target: Any) -> Prediction:
        """Predicts new rows of the series and learns from their targets, one row after the other.

        Args:
            x: Input, each tensor of shape [B, ...], in the order of time.
            target: Targets, shape [B, ..., D].

        Returns:
            The prediction of each row from the targets of the rows before it.

        Raises:
            NotFittedError: If it is not calibrated.
            ValueError: If the targets do not fit.
        """
        x, target = network_batch(x, target, self)
        with exclusive(self), explained(self, x), evaluating(self):
            self.require_fitted()
            predictive = self.source.predictive_distribution(x, self.num_mc_samples_test, self.noise.seed)
            predictive.keep()
            quantiles, state = self._follow(x, predictive, target, self._on_cpu())
            prediction = _Followed(self, x, predictive, quantiles).prediction()
            for name, value in zip(STATE, state, strict=True):
                setattr(self, name, value.to(self.past_scores))
        return replace(prediction, metadata={"method": type(self).__name__} | prediction.metadata)

    def begin_test(self) -> None:
        """Starts a test from the calibrated state."""
        self._test_state = self._on_cpu()

    def follow(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:
        """Computes the quantiles of test rows, and remembers their scores until the next `begin_test`.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ..., D].

        Returns:
            Shape [B, D].
        """
        before = self._on_cpu() if self._test_state is None else self._test_state
        quantiles, self._test_state = self._follow(x, predictive, target, before)
        return quantiles

    def _follow(
        self, x: NetworkInput, predictive: Predictive, target: Tensor, state: ScoreState
    ) -> tuple[Tensor, ScoreState]:
        scores = self.new_scores(x, predictive, self.likelihood.fill(target))
        observed = self.likelihood.observed(target)
        scores = scores if observed is None else torch.where(observed, scores, math.nan)
        rows = scores.reshape(len(scores), -1, self.likelihood.num_predictions).to(state.past)
        return follow_scores(rows, state, **self._rule())

    def _rule(self) -> dict[str, Any]:
        return {"miscoverage": 1 - self.coverage, "gamma": self.gamma, "is_rolling": self.is_rolling}

    def _no_score(self) -> Tensor:
        return torch.full((1, *self.pending_scores.shape[1:]), math.nan, dtype=torch.float64)

    def _on_cpu(self) -> ScoreState:
        return ScoreState(*(getattr(self, name).detach().cpu().double() for name in STATE))

    def calibrate(self, data: Iterable[Any]) -> None:
        """Calibrates without a Trainer, see `CalibratedMethod.calibrate`.

        Args:
            data: Calibration data in labeled batches, in the order of time if new scores replace the oldest ones.

        Raises:
            ValueError: If they are shuffled.
        """
        if self.is_rolling:
            _refuse_shuffled(self, data)
        super().calibrate(data)

    def on_fit_start(self) -> None:
        """Checks the data of the calibration."""
        super().on_fit_start()
        if self.is_rolling:
            _refuse_shuffled(self, single_dataloader(self.trainer))

    def on_test_start(self) -> None:
        """Checks that the rows come in the order of time."""
        super().on_test_start()
        if self.trainer.world_size > 1:
            raise InputValueError(
                f"{type(self).__name__} follows one series row by row, but the Trainer has {self.trainer.world_size} "
                "processes: test with Trainer(devices=1)"
            )
        loaders: Any = self.trainer.test_dataloaders
        for loader in loaders if isinstance(loaders, list | tuple) else [loaders]:
            _refuse_shuffled(self, loader)

    def test_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> None:
        """Scores a batch of consecutive rows; each dataloader starts from the calibrated state."""
        if batch_idx == 0:
            self.begin_test()
        super().test_step(batch, batch_idx, dataloader_idx)

    def on_test_end(self) -> None:
        """Releases the state of the test."""
        self._test_state = None


class _Followed(TransformedPredictive):
    """Predictive distribution with the intervals of the present state, or, given the targets, of each row's past."""

    def __init__(self, calibration: SequentialConformal, x: NetworkInput, inner: Predictive, quantiles: Tensor) -> None:
        super().__init__(inner, lambda prediction: calibration.region(x, prediction, quantiles))
        self.calibration = calibration
        self.x = x

    def prediction(self, *, return_samples: bool = False) -> Prediction:
        prediction = super().prediction(return_samples=return_samples or self.calibration.needs_samples)
        return prediction if return_samples else replace(prediction, samples=None)

    def followed(self, target: Tensor) -> Predictive:
        trainer = self.calibration._trainer
        if trainer is not None and trainer.state.fn in (TrainerFn.FITTING, TrainerFn.VALIDATING):
            return self
        quantiles = self.calibration.follow(self.x, self.inner, target)
        return _Followed(self.calibration, self.x, self.inner, quantiles)


def _refuse_shuffled(calibration: SequentialConformal, dataloader: Any) -> None:
    if is_shuffled(dataloader):
        raise InputValueError(
            f"{type(calibration).__name__} needs rows in the order of time, but the dataloader shuffles them: give "
            "shuffle=False, or a loader of SeriesDataModule such as calibration_dataloader()"
        )
