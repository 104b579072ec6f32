"""Selective prediction: the risk of a method that abstains from uncertain data."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning import Trainer
from torch import Tensor

from lightning_vi.core import Predictor
from lightning_vi.core.batch import split_batch
from lightning_vi.errors import InputTypeError
from lightning_vi.evaluation.collecting import check_not_nan, collect
from lightning_vi.evaluation.scores import Loss, Score, check_score, datum_losses, datum_scores
from lightning_vi.functional.selective import (
    area_under_generalized_risk_coverage,
    area_under_risk_coverage,
    count_that_reaches,
    coverage_at_risk,
    excess_area_under_risk_coverage,
    risk_coverage_curve,
)


@dataclass(frozen=True, eq=False)
class SelectivePrediction:
    """Results of `selective_prediction`.

    Attributes:
        aurc: Area under the risk-coverage curve, in units of the loss; lower is better.
        excess_aurc: `aurc` minus that of the optimal ranking, by the losses themselves; 0 is perfect.
        augrc: Area under the generalized risk-coverage curve, the mean share of data that are kept and wrong, in units
            of the loss; lower is better.
        coverage: Fractions of the data for which the method predicts, 1/N, 2/N, ..., 1, float64 of shape [N].
        risk: Mean loss of these data at each coverage, float64 of shape [N].
        uncertainty: Score of each datum, in the order of the dataloader, shape [N].
        loss: Loss of each datum, in the order of the dataloader, shape [N].
        loss_name: Name of the loss: "0-1 loss", "squared error", or that of the function.
    """

    aurc: float
    excess_aurc: float
    augrc: float
    coverage: Tensor = field(repr=False)
    risk: Tensor = field(repr=False)
    uncertainty: Tensor = field(repr=False)
    loss: Tensor = field(repr=False)
    loss_name: str = field(default="loss", repr=False)

    def risk_at(self, coverage: float) -> float:
        """Returns the risk at a given coverage, the mean loss of the most certain data.

        Args:
            coverage: Fraction of the data, above 0 and at most 1; rounded up to a number of data.

        Returns:
            Mean loss, in units of the loss.

        Raises:
            ValueError: If `coverage` is outside (0, 1].
        """
        return float(self.risk[count_that_reaches(coverage, len(self.risk), "coverage") - 1])

    def coverage_at(self, risk: float) -> float:
        """Returns the largest coverage at which the risk does not exceed a given one; 0 if there is none.

        Args:
            risk: Mean loss, in units of the loss.

        Returns:
            Fraction of the data.

        Raises:
            ValueError: If `risk` is NaN.
        """
        return float(coverage_at_risk(self.uncertainty.double(), self.loss.double(), risk))


def selective_prediction(
    method: Predictor,
    dataloader: Iterable[Any],
    *,
    score: Score = "pred_uct",
    loss: Loss | None = None,
    trainer: Trainer | None = None,
) -> SelectivePrediction:
    """Computes the risk-coverage curve of a method that abstains from the most uncertain data.

    See `lightning_vi.functional.risk_coverage_curve` for the definition and the treatment of ties, and
    `plot_risk_coverage` for a plot. Data whose targets are all missing are left out. The weights, modes and device of
    the method and the global random state are not changed.

    Args:
        method: A fitted method.
        dataloader: Dataloader or list of batches with targets, ``(x, y)`` or ``{"input": x, "target": y}``.
        score: A key of the dictionary of `predict_step` (`pred_uct`, `epistemic_uct`, `aleatoric_uct`), or a function
            of this dictionary that returns one uncertainty per datum, [B]. Several values per datum are reduced to one:
            standard deviations of a regression to their root mean square, whose square is the mean variance just as
            the default loss is the mean squared error; other quantities, such as entropies of pixels, to their mean.
        loss: A function of this dictionary and the target that returns one loss per datum, [B]. None: the 0-1 loss in
            classification and the squared error of the mean in regression, averaged over the elements of a datum.
        trainer: Trainer whose `predict` is used, with its device and precision. None predicts without a Trainer, on the
            device of the method.

    Returns:
        The curve, the areas, and the scores and losses, on the CPU.

    Raises:
        ValueError: If `score` is not a key of the dictionary, there are no data, shapes do not match, scores or losses
            are NaN, or `trainer` spawns processes.
        TypeError: If an argument has the wrong type, or batches have no targets.

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
        raise InputTypeError(f"loss must be a function of predict_step's dictionary and the target, got {loss!r}")

    def read(prediction: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, Tensor]:
        target = split_batch(batch)[1]
        if target is None:
            raise InputTypeError("selective prediction needs targets: batches (x, y) or {'input': x, 'target': y}")
        observed = method.likelihood.observed(target)
        uncertainty = datum_scores(score, prediction, method.likelihood, observed)
        losses = datum_losses(loss, prediction, target, method.likelihood)
        if observed is None:
            return uncertainty, losses
        rows = observed.reshape(len(observed), -1).any(1)
        return uncertainty[rows], losses[rows]

    uncertainty, losses = collect(method, dataloader, read, name="dataloader", trainer=trainer)
    check_not_nan(uncertainty, f"score {score!r}" if isinstance(score, str) else "score", "dataloader")
    check_not_nan(losses, "loss", "dataloader")
    in_double = uncertainty.double(), losses.double()
    coverage, risk = risk_coverage_curve(*in_double)
    return SelectivePrediction(
        aurc=float(area_under_risk_coverage(*in_double)),
        excess_aurc=float(excess_area_under_risk_coverage(*in_double)),
        augrc=float(area_under_generalized_risk_coverage(*in_double)),
        coverage=coverage,
        risk=risk,
        uncertainty=uncertainty,
        loss=losses,
        loss_name=_name_of(loss, method.likelihood.task),
    )


def _name_of(loss: Loss | None, task: str) -> str:
    if loss is None:
        return "0-1 loss" if task == "classification" else "squared error"
    name: str = getattr(loss, "__name__", type(loss).__name__)
    return "loss" if name == "<lambda>" else name
