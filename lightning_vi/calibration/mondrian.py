r"""Mondrian conformal prediction: a quantile for each group of data, so that the coverage holds within each group.

Vovk, Gammerman and Shafer, "Algorithmic learning in a random world", 2005, section 4.5; Vovk, "Conditional validity of
inductive conformal predictors", ACML 2012.

.. math:: P(y \in C(x) \mid g(x, y) = k) \ge \mathrm{coverage}, \qquad
    C(x) = \{y : s(x, y) \le q_{g(x, y)}\}

=====================  ====================================================================
symbol                 argument
=====================  ====================================================================
:math:`s`              scores of `method`, a conformal method
:math:`g`              `groups`
:math:`q_k`            `quantiles`, the results: :math:`\lceil (n_k + 1)\,` `coverage`
                       :math:`\rceil`-th smallest scores of the :math:`n_k` data of group k
=====================  ====================================================================
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lightning_vi.arguments import check_at_least
from lightning_vi.calibration.base import CalibratedMethod
from lightning_vi.calibration.conformal import ConformalMethod
from lightning_vi.core.predictive import Predictive
from lightning_vi.core.predictor import Predictor
from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.likelihoods import Likelihood, Prediction, Task
from lightning_vi.sampling import NetworkInput, tensors

Groups = int | str | Callable[[NetworkInput], Tensor]
"""A column of the input, ``"label"``, ``"prediction"``, or a function from the input to the number of each group."""


class Mondrian(CalibratedMethod):
    r"""Intervals or sets of a conformal method that have its coverage within each group of data.

    Groups are hospitals, sensors or kinds of inputs, known for each input (group-conditional), or the classes
    (class-conditional, `groups="label"`, for sets). Predictions are those of `method` with one quantile for each group.
    A group needs coverage / (1 - coverage) calibration data; the intervals of smaller ones, and of groups that the
    calibration data do not have, are infinite, and sets have all classes. A warning is issued.

    Class-conditional sets may be large where one class is rare. They are the classes c whose score does not exceed the
    quantile of class c.

    Args:
        method: A conformal method, such as ``SplitConformal(method)``, calibrated or not; it is copied. Its `coverage`
            is that of each group.
        groups: The column of the input, [B, F], that holds the number of the group, ``"label"`` for the classes,
            ``"prediction"`` for the most probable class, or a function from the input to numbers, shape [B]. Numbers
            are 0, 1, ..., `num_groups` - 1.
        num_groups: Number of groups; by default that of the classes for ``"label"`` and ``"prediction"``.
        method_checkpoint: Path of a Lightning checkpoint to load the weights of `method` from; None keeps its weights.

    Raises:
        TypeError: If `method` is not a conformal method, or `groups` does not fit it.
        FileNotFoundError: If the checkpoint does not exist.
        ValueError: If `num_groups` is missing or not positive, or the checkpoint is not one of `method`.

    Example:
        >>> import torch
        >>> from lightning_vi import Deterministic, SplitConformal
        >>> from lightning_vi.likelihoods import Gaussian
        >>> method = Deterministic(torch.nn.Linear(2, 1).requires_grad_(False), Gaussian(noise_std=1.0))
        >>> conformal = Mondrian(SplitConformal(method, coverage=0.5), groups=1, num_groups=2)
        >>> x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
        >>> conformal.calibrate([(x, method(x) + torch.tensor([[1.0], [1.0], [5.0], [5.0]]))])
        >>> conformal.quantiles.round()
        tensor([[1.],
                [5.]])
    """

    method: ConformalMethod
    quantiles: Tensor

    def __init__(
        self,
        method: Predictor,
        *,
        groups: Groups,
        num_groups: int | None = None,
        method_checkpoint: str | None = None,
    ) -> None:
        if not isinstance(method, ConformalMethod) or not method.has_groups:
            raise InputTypeError(
                "method must be a conformal method with one quantile, such as SplitConformal(method), "
                f"got a {type(method).__name__}"
            )
        if isinstance(groups, bool) or not (callable(groups) or groups in ("label", "prediction") or _is_int(groups)):
            raise InputTypeError(
                f"groups must be a column, 'label', 'prediction' or a function of the input, got {groups!r}"
            )
        by_class = groups in ("label", "prediction")
        if by_class and method.likelihood.task != "classification":
            raise InputTypeError(
                f"groups={groups!r} is for classification, but {type(method).__name__} is for regression"
            )
        if num_groups is None:
            if not by_class:
                raise InputValueError("num_groups is missing, the number of groups")
            num_groups = method.likelihood.num_predictions
        check_at_least("num_groups", num_groups, 1)
        self.task: Task = method.likelihood.task
        super().__init__(method, method_checkpoint=method_checkpoint)
        self.groups = groups
        self.num_groups = num_groups
        own = {name.removeprefix("test_"): metric for name, metric in self.method.test_metrics.clone().items()}
        self.test_metrics.add_metrics({name: own[name] for name in own if name.startswith("conformal_")})
        self.register_buffer("quantiles", torch.full((num_groups, *self.method.quantile.shape), torch.inf))

    @classmethod
    def check_likelihood(cls, likelihood: Likelihood) -> None:
        """Does nothing: the conformal method has checked its likelihood.

        Args:
            likelihood: The method's likelihood.
        """

    @property
    def source(self) -> Predictor:
        """The predictor whose predictions are calibrated: the one inside of the conformal method."""
        return self.method.method

    @property
    def coverage(self) -> float:
        """Probability of coverage within each group."""
        return self.method.coverage

    def scores(self, x: NetworkInput, predictive: Predictive, target: Tensor) -> Tensor:
        """Joins the scores of the conformal method and the number of the group.

        Args:
            x: Input, each tensor of shape [B, ...].
            predictive: The method's predictive distribution.
            target: Targets, shape [B, ...].

        Returns:
            Shape [B, 2, ...].
        """
        scores = self.method.scores(x, predictive, target)
        group = target if self.groups == "label" else self._groups_of(x, predictive.prediction())
        group = group.reshape(*group.shape, *[1] * (scores.dim() - group.dim())).expand_as(scores)
        self._check_groups(group)
        return torch.stack([scores, group.to(scores.dtype)], 1)

    def use_scores(self, scores: Tensor) -> None:  # noqa: D102
        own, group = scores.unbind(1)
        for index, quantile in enumerate(self.quantiles):
            self.method.use_scores(torch.where(group == index, own, torch.nan))
            quantile.copy_(self.method.quantile)
        self.method.use_scores(own)
        self.method.is_calibrated.fill_(True)

    def calibrated(self, x: NetworkInput, prediction: Prediction) -> Prediction:  # noqa: D102
        places = prediction.mean.dim() - 2
        if self.groups == "label":
            quantiles = self.quantiles.view(1, -1, *[1] * places)
        else:
            group = self._groups_of(x, prediction)
            known = (group >= 0) & (group < self.num_groups)
            chosen = self.quantiles[group.clamp(0, self.num_groups - 1)]
            quantiles = torch.where(known.view(*known.shape, *[1] * (chosen.dim() - known.dim())), chosen, torch.inf)
            if self.task == "classification":
                quantiles = quantiles.unsqueeze(1) if quantiles.dim() > 1 else quantiles.view(-1, *[1] * (places + 1))
            else:
                quantiles = quantiles.view(-1, *[1] * places, quantiles.shape[-1])
        return self.method.region(x, prediction, quantiles)

    def _groups_of(self, x: NetworkInput, prediction: Prediction) -> Tensor:
        """Numbers of the groups, [B], or [B, ...] for the most probable classes."""
        if self.groups == "prediction":
            return prediction.mean.argmax(1)
        if callable(self.groups):
            return torch.as_tensor(self.groups(x)).to(prediction.mean.device).long().reshape(-1)
        (rows,) = tensors(x)[:1]
        if rows.dim() != 2 or not -rows.shape[1] <= int(self.groups) < rows.shape[1]:
            raise InputValueError(
                f"groups={self.groups} must be a column of the input, which has shape {list(rows.shape)}"
            )
        return rows[:, int(self.groups)].round().long()

    def _check_groups(self, group: Tensor) -> None:
        if group.numel() and not (group.min() >= 0 and group.max() < self.num_groups):
            raise InputValueError(
                f"groups must be numbers from 0 to {self.num_groups - 1}, got {group.min().item()} to "
                f"{group.max().item()}; columns of a datamodule may be standardized, use a function then"
            )


def _is_int(value: object) -> bool:
    return isinstance(value, int)
