"""Scores of out-of-distribution detection."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.arguments import check_at_least, suggestion
from lightning_vi.core import Predictor
from lightning_vi.core.batch import split_batch, to_device
from lightning_vi.core.intake import network_input
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.evaluation.collecting import check_not_nan, collect
from lightning_vi.evaluation.feature_distances import ClassGaussians, NearestNeighbors
from lightning_vi.evaluation.features import PointPass, PointPasses
from lightning_vi.evaluation.scores import datum_scores
from lightning_vi.likelihoods import Likelihood
from lightning_vi.noise import private_random_state
from lightning_vi.sampling import evaluating

PREDICTION_SCORES = {"entropy": "pred_uct", "mutual_information": "epistemic_uct"}
CLASS_SCORES = ("entropy", "mutual_information", "max_probability", "energy")
FEATURE_SCORES = ("mahalanobis", "nearest_neighbors")
OOD_SCORES = (*CLASS_SCORES, *FEATURE_SCORES)
"""Names of the scores: larger for out-of-distribution data."""


class OODScores:
    """Scores that are larger for data unlike the training data.

    ========================  ===========================================================================
    name                      score of a datum x
    ========================  ===========================================================================
    ``entropy``               entropy of the mean probabilities, `pred_uct`
    ``mutual_information``    entropy minus expected entropy of the sampled networks, `epistemic_uct`
    ``max_probability``       1 minus the largest mean probability (Hendrycks & Gimpel, 2017)
    ``energy``                minus the log-sum-exp of the logits (Liu et al., 2020); those of `Bernoulli` with
                              the output f are f/2 and -f/2
    ``mahalanobis``           distance of the features to the nearest class mean (Lee et al., 2018)
    ``nearest_neighbors``     distance of the features to the k-th nearest training datum (Sun et al., 2022)
    ========================  ===========================================================================

    The first three are of the prediction, the mean over the samples. Logits and features are those of one pass without
    sampling, at posterior means or averaged weights and without dropout; features are the inputs of the layer that the
    network calls last. For ensembles, the score is the mean over the networks. A calibration changes the first three
    only.

    Args:
        method: A fitted method.
        training_data: Labeled batches of the training data, for `mahalanobis` and `nearest_neighbors`; they are read
            once. None is enough for the others.
        scores: Names of the scores; by default all that the likelihood and `training_data` allow.
        num_neighbors: k of `nearest_neighbors`.
        max_rows: Number of training data of `nearest_neighbors`, chosen at random.

    Attributes:
        names: Names of the scores.

    Raises:
        ValueError: If a name is unknown, an argument is out of range, or `training_data` has too few data.
        TypeError: If a score needs `training_data`, or classes that the likelihood does not have.
        NotFittedError: If the method is not fitted.

    Example:
        >>> from lightning_vi import Deterministic
        >>> from lightning_vi.backbones import MLP
        >>> from lightning_vi.likelihoods import Categorical
        >>> method = Deterministic(MLP(2, [8], 3), Categorical(3))
        >>> batches = [(torch.randn(60, 2), torch.randint(3, (60,)))]
        >>> scores = OODScores(method, batches)
        >>> {name: values.shape for name, values in scores([torch.randn(5, 2)]).items()}["mahalanobis"]
        torch.Size([5])
    """

    def __init__(
        self,
        method: Predictor,
        training_data: Iterable[Any] | None = None,
        *,
        scores: Sequence[str] | None = None,
        num_neighbors: int = 50,
        max_rows: int = 10_000,
    ) -> None:
        if not isinstance(method, Predictor):
            raise InputTypeError(f"method must be a Predictor, got a {type(method).__name__}")
        method.require_fitted()
        check_at_least("num_neighbors", num_neighbors, 1)
        check_at_least("max_rows", max_rows, num_neighbors)
        self.names = _names(scores, method.likelihood, has_data=training_data is not None)
        self._method = method
        self._passes = PointPasses(method) if {"energy", *FEATURE_SCORES} & set(self.names) else None
        self._gaussians: list[ClassGaussians] = []
        self._neighbors: list[NearestNeighbors] = []
        self._options = (num_neighbors, max_rows)
        if set(FEATURE_SCORES) & set(self.names):
            self._fit([] if training_data is None else training_data)

    def __call__(
        self, dataloader: Iterable[Any], *, name: str = "dataloader", trainer: Trainer | None = None
    ) -> dict[str, Tensor]:
        """Computes the scores of each datum.

        The weights, modes and device of the method and the global random state are not changed.

        Args:
            dataloader: Dataloader or list of batches, ``(x, y)``, ``{"input": x, "target": y}`` or inputs only.
            name: Name of the dataloader in errors.
            trainer: Trainer whose `predict` is used; None predicts on the device of the method.

        Returns:
            The scores by name, each of shape [N], on the CPU.

        Raises:
            ValueError: If there are no data, or scores are NaN.
            TypeError: If an argument has the wrong type.
        """
        columns = collect(self._method, dataloader, self._read, name=name, trainer=trainer)
        found = dict(zip(self.names, columns, strict=True))
        for score, values in found.items():
            check_not_nan(values, f"score {score!r}", name)
        return found

    def _read(self, prediction: Mapping[str, Tensor], batch: Any) -> tuple[Tensor, ...]:
        likelihood, passes = self._method.likelihood, self._point_passes(batch)
        scores: dict[str, Callable[[], Tensor]] = {
            "entropy": lambda: datum_scores("pred_uct", prediction, likelihood),
            "mutual_information": lambda: datum_scores("epistemic_uct", prediction, likelihood),
            "max_probability": lambda: _per_datum(1 - prediction["pred"].amax(1)),
            "energy": lambda: _mean([_energy(each.outputs, likelihood) for each in passes]),
            "mahalanobis": lambda: _mean(
                [own.distances(each.features) for own, each in zip(self._gaussians, passes, strict=True)]
            ),
            "nearest_neighbors": lambda: _mean(
                [own.distances(each.features) for own, each in zip(self._neighbors, passes, strict=True)]
            ),
        }
        return tuple(scores[name]() for name in self.names)

    def _point_passes(self, batch: Any) -> list[PointPass]:
        return [] if self._passes is None else self._passes(network_input(split_batch(batch)[0], self._method))

    def _fit(self, training_data: Iterable[Any]) -> None:
        """Reads the features of the training data."""
        method = self._method
        with evaluating(method), private_random_state(0, method.device), torch.no_grad():
            for host_batch in training_data:
                self._add(to_device(method, host_batch))
        for gaussians in self._gaussians:
            gaussians.finish()
        for neighbors in self._neighbors:
            neighbors.check()
        if not self._gaussians and not self._neighbors:
            raise InputValueError("training_data has no data")

    def _add(self, batch: Any) -> None:
        labels, num_classes = _labels(split_batch(batch)[1], self._method.likelihood)
        for index, each in enumerate(self._point_passes(batch)):
            if "mahalanobis" in self.names:
                if index == len(self._gaussians):
                    self._gaussians.append(ClassGaussians(num_classes))
                known = torch.zeros(len(each.features), dtype=torch.long) if labels is None else labels.cpu()
                kept = known >= 0
                self._gaussians[index].update(each.features[kept.to(each.features.device)], known[kept])
            if "nearest_neighbors" in self.names:
                if index == len(self._neighbors):
                    self._neighbors.append(NearestNeighbors(*self._options))
                self._neighbors[index].update(each.features)


def check_ood_scores(scores: Sequence[str]) -> list[str]:
    """Returns names of scores; raises an error if there is none, an unknown one, or one twice."""
    if isinstance(scores, str) or not isinstance(scores, Sequence):
        raise InputTypeError(f"scores must be a list of names such as ['energy'], got {scores!r}")
    for score in scores:
        if score not in OOD_SCORES:
            raise InputValueError(f"there is no score {score!r}{suggestion(str(score), OOD_SCORES)}")
    if not scores or len(set(scores)) < len(scores):
        raise InputValueError(f"scores must have at least one name and none twice, got {list(scores)}")
    return list(scores)


def _names(scores: Sequence[str] | None, likelihood: Likelihood, *, has_data: bool) -> list[str]:
    has_classes = likelihood.task == "classification"
    if scores is None:
        return [*(CLASS_SCORES if has_classes else PREDICTION_SCORES), *(FEATURE_SCORES if has_data else ())]
    names = check_ood_scores(scores)
    if not has_data and (needing := [name for name in names if name in FEATURE_SCORES]):
        raise InputTypeError(
            f"the score {needing[0]!r} needs training_data, such as training_data=datamodule.train_dataloader()"
        )
    if not has_classes and (needing := [name for name in names if name in ("max_probability", "energy")]):
        raise InputTypeError(
            f"the score {needing[0]!r} needs a likelihood for classes, got {type(likelihood).__name__}"
        )
    return names


def _energy(outputs: Tensor, likelihood: Likelihood) -> Tensor:
    if likelihood.softmax_dim is None:
        return _per_datum(outputs / 2 - F.softplus(outputs))
    return _per_datum(-outputs.logsumexp(likelihood.softmax_dim))


def _per_datum(values: Tensor) -> Tensor:
    """Means over the positions of each datum, from [B, ...]."""
    return values.unsqueeze(-1).flatten(1).mean(1)


def _labels(target: Any, likelihood: Likelihood) -> tuple[Tensor | None, int]:
    """Class labels [B], -1 for missing ones, and their number; None and 1 for data without one label for each datum."""
    is_label = isinstance(target, Tensor) and target.dim() == 1 and not target.is_floating_point()
    if likelihood.task != "classification" or not is_label:
        return None, 1
    observed = likelihood.observed(target)
    labels = target.long() if observed is None else torch.where(observed, target, -1).long()
    return labels, likelihood.num_predictions


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack([each.float().cpu() for each in values]).mean(0)
