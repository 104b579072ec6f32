"""Out-of-distribution detection: whether uncertainty is larger on data of another kind."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lightning import Trainer
from torch import Tensor

from lightning_vi.evaluation.collecting import check_not_nan, collect
from lightning_vi.evaluation.scores import Score, check_score, datum_scores
from lightning_vi.functional.selective import auroc, false_positive_rate
from lightning_vi.core import Predictor


@dataclass(frozen=True, eq=False)
class OODDetection:
    """How well a score tells out-of-distribution data, the positive class, from in-distribution data.

    Attributes:
        auroc: Probability that an out-of-distribution datum has the larger score, ties counting half; 1 is perfect.
        fpr95: Share of in-distribution data that is flagged by the largest threshold that flags 95% of the
            out-of-distribution data; 0 is perfect.
        scores_in: Scores of the in-distribution data, in the order in which they came, shape [N].
        scores_out: Scores of the out-of-distribution data, in the order in which they came, shape [M].
    """

    auroc: float
    fpr95: float
    scores_in: Tensor = field(repr=False)
    scores_out: Tensor = field(repr=False)


def ood_detection(
    method: Predictor,
    in_distribution: Iterable[Any],
    out_of_distribution: Iterable[Any],
    *,
    score: Score = "pred_uct",
    trainer: Trainer | None = None,
) -> OODDetection:
    """Measures whether a method's uncertainty is larger on data unlike those it was trained on.

    A datum is flagged where its score is large. See `lightning_vi.functional.auroc` and
    `lightning_vi.functional.false_positive_rate` for the definitions, and `plot_ood_scores` for a picture. The method's
    weights, mode and device and the global random state stay as they were.

    Args:
        method: Any method, fitted.
        in_distribution: Batches of data like the training data: a dataloader, or a list. Targets are not used:
            ``(x, y)``, ``{"input": x, "target": y}`` or the input alone.
        out_of_distribution: Batches of other data.
        score: A key of the dictionary that `predict_step` returns (`pred_uct`, `epistemic_uct`, `aleatoric_uct`), or a
            function from that dictionary to one number for each datum, [B], larger for foreign data. Several numbers
            of a datum become one as in `selective_prediction`. `epistemic_uct` is what is meant to grow away from
            the training data.
        trainer: Its `predict` is used as it is set up, with its device and precision. By default the method predicts
            where it is, without a Trainer.

    Returns:
        The two numbers, and the scores behind them, on the CPU.

    Raises:
        ValueError: If `score` is no key of the dictionary, there are no data, shapes do not fit, scores are NaN, or
            `trainer` spawns processes, which hand nothing back.
        TypeError: If an argument is of another type.

    Example:
        >>> import torch
        >>> from lightning_vi import MeanFieldVI
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.evaluation import ood_detection
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = MeanFieldVI(MLP(1, [8], 1), Gaussian(noise_std=0.1))
        >>> near, far = [torch.linspace(-1, 1, 20).unsqueeze(1)], [torch.linspace(50, 60, 10).unsqueeze(1)]
        >>> ood_detection(method, near, far, score="epistemic_uct")
        OODDetection(auroc=1.0, fpr95=0.0)
    """
    check_score(score)

    def read(prediction: Mapping[str, Tensor], batch: Any) -> tuple[Tensor]:  # noqa: ARG001
        return (datum_scores(score, prediction, method.likelihood),)

    def scores(dataloader: Iterable[Any], name: str) -> Tensor:
        (values,) = collect(method, dataloader, read, name=name, trainer=trainer)
        check_not_nan(values, f"score {score!r}" if isinstance(score, str) else "score", name)
        return values

    scores_in = scores(in_distribution, "in_distribution")
    scores_out = scores(out_of_distribution, "out_of_distribution")
    return OODDetection(
        auroc=float(auroc(scores_in.double(), scores_out.double())),
        fpr95=float(false_positive_rate(scores_in.double(), scores_out.double())),
        scores_in=scores_in,
        scores_out=scores_out,
    )
