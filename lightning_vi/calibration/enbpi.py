r"""Ensemble batch prediction intervals (EnbPI): intervals of a series without calibration data.

Xu and Xie, "Conformal prediction interval for dynamic time-series", ICML 2021; "Conformal prediction for time series",
IEEE TPAMI 2023.

.. math:: C_t = \big[\hat f_{-}(x_t) - q_t,\ \hat f_{-}(x_t) + q_t\big], \qquad
    \epsilon_i = \big|y_i - \hat f_{-i}(x_i)\big|, \qquad
    \hat f_{-i} = \operatorname{mean}_{b:\, i \notin S_b} f_b, \qquad
    \hat f_{-} = \frac1N \sum_i \hat f_{-i}

q is the :math:`\lceil (N + 1)(1 - \alpha) \rceil`-th smallest of the last N residuals: at first those of the training
rows; then each new row replaces the oldest one.

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`f_b`            members of `method`, a `DeepEnsemble` with `bootstrap_block`
:math:`S_b`            bootstrap sample of the training rows of member b
:math:`i`              the training rows
:math:`N`              `window`; by default the number of training rows
:math:`1 - \alpha`     `coverage`
=====================  ====================================================================
"""

from typing import Any

import torch
from torch import Tensor

from lightning_vi.arguments import check_at_least
from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.calibration.sequential import SequentialConformal
from lightning_vi.core.bootstrap import block_bootstrap
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputTypeError, InputValueError, NotFittedError
from lightning_vi.likelihoods import Prediction
from lightning_vi.sampling import NetworkInput


