"""Base class of conformal methods, which use a quantile of the calibration scores with finite-sample correction."""

from abc import abstractmethod
from dataclasses import replace

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputValueError
from lightning_vi.functional.calibration import conformal_quantile
from lightning_vi.functional.selective import count_that_reaches
from lightning_vi.likelihoods import Prediction
from lightning_vi.metrics import (
    PredictionIntervalCoverage,
    PredictionIntervalWidth,
    PredictionSetCoverage,
    PredictionSetSize,
)
from lightning_vi.sampling import NetworkInput


class ConformalMethod(CalibratedMethod):
    r"""Base class of intervals and sets that contain the target of a new datum with probability at least `coverage`.

    The guarantee is distribution-free: it requires that calibration data and new data are exchangeable and were not
    used for training, and holds for any method, however inaccurate. It is marginal: the probability is over calibration
    sets and new data, not conditional on the input. If a datum has several positions, [B, ..., D] or labels [B, ...],
    the scores of all positions are pooled. Then n counts positions, and the guarantee is for a position, if positions
    are exchangeable.

    Args:
        method: The fitted method; it is copied.
        coverage: Probability of coverage, strictly between 0 and 1.
        method_checkpoint: Path of a Lightning checkpoint to load the method's weights from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a method, or its likelihood is for another task.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If `coverage` is out of range, or the checkpoint is not one of this method.
    """

    quantile: Tensor
    has_groups: bool = True
    """True if the calibration is one quantile of the scores, which `Mondrian` can compute for each group."""

    def __init__(self, method: Predictor, *, coverage: float, method_checkpoint: str | None) -> None:
        if isinstance(coverage, bool) or not 0 < coverage < 1:
            raise InputValueError(f"coverage must lie strictly between 0 and 1, got {coverage!r}")
        super().__init__(method, method_checkpoint=method_checkpoint)
        self.coverage = coverage
        if self.task == "regression":
            shape: tuple[int, ...] = (self.likelihood.num_predictions,)
            metrics = {"coverage": PredictionIntervalCoverage(), "width": PredictionIntervalWidth()}
        else:
            shape = ()
            metrics = {"coverage": PredictionSetCoverage(), "set_size": PredictionSetSize()}
        self.test_metrics.add_metrics({f"conformal_{name}": metric for name, metric in metrics.items()})
        self.register_buffer("quantile", torch.full(shape, torch.inf))

    @abstractmethod
    def region(self, x: NetworkInput, prediction: Prediction, quantile: Tensor) -> Prediction:
        """Adds the intervals or sets of a given quantile to a prediction.

        Args:
            x: Input, each tensor of shape [B, ...].
            prediction: The method's prediction.
            quantile: The shape of `quantile`, or one that broadcasts with the prediction, such as one for each row.

        Returns:
            The prediction.
        """

    def calibrated(self, x: NetworkInput, prediction: Prediction) -> Prediction:
        """Adds the intervals or sets of the calibration, see `region`.

        Args:
            x: Input, each tensor of shape [B, ...].
            prediction: The method's prediction.

        Returns:
            The prediction.
        """
        return self.region(x, prediction, self.quantile)

    def with_interval(self, prediction: Prediction, lower: Tensor, upper: Tensor) -> Prediction:
        """Returns a prediction with intervals, and their level in its metadata.

        Args:
            prediction: Prediction of the method.
            lower: Lower ends, the shape of its mean.
            upper: Upper ends, the shape of its mean.

        Returns:
            The prediction.
        """
        level = {"interval_level": self.coverage}
        return replace(prediction, lower=lower, upper=upper, metadata=prediction.metadata | level)

    def use_scores(self, scores: Tensor) -> None:
        """Computes the quantile of the scores. Warns if there are too few scores for a finite quantile.

        Args:
            scores: Shape [N, ...], or [N, ..., D] with one quantile for each target.
        """
        pooled = scores.reshape(-1, *self.quantile.shape)
        self.quantile.copy_(conformal_quantile(pooled, self.coverage))
        warn_if_too_few(int(pooled.isnan().logical_not().sum(0).min()), self.coverage)


def warn_if_too_few(size: int, coverage: float) -> None:
    """Warns if there are too few scores for a finite quantile.

    Args:
        size: Number of scores.
        coverage: Probability of coverage.
    """
    if count_that_reaches(coverage, size + 1) > size:
        rank_zero_warn(
            f"{size} calibration scores are too few for a coverage of {coverage}: intervals are "
            "infinite, and sets contain all classes"
        )
