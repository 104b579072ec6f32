"""Out-of-distribution detection by the uncertainty of a method."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning import Trainer
from torch import Tensor

from lightning_vi.core import Predictor
from lightning_vi.evaluation.collecting import check_not_nan, collect
from lightning_vi.evaluation.ood_scores import OOD_SCORES, OODScores
from lightning_vi.evaluation.scores import Score, check_score, datum_scores
from lightning_vi.functional.selective import auroc, detection_average_precision, false_positive_rate


@dataclass(frozen=True, eq=False)
class OODDetection:
    """Results of `ood_detection`; out-of-distribution data are the positive class.

    Attributes:
        auroc: Area under the ROC curve, the probability that an out-of-distribution datum has the larger score; ties
            count one half, 1 is perfect.
        aupr: Area under the precision-recall curve, as average precision; 1 is perfect, and chance is the share of
            out-of-distribution data.
        fpr95: False positive rate at 95% true positive rate; 0 is perfect.
        scores_in: Scores of the in-distribution data, in the order of the dataloader, shape [N].
        scores_out: Scores of the out-of-distribution data, in the order of the dataloader, shape [M].
    """

    auroc: float
    aupr: float
    fpr95: float
    scores_in: Tensor = field(repr=False)
    scores_out: Tensor = field(repr=False)


def ood_detection(
    method: Predictor,
    in_distribution: Iterable[Any],
    out_of_distribution: Iterable[Any],
    *,
    score: Score = "pred_uct",
    training_data: Iterable[Any] | None = None,
    trainer: Trainer | None = None,
) -> OODDetection:
    """Evaluates the detection of out-of-distribution data by the uncertainty of a method.

    A datum is classified as out-of-distribution if its score is large. See `lightning_vi.functional.auroc` and
    `lightning_vi.functional.false_positive_rate` for the definitions, and `plot_ood_scores` for a plot. The weights,
    modes and device of the method and the global random state are not changed.

    Args:
        method: A fitted method.
        in_distribution: Dataloader or list of batches of data like the training data, ``(x, y)``,
            ``{"input": x, "target": y}`` or inputs only. Targets are not used.
        out_of_distribution: Dataloader or list of batches of out-of-distribution data.
        score: A key of the dictionary of `predict_step` (`pred_uct`, `epistemic_uct`, `aleatoric_uct`), the name of a
            score of `OODScores` (such as `energy` or `mahalanobis`), or a function of the dictionary that returns one
            score per datum, [B], larger for out-of-distribution data. Several values per datum are reduced as in
            `selective_prediction`. `epistemic_uct` is the part of the uncertainty that should increase away from the
            training data.
        training_data: Labeled batches of the training data, which `mahalanobis` and `nearest_neighbors` need.
        trainer: Trainer whose `predict` is used, with its device and precision. None predicts without a Trainer, on the
            device of the method.

    Returns:
        The three metrics and the scores, on the CPU.

    Raises:
        ValueError: If `score` is neither a key of the dictionary nor the name of a score, there are no data, shapes do
            not match, scores are NaN, or `trainer` spawns processes.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.evaluation import ood_detection
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = MeanFieldVI(MLP(1, [8], 1), Gaussian(noise_std=0.1))
        >>> near, far = [torch.linspace(-1, 1, 20).unsqueeze(1)], [torch.linspace(50, 60, 10).unsqueeze(1)]
        >>> ood_detection(method, near, far, score="epistemic_uct")
        OODDetection(auroc=1.0, aupr=1.0, fpr95=0.0)
    """
    check_score(score)

    if isinstance(score, str) and score in OOD_SCORES:
        named = OODScores(method, training_data, scores=[score])
        scores_in = named(in_distribution, name="in_distribution", trainer=trainer)[score]
        return detection_of(scores_in, named(out_of_distribution, name="out_of_distribution", trainer=trainer)[score])

    def read(prediction: Mapping[str, Tensor], batch: Any) -> tuple[Tensor]:  # noqa: ARG001
        return (datum_scores(score, prediction, method.likelihood),)

    def scores(dataloader: Iterable[Any], name: str) -> Tensor:
        (values,) = collect(method, dataloader, read, name=name, trainer=trainer)
        check_not_nan(values, f"score {score!r}" if isinstance(score, str) else "score", name)
        return values

    return detection_of(scores(in_distribution, "in_distribution"), scores(out_of_distribution, "out_of_distribution"))


def detection_of(scores_in: Tensor, scores_out: Tensor) -> OODDetection:
    """Computes the metrics of detection from scores.

    Args:
        scores_in: Scores of in-distribution data, shape [N].
        scores_out: Scores of out-of-distribution data, shape [M].

    Returns:
        The metrics and the scores.
    """
    pair = scores_in.double(), scores_out.double()
    return OODDetection(
        auroc=float(auroc(*pair)),
        aupr=float(detection_average_precision(*pair)),
        fpr95=float(false_positive_rate(*pair)),
        scores_in=scores_in,
        scores_out=scores_out,
    )
