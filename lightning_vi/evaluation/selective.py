"""Selective prediction: what abstaining from the most uncertain data saves."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning import Trainer
from torch import Tensor

from lightning_vi.evaluation.collecting import check_not_nan, collect
from lightning_vi.evaluation.scores import Loss, Score, check_score, datum_losses, datum_scores
from lightning_vi.functional.selective import (
    area_under_risk_coverage,
    count_that_reaches,
    excess_area_under_risk_coverage,
    risk_coverage_curve,
)
from lightning_vi.core import Predictor
from lightning_vi.core.batch import split_batch


@dataclass(frozen=True, eq=False)
class SelectivePrediction:
    """The risk of a method that abstains from the data it is least certain of.

    Attributes:
        aurc: Area under the risk-coverage curve, in the loss's unit; lower is better.
        excess_aurc: `aurc` minus that of the best order of the same losses; 0 is perfect.
        coverage: Share of the data that is kept, 1/N, 2/N, ..., 1, float64 of shape [N].
        risk: Mean loss of the data that is kept at each coverage, float64 of shape [N].
        uncertainty: Each datum's score, in the order in which the data came, shape [N].
        loss: Each datum's loss, in the same order, shape [N].
    """

    aurc: float
    excess_aurc: float
    coverage: Tensor = field(repr=False)
    risk: Tensor = field(repr=False)
    uncertainty: Tensor = field(repr=False)
    loss: Tensor = field(repr=False)

    def risk_at(self, coverage: float) -> float:
        """The risk of keeping a share of the data, the most certain ones.

        Args:
            coverage: The share, above 0 and at most 1; the smallest number of data that reaches it is kept.

        Returns:
            Their mean loss.

        Raises:
            ValueError: If `coverage` is outside (0, 1].
        """
        return float(self.risk[count_that_reaches(coverage, len(self.risk), "coverage") - 1])


def selective_prediction(
    method: Predictor,
    dataloader: Iterable[Any],
    *,
    score: Score = "pred_uct",
    loss: Loss | None = None,
    trainer: Trainer | None = None,
) -> SelectivePrediction:
    """Measures whether a method's losses are where its uncertainty is: the risk at each coverage.

    See `lightning_vi.functional.risk_coverage_curve` for the definition and for ties, and `plot_risk_coverage` for
    a picture. The method's weights, mode and device and the global random state stay as they were.

    Args:
        method: Any method, fitted.
        dataloader: Batches with targets, ``(x, y)`` or ``{"input": x, "target": y}``: a dataloader, or a list.
        score: A key of the dictionary that `predict_step` returns (`pred_uct`, `epistemic_uct`, `aleatoric_uct`), or
            a function from that dictionary to one uncertainty for each datum, [B]. Where a key has several numbers
            for a datum they become one: the root mean square of a regression's standard deviations over the targets,
            so that its square is the mean variance as the default loss is the mean squared error; the mean of all
            else, such as the entropies of pixels.
        loss: A function from that dictionary and the target to one loss for each datum, [B]. By default 1 for a
            wrong class and 0 for the right one in classification, and the squared error of the mean in regression,
            in squared target units; both are averaged over a datum's elements.
        trainer: Its `predict` is used as it is set up, with its device and precision. By default the method predicts
            where it is, without a Trainer.

    Returns:
        The curve, the areas, and the data behind them, on the CPU.

    Raises:
        ValueError: If `score` is no key of the dictionary, there are no data, shapes do not fit, scores or losses are
            NaN, or `trainer` spawns processes, which hand nothing back.
        TypeError: If an argument is of another type, or batches have no targets.

    Example:
        >>> import torch
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.evaluation import selective_prediction
        >>> from lightning_vi.likelihoods import Categorical
        >>> method = MeanFieldVI(MLP(2, [8], 3), Categorical(3))
        >>> result = selective_prediction(method, [(torch.randn(20, 2), torch.randint(3, (20,)))])
        >>> result.risk.shape
        torch.Size([20])
        >>> result.risk_at(1.0) == result.loss.sum().item() / 20
        True
    """
    check_score(score)
    if loss is not None and not callable(loss):
        raise TypeError(f"loss must be a function of predict_step's dictionary and the target, got {loss!r}")

    def read(prediction: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensor]:
        target = split_batch(batch)[1]
        if target is None:
            raise TypeError("selective prediction needs targets: batches (x, y) or {'input': x, 'target': y}")
        uncertainty = datum_scores(score, prediction, method.likelihood)
        return uncertainty, datum_losses(loss, prediction, target, method.likelihood)

    uncertainty, losses = collect(method, dataloader, read, name="dataloader", trainer=trainer)
    check_not_nan(uncertainty, f"score {score!r}" if isinstance(score, str) else "score", "dataloader")
    check_not_nan(losses, "loss", "dataloader")
    in_double = uncertainty.double(), losses.double()
    coverage, risk = risk_coverage_curve(*in_double)
    return SelectivePrediction(
        aurc=float(area_under_risk_coverage(*in_double)),
        excess_aurc=float(excess_area_under_risk_coverage(*in_double)),
        coverage=coverage,
        risk=risk,
        uncertainty=uncertainty,
        loss=losses,
    )