class EnbPI(SequentialConformal):
    """Prediction intervals of a series from leave-one-out residuals of a bagged ensemble (Xu & Xie, 2021).

    The ensemble's members are trained on bootstrap samples of blocks of rows, so that each training row has residuals
    of members that have not seen it. No rows are kept back for calibration. It is calibrated on *the training rows, in
    the order of time*: ``enbpi.calibrate(dm.ordered_train_dataloader())`` or
    ``Trainer.fit(enbpi, CalibrationDataModule(dm, rows="train"))``.

    Coverage holds approximately, if the errors are a stationary, strongly mixing process and the ensemble is
    consistent; the sliding window follows slow changes of their size. Members are averaged, as in the journal version.
    Training rows that all members have seen have no residual and are left out.

    See `SequentialConformal` for tests, online use with `update`, and predictions.

    Args:
        method: A fitted `DeepEnsemble` with `bootstrap_block`, for regression; it is copied.
        coverage: Probability of coverage of each target, strictly between 0 and 1.
        window: Number of the last residuals that quantiles are taken of; None for N, as in the papers. Fewer follow
            changes faster.
        delay: Number of rows after a row until its targets are known: H - 1 for forecasts of H steps from every row.
        method_checkpoint: Path of a Lightning checkpoint to load the weights of `method` from; None keeps its weights.

    Raises:
        TypeError: If `method` is not such an ensemble.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If an argument is out of range, or the checkpoint is not one of `method`.

    Example:
        >>> from lightning import Trainer
        >>> from lightning_vi import DeepEnsemble
        >>> from lightning_vi.backbones import SeriesLSTM
        >>> from lightning_vi.datamodules import ToySeriesDataModule
        >>> from lightning_vi.likelihoods import Gaussian
        >>> dm = ToySeriesDataModule(n_points=500)
        >>> ensemble = DeepEnsemble(SeriesLSTM(), Gaussian(), num_members=10, bootstrap_block=24)
        >>> Trainer(max_epochs=10).fit(ensemble, dm)  # doctest: +SKIP
        >>> enbpi = EnbPI(ensemble, coverage=0.9)
        >>> enbpi.calibrate(dm.ordered_train_dataloader())  # doctest: +SKIP
    """

    calibration_rows = "train"
    needs_samples = True
    method: "LeaveOneOutResiduals"

    def __init__(
        self,
        method: Predictor,
        *,
        coverage: float = 0.9,
        window: int | None = None,
        delay: int = 0,
        method_checkpoint: str | None = None,
    ) -> None:
        if window is not None:
            check_at_least("window", window, 1)
        residuals = LeaveOneOutResiduals(method, coverage=coverage, method_checkpoint=method_checkpoint)
        if getattr(method, "bootstrap_block", None) is None:
            raise InputTypeError(
                f"method must be a DeepEnsemble whose members are trained on bootstrap samples, such as "
                f"DeepEnsemble(..., bootstrap_block=24), got a {type(method).__name__} without bootstrap_block"
            )
        super().__init__(residuals, gamma=0.0, is_rolling=True, delay=delay)
        self.window = window

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002
        """Computes the errors of all members.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ..., D].

        Returns:
            Shape [B, M, ..., D].
        """
        self.method.checked_prediction(predictive, target)
        return target.unsqueeze(1) - _members(predictive).movedim(0, 1)

    def new_scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: D102
        return self.method.scores(x, predictive, target)

    def use_scores(self, scores: Tensor) -> None:
        """Computes leave-one-out residuals and the weights of the members.

        Args:
            scores: Errors of the members on the training rows in the order of time, shape [N, M, ..., D].

        Raises:
            NotFittedError: If the ensemble does not know its training rows.
            ValueError: If these are not the training rows.
        """
        ensemble: Any = self.source
        if ensemble.num_data is None:
            raise NotFittedError(
                "EnbPI needs the bootstrap samples of the ensemble's fit: fit the ensemble with a Trainer, or give the "
                "checkpoint of its fit as method_checkpoint=..."
            )
        if len(scores) != ensemble.num_data:
            raise InputValueError(
                f"EnbPI needs the {ensemble.num_data} training rows of the fit in the order of time, got {len(scores)} "
                "rows: give ordered_train_dataloader() of the datamodule, or CalibrationDataModule(data, rows='train')"
            )
        rows = block_bootstrap(len(scores), scores.shape[1], ensemble.bootstrap_block, ensemble.noise.seed)
        unseen = torch.ones_like(rows, dtype=scores.dtype).scatter_(1, rows, 0.0).T.to(scores.device)
        shares = unseen / unseen.sum(1, keepdim=True)  # NaN for rows that all members have seen
        self.method.member_weights.copy_(shares[unseen.any(1)].mean(0))
        residuals = (shares.view(*shares.shape, *[1] * (scores.dim() - 2)) * scores).sum(1).abs()[unseen.any(1)]
        self.start(residuals if self.window is None else residuals[-self.window :])
        self.method.is_calibrated.fill_(True)


class LeaveOneOutResiduals(ConformalMethod):
    """Intervals around the mean of the leave-one-out predictors, with residuals as scores."""

    task = "regression"
    other_task_advice = "AdaptivePredictionSets"
    member_weights: Tensor

    def __init__(self, method: Predictor, *, coverage: float, method_checkpoint: str | None = None) -> None:
        super().__init__(method, coverage=coverage, method_checkpoint=method_checkpoint)
        num_members = getattr(method, "num_members", 1)
        self.register_buffer("member_weights", torch.full((num_members,), 1 / num_members))

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:  # noqa: ARG002, D102
        self.checked_prediction(predictive, target)
        return (target - self._center(_members(predictive))).abs()

    def region(self, x: NetworkInput, prediction: Prediction, quantile: Tensor) -> Prediction:  # noqa: ARG002, D102
        center = self._center(torch.as_tensor(prediction.samples))
        return self.with_interval(prediction, center - quantile.to(center), center + quantile.to(center))

    def _center(self, members: Tensor) -> Tensor:
        weights = self.member_weights[: len(members)].to(members)
        center: Tensor = torch.tensordot(weights / weights.sum(), members, 1)
        return center


def _members(predictive: Predictive) -> Tensor:
    """Means of the members, shape [M, B, ..., D]."""
    samples = predictive.prediction(return_samples=True).samples
    return torch.as_tensor(samples)
