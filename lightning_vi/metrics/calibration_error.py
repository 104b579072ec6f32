"""Calibration errors of class probabilities beside the `ExpectedCalibrationError`, and the parts of the Brier score."""

from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_vi.errors import InputValueError
from lightning_vi.functional.calibration_errors import (
    adaptive_calibration_error,
    brier_decomposition,
    class_bins,
    classwise_calibration_error,
    maximum_calibration_error,
)
from lightning_vi.functional.scoring import top_label
from lightning_vi.functional.smooth_calibration import residual_nodes, smooth_calibration_error
from lightning_vi.metrics.base import StoredScores
from lightning_vi.metrics.classification import ExpectedCalibrationError, check_width

__all__ = [
    "AdaptiveCalibrationError",
    "BrierDecomposition",
    "ClasswiseCalibrationError",
    "MaximumCalibrationError",
    "SmoothCalibrationError",
]

Part = Literal["reliability", "resolution", "uncertainty"]


class MaximumCalibrationError(ExpectedCalibrationError):
    r"""Maximum calibration error (MCE) of the most probable class: the largest gap over bins of equal width.

    .. math::
        \mathrm{MCE} = \max_{b:\, n_b > 0} |\mathrm{accuracy}_b - \mathrm{confidence}_b|

    Naeini, Cooper and Hauskrecht (2015). Between 0 and 1; lower is better. The bin is often one with few data.

    Args:
        num_classes: number of classes C; predictions of another width are rejected. None: not checked.
        num_bins: number of bins.

    Raises:
        ValueError: if ``num_bins`` is not a positive integer.

    Example:
        >>> import torch
        >>> metric = MaximumCalibrationError(num_classes=2)
        >>> metric.update(torch.tensor([[0.1, 0.9], [0.4, 0.6]]), torch.tensor([1, 0]))
        >>> metric.compute()
        tensor(0.6000)
    """

    def compute(self) -> Tensor:
        """Returns the maximum calibration error, a scalar tensor; NaN without data."""
        return maximum_calibration_error(self.bins)


