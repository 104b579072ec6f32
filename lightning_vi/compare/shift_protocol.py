"""Protocol of shifted images and out-of-distribution data, for a fitted method."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning import LightningDataModule, Trainer
from torch import Tensor

from lightning_vi.arguments import check_at_least
from lightning_vi.core import Predictor
from lightning_vi.datamodules import shifted_test_sets
from lightning_vi.datamodules.shifted import check_severities, check_shifts
from lightning_vi.datamodules.shifts import SEVERITIES, SHIFTS
from lightning_vi.errors import InputTypeError
from lightning_vi.evaluation import OOD_SCORES, OODScores
from lightning_vi.evaluation.detection import detection_of
from lightning_vi.evaluation.ood_scores import check_ood_scores
from lightning_vi.functional import entropy
from lightning_vi.functional.scoring import top_label
from lightning_vi.likelihoods import Likelihood
from lightning_vi.metrics import AURC

SUFFIXES = {"entropy": "", "mutual_information": "_epistemic"}
"""Ends of the columns of detection; those of other scores have the name of the score."""
DETECTION_DIRECTIONS = {"auroc": True, "aupr": True, "fpr95": False}


class TopLabelAURC(AURC):
    """`AURC` of the 0-1 loss of the most probable class, by the entropy of the mean probabilities.

    Example:
        >>> import torch
        >>> metric = TopLabelAURC()
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.6, 0.4]]), torch.tensor([0, 1]))
        >>> metric.compute()
        tensor(0.2500)
    """

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            preds: Probabilities, shape [B, C].
            target: Labels, shape [B].
        """
        self._store(uncertainty=entropy(preds, dim=1), loss=1.0 - top_label(preds, target)[1].to(preds.dtype))


@dataclass(frozen=True)
class ShiftProtocol:
    """Scores on shifted images, and detection of out-of-distribution data by several scores.

    Args:
        shifts: Kinds of shifts, see `lightning_vi.datamodules.shift_images`; all by default.
        severities: Severities from 1 to 5.
        scores: Scores of out-of-distribution detection, see `lightning_vi.evaluation.OODScores`.
        num_neighbors: k of the score `nearest_neighbors`.
        seed: Seed of directions and noise of the shifts.

    Raises:
        ValueError: If a name is unknown, or a number out of range.
        TypeError: If an argument has the wrong type.

    Example:
        >>> ShiftProtocol(shifts=["rotation", "contrast"], severities=[1, 3, 5]).shifts
        ('rotation', 'contrast')
    """

    shifts: Sequence[str] = tuple(SHIFTS)
    severities: Sequence[int] = SEVERITIES
    scores: Sequence[str] = OOD_SCORES
    num_neighbors: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shifts", tuple(check_shifts(self.shifts)))
        object.__setattr__(self, "severities", tuple(sorted(check_severities(self.severities))))
        object.__setattr__(self, "scores", tuple(check_ood_scores(self.scores)))
        check_at_least("num_neighbors", self.num_neighbors, 1)

    @property
    def directions(self) -> dict[str, bool]:
        """Direction of each score that the protocol adds."""
        return {"aurc": False} | detection_directions(self.scores)

    def check(self, datamodule: LightningDataModule, likelihood: Likelihood) -> None:
        """Raises an error if the data are no images with class labels.

        Args:
            datamodule: The data.
            likelihood: The likelihood.

        Raises:
            ValueError: If the inputs are no images.
            TypeError: If the likelihood has no classes.
        """
        if likelihood.task != "classification":
            raise InputTypeError(
                f"shifts need class labels: likelihood must be one for classes, got {type(likelihood).__name__}"
            )
        datamodule.prepare_data()
        datamodule.setup("test")
        shifted_test_sets(datamodule, self.shifts[:1], self.severities[:1])

    def rows(
        self,
        method: Predictor,
        trainer: Trainer,
        datamodule: LightningDataModule,
        ood_loaders: Mapping[str, Iterable[Any]],
    ) -> list[dict[str, Any]]:
        """Scores a fitted method.

        Args:
            method: The method; the metric `aurc` is added to its test metrics.
            trainer: Trainer whose `test` is used.
            datamodule: The data.
            ood_loaders: Out-of-distribution data by name.

        Returns:
            One row for the clean test data, for each shift and severity, and for each out-of-distribution set.
        """
        datamodule.setup("test")
        if "aurc" not in method.test_metrics:
            method.test_metrics.add_metrics({"aurc": TopLabelAURC()})
        clean = datamodule.test_dataloader()
        shifted = shifted_test_sets(datamodule, self.shifts, self.severities, seed=self.seed)
        rows = []
        for name, loader in {"test": clean, **shifted}.items():
            (found,) = trainer.test(method, loader, verbose=False)
            rows.append({"test_set": name, **{key.removeprefix("test_"): value for key, value in found.items()}})
        if ood_loaders:
            scores = OODScores(
                method, datamodule.train_dataloader(), scores=self.scores, num_neighbors=self.num_neighbors
            )
            scores_in = scores(clean, name="test")
            for name, each in ood_loaders.items():
                scores_out = scores(each, name=name)
                row: dict[str, Any] = {"test_set": name}
                for score, inside in scores_in.items():
                    row |= detection_row(score, inside, scores_out[score])
                rows.append(row)
        return rows


def detection_columns(score: str) -> dict[str, str]:
    """Returns the columns of the metrics of detection by a score.

    Args:
        score: Name of the score.

    Example:
        >>> detection_columns("energy")["auroc"], detection_columns("entropy")["auroc"]
        ('ood_auroc_energy', 'ood_auroc')
    """
    return {metric: f"ood_{metric}{SUFFIXES.get(score, f'_{score}')}" for metric in DETECTION_DIRECTIONS}


def detection_directions(scores: Iterable[str]) -> dict[str, bool]:
    """Returns the direction of each column of detection."""
    return {
        column: DETECTION_DIRECTIONS[metric] for score in scores for metric, column in detection_columns(score).items()
    }


def detection_row(score: str, scores_in: Tensor, scores_out: Tensor) -> dict[str, float]:
    """Returns the metrics of detection by a score, by column.

    Args:
        score: Name of the score.
        scores_in: Scores of in-distribution data, [N].
        scores_out: Scores of out-of-distribution data, [M].
    """
    found = detection_of(scores_in, scores_out)
    return {column: getattr(found, metric) for metric, column in detection_columns(score).items()}
