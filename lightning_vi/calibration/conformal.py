"""Base class of conformal methods: a quantile of the calibration scores, corrected for their number."""

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.core.predictor import Predictor
from lightning_vi.functional.calibration import conformal_quantile
from lightning_vi.functional.selective import count_that_reaches
from lightning_vi.metrics import (
    PredictionIntervalCoverage,
    PredictionIntervalWidth,
    PredictionSetCoverage,
    PredictionSetSize,
)


class ConformalMethod(CalibratedMethod):
    r"""Base class of intervals and sets that hold the target of a new datum with a probability of at least `coverage`.

    That is so if the calibration data and the new datum are exchangeable, and none of them was trained on, however
    wrong the method is. The probability is one over calibration sets and data, and not that for a given datum. Where a
    datum has several positions, [B, ..., D] or labels [B, ...], the scores of all positions are pooled: n counts
    positions, and the statement is one about positions, as far as they are exchangeable themselves.

    Args:
        method: The fitted method; it is copied.
        coverage: Strictly between 0 and 1.
        method_checkpoint: A Lightning checkpoint with the method's weights, unless it has them already.

    Raises:
        TypeError: If `method` is no method, or its likelihood is of the other task.
        FileNotFoundError: If there is no such checkpoint.
        ValueError: If `coverage` is out of range, or the checkpoint is not one of this method.
    """

    quantile: Tensor

    def __init__(self, method: Predictor, *, coverage: float, method_checkpoint: str | None) -> None:
        if isinstance(coverage, bool) or not 0 < coverage < 1:
            raise ValueError(f"coverage must lie strictly between 0 and 1, got {coverage!r}")
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

    def use_scores(self, scores: Tensor) -> None:
        """Computes the quantile of the scores, and warns if they are too few for a finite one.

        Args:
            scores: Shape [N, ...], or [N, ..., D] with one quantile for each target.
        """
        pooled = scores.reshape(-1, *self.quantile.shape)
        self.quantile.copy_(conformal_quantile(pooled, self.coverage))
        if count_that_reaches(self.coverage, len(pooled) + 1) > len(pooled):
            rank_zero_warn(
                f"{len(pooled)} calibration scores are too few for a coverage of {self.coverage}: intervals are "
                "infinite, and sets have all classes"
            )