class AdaptiveCalibrationError(StoredScores):
    r"""Calibration error of the most probable class over confidence bins with the same number of data (adaptive ECE).

    See `lightning_vi.functional.adaptive_calibration_error`. Between 0 and 1; lower is better. It stores two numbers
    for each element of the target.

    Args:
        num_classes: number of classes C; predictions of another width are rejected. None: not checked.
        num_bins: number of bins.

    Raises:
        ValueError: if ``num_bins`` is not a positive integer.

    Example:
        >>> import torch
        >>> metric = AdaptiveCalibrationError(num_classes=2, num_bins=2)
        >>> metric.update(torch.tensor([[0.1, 0.9], [0.1, 0.9]]), torch.tensor([1, 0]))
        >>> metric.compute()
        tensor(0.4000)
    """

    stored = ("confidence", "correct")

    def __init__(self, num_classes: int | None = None, num_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.num_bins = num_classes, _positive("num_bins", num_bins)

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: class probabilities, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
            TypeError: if ``target`` is not an integer tensor.
        """
        check_width(preds, self.num_classes)
        confidence, correct = top_label(preds, target)
        if observed is not None:
            correct = torch.where(observed, correct, torch.nan)  # left out at the end, without a synchronization here
        self._store(confidence=confidence.flatten(), correct=correct.flatten())

    def _value(self, *columns: Tensor) -> Tensor:
        confidence, correct = columns
        counted = ~correct.isnan()
        if not counted.is_meta:
            confidence, correct = confidence[counted], correct[counted]
        return adaptive_calibration_error(confidence, correct, self.num_bins) if len(correct) else self._nan()


class SmoothCalibrationError(Metric):
    r"""Smooth calibration error (smECE) of the most probable class, which has no bins.

    Blasiok and Nakkiran (2024), "Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing"; see
    `lightning_vi.functional.smooth_calibration_error`. Between 0 and 1; lower is better. Small changes of the
    probabilities change it little, where an error over bins may jump.

    Args:
        num_classes: number of classes C; predictions of another width are rejected. None: not checked.

    Example:
        >>> import torch
        >>> metric = SmoothCalibrationError(num_classes=2)
        >>> metric.update(torch.tensor([[0.1, 0.9], [0.1, 0.9]]), torch.tensor([1, 0]))
        >>> metric.compute()
        tensor(0.4000)
    """

    is_differentiable: bool = False
    higher_is_better: bool = False
    full_state_update: bool = False

    nodes: Tensor

    def __init__(self, num_classes: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.add_state("nodes", default=torch.zeros_like(residual_nodes(*torch.zeros(2, 1))), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: class probabilities, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
            TypeError: if ``target`` is not an integer tensor.
        """
        check_width(preds, self.num_classes)
        nodes = residual_nodes(*top_label(preds, target), observed)
        self.nodes = self.nodes + nodes.to(self.nodes.dtype)

    def compute(self) -> Tensor:
        """Returns the smooth calibration error, a scalar tensor; NaN without data."""
        return smooth_calibration_error(self.nodes)


class _ClassBins(Metric):
    """Base class of metrics of the reliability diagrams of all classes."""

    is_differentiable: bool = False
    higher_is_better: bool | None = False
    full_state_update: bool = False

    bins: Tensor

    def __init__(self, num_classes: int, num_bins: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.num_bins = _positive("num_classes", num_classes), _positive("num_bins", num_bins)
        self.add_state("bins", default=torch.zeros(3, num_classes, num_bins), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor, observed: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            preds: class probabilities, shape ``[B, C]`` or ``[B, C, ...]``.
            target: class indices, an integer tensor of shape ``[B]`` or ``[B, ...]``.
            observed: True for the elements of the target to score, its shape; by default all.

        Raises:
            ValueError: if the shapes do not match.
            TypeError: if ``target`` is not an integer tensor.
        """
        check_width(preds, self.num_classes)
        self.bins = self.bins + class_bins(preds, target, self.num_bins, observed).to(self.bins.dtype)


class ClasswiseCalibrationError(_ClassBins):
    r"""Calibration error of the probabilities of all classes, over bins of equal width, averaged over the classes.

    .. math::
        \mathrm{cwECE} = \frac{1}{C} \sum_{c=1}^{C} \sum_{b=1}^{M} \frac{n_{cb}}{N} \,
        |\mathrm{frequency}_{cb} - \mathrm{probability}_{cb}|

    Kull et al. (2019), see `lightning_vi.functional.classwise_calibration_error`. Between 0 and 1; lower is better.
    With many classes most probabilities are small, and so is the error.

    Args:
        num_classes: number of classes C.
        num_bins: number of bins M.

    Raises:
        ValueError: if a number is not a positive integer.

    Example:
        >>> import torch
        >>> metric = ClasswiseCalibrationError(num_classes=2)
        >>> metric.update(torch.tensor([[0.2, 0.8], [0.2, 0.8]]), torch.tensor([1, 0]))
        >>> metric.compute()
        tensor(0.3000)
    """

    def __init__(self, num_classes: int, num_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(num_classes, num_bins, **kwargs)

    def compute(self) -> Tensor:
        """Returns the classwise calibration error, a scalar tensor; NaN without data."""
        return classwise_calibration_error(self.bins)


class BrierDecomposition(_ClassBins):
    r"""One part of the Brier score, which is reliability - resolution + uncertainty.

    Murphy (1973), see `lightning_vi.functional.brier_decomposition`. Reliability measures calibration, lower is better;
    resolution how far the predictions separate the data, higher is better; uncertainty is that of the class
    frequencies.

    Args:
        num_classes: number of classes C.
        part: ``"reliability"``, ``"resolution"`` or ``"uncertainty"``.
        num_bins: number of bins for the probabilities of each class.

    Raises:
        ValueError: if a number is not a positive integer or the part is unknown.

    Example:
        >>> import torch
        >>> metric = BrierDecomposition(num_classes=2, part="uncertainty")
        >>> metric.update(torch.tensor([[0.2, 0.8], [0.2, 0.8]]), torch.tensor([1, 0]))
        >>> metric.compute()
        tensor(0.5000)
    """

    def __init__(self, num_classes: int, part: Part = "reliability", num_bins: int = 15, **kwargs: Any) -> None:
        super().__init__(num_classes, num_bins, **kwargs)
        if part not in get_args(Part):
            raise InputValueError(f"part must be one of {list(get_args(Part))}, got {part!r}")
        self.part = part

    @property
    def higher_is_better(self) -> bool | None:  # type: ignore[override]
        """Direction of the part; None for the uncertainty."""
        return {"reliability": False, "resolution": True, "uncertainty": None}[self.part]

    def compute(self) -> Tensor:
        """Returns the part of the Brier score, a scalar tensor; NaN without data."""
        value: Tensor = getattr(brier_decomposition(self.bins), self.part)
        return value


def _positive(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputValueError(f"{name} must be a positive integer, got {value!r}")
    return value
