"""Toy problems with several labels, and with ordered classes."""

from typing import Unpack, cast

import torch
from torch import Tensor

from lightning_vi.datamodules._checks import check_int, check_seed
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, Splits, TestSplit
from lightning_vi.datamodules.functions import SPLITS, check_test_split, random_state
from lightning_vi.errors import InputValueError

UNKNOWN = -1
CENTERS = ((-0.8, -0.5), (0.8, -0.5), (0.0, 0.8), (0.0, 0.0))
RADIUS, STEEPNESS = 1.1, 5.0
THRESHOLDS = (-2.0, 0.0, 1.0, 3.0)


class ToyMultiLabelDataModule(ArrayDataModule):
    r"""Points in a plane with four labels, one for each of four overlapping disks with soft borders.

    .. math:: P(y_l = 1 \mid x) = \sigma\big(5\, (1.1 - |x - c_l|)\big)

    with x uniform in the square from -2 to 2, and in a ring with radius 4 to 5 out of distribution. A share of the
    training labels is not known, which -1 stands for; the labels of the other splits are complete.

    Args:
        batch_size: Number of rows per batch.
        n_points: Number of training rows, at least 4. The validation, test, calibration and out-of-distribution sets
            have half as many each, rounded down.
        missing_fraction: Share of the training labels that are missing, at least 0 and less than 1.
        data_seed: Seed of the points and labels.
        test_split: The rows of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those out of
            distribution.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Points, [n, 2] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Labels 0 or 1, and -1 where they are missing, [n, 4] int64.
        probs_train, probs_val, probs_test, probs_calib, probs_ood: Probabilities of the labels, [n, 4] float32.
        num_classes: 2, the values of each label.
        ignore_index: -1.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = ToyMultiLabelDataModule(missing_fraction=0.2)
        >>> dm.X_train.shape, dm.Y_train.shape, dm.Y_train.unique()
        (torch.Size([400, 2]), torch.Size([400, 4]), tensor([-1,  0,  1]))
    """

    def __init__(
        self,
        batch_size: int = 32,
        *,
        n_points: int = 400,
        missing_fraction: float = 0.0,
        data_seed: int = 0,
        test_split: TestSplit = "test",
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_points = check_int("n_points", n_points, at_least=4)
        seed = check_seed("data_seed", data_seed)
        check_test_split(test_split)
        if not 0 <= missing_fraction < 1:
            raise InputValueError(f"missing_fraction must be at least 0 and less than 1, got {missing_fraction!r}.")
        splits: dict[str, tuple[Tensor, Tensor]] = {}
        probs: dict[str, Tensor] = {}
        for name in SPLITS:
            random = random_state(seed, name, "points")
            count = n_points if name == "train" else n_points // 2
            points = torch.from_numpy(random.uniform(-2.0, 2.0, (count, 2)))
            if name == "ood":
                radius = torch.from_numpy(random.uniform(4.0, 5.0, (count, 1)))
                points = radius * points / points.norm(dim=1, keepdim=True)
            distance = torch.cdist(points, torch.tensor(CENTERS, dtype=points.dtype))
            probs[name] = torch.sigmoid(STEEPNESS * (RADIUS - distance)).float()
            labels = (torch.from_numpy(random.random((count, len(CENTERS)))) < probs[name]).long()
            if name == "train":
                labels[torch.from_numpy(random.random(labels.shape) < missing_fraction)] = UNKNOWN
            splits[name] = (points.float(), labels)
        super().__init__(
            **cast(Splits, splits), num_classes=2, ignore_index=UNKNOWN, batch_size=batch_size, **loader_options
        )
        for name in SPLITS:
            setattr(self, f"probs_{name}", probs[name])
        self.test_split = test_split


class ToyOrdinalDataModule(ArrayDataModule):
    r"""Five ordered classes, such as grades: a curve with logistic noise between four thresholds.

    .. math:: P(y \le k \mid x) = \sigma\big(\theta_k - f(x)\big), \qquad f(x) = 2 x_1 + 2 \sin(2 x_2), \qquad
        \theta = (-2, 0, 1, 3)

    with x uniform in the square from -2 to 2, and from 3 to 5 out of distribution.

    Args:
        batch_size: Number of rows per batch.
        n_points: Number of training rows, at least 4. The validation, test, calibration and out-of-distribution sets
            have half as many each, rounded down.
        data_seed: Seed of the points and classes.
        test_split: The rows of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those out of
            distribution.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Points, [n, 2] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Classes 0 to 4, [n] int64.
        probs_train, probs_val, probs_test, probs_calib, probs_ood: Probabilities of the classes, [n, 5] float32.
        num_classes: 5.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = ToyOrdinalDataModule()
        >>> dm.X_train.shape, dm.Y_train.shape, dm.probs_test.shape
        (torch.Size([400, 2]), torch.Size([400]), torch.Size([200, 5]))
    """

    def __init__(
        self,
        batch_size: int = 32,
        *,
        n_points: int = 400,
        data_seed: int = 0,
        test_split: TestSplit = "test",
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_points = check_int("n_points", n_points, at_least=4)
        seed = check_seed("data_seed", data_seed)
        check_test_split(test_split)
        splits: dict[str, tuple[Tensor, Tensor]] = {}
        probs: dict[str, Tensor] = {}
        for name in SPLITS:
            random = random_state(seed, name, "points")
            count = n_points if name == "train" else n_points // 2
            low, high = (3.0, 5.0) if name == "ood" else (-2.0, 2.0)
            points = torch.from_numpy(random.uniform(low, high, (count, 2)))
            curve = 2 * points[:, :1] + 2 * torch.sin(2 * points[:, 1:])
            at_most = torch.sigmoid(torch.tensor(THRESHOLDS, dtype=points.dtype) - curve)
            probs[name] = torch.nn.functional.pad(torch.nn.functional.pad(at_most, (0, 1), value=1.0), (1, 0)).diff()
            uniform = torch.from_numpy(random.random((count, 1)))
            splits[name] = (points.float(), (uniform > at_most).sum(1))
        super().__init__(
            **cast(Splits, splits), num_classes=len(THRESHOLDS) + 1, batch_size=batch_size, **loader_options
        )
        for name in SPLITS:
            setattr(self, f"probs_{name}", probs[name].float())
        self.test_split = test_split
