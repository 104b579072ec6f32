"""Shapes, blurred images and toy labels against the laws that they are drawn from."""

from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch.nn import functional as F

from lightning_vi.datamodules import (
    ArrayDataModule,
    DeblurringDataModule,
    ShapesDataModule,
    ToyMultiLabelDataModule,
    ToyOrdinalDataModule,
)


def test_labels_of_shapes_follow_their_probabilities() -> None:
    dm: Any = ShapesDataModule(n_images=400, size=16)
    known = dm.Y_train != 255
    assert (~known).float().mean().item() == pytest.approx(1 - 12**2 / 16**2)
    torch.testing.assert_close(dm.probs_train.sum(1), torch.ones(400, 16, 16))
    # Borders move as a whole, so that images are independent but pixels are not.
    labels = F.one_hot(dm.Y_train.clamp_max(2), 3).movedim(-1, 1)
    excess = ((labels - dm.probs_train) * known.unsqueeze(1)).sum((2, 3))
    for of_class in excess.T:
        assert scipy.stats.ttest_1samp(of_class, 0).pvalue > 0.01
    entropy = torch.special.entr(dm.probs_train).sum(1)
    assert entropy.max() > 0.65


def test_labels_without_noise_are_the_shapes() -> None:
    dm: Any = ShapesDataModule(n_images=20, border_std=0.0, n_ignored=0)
    assert torch.equal(dm.probs_train.argmax(1), dm.Y_train)


def test_blurred_images_have_the_noise_that_is_named() -> None:
    dm: Any = DeblurringDataModule(n_images=200)
    residual = dm.Y_train - dm.truth_train
    for std in (0.2, 0.6):
        found = residual[dm.noise_std_train == torch.tensor(std)]
        assert found.std().item() == pytest.approx(std, rel=0.03)
    noisy = dm.X_train[:, 1:] == 1
    assert torch.equal(noisy, dm.noise_std_train == torch.tensor(0.6))
    assert noisy.float().mean((1, 2, 3)).unique().tolist() == [0.5]
    kernel = torch.full((1, 1, 3, 3), 1 / 9)
    torch.testing.assert_close(dm.X_train[:, :1], F.conv2d(dm.truth_train, kernel, padding=1), rtol=1e-4, atol=1e-5)
    assert dm.n_targets == 1


@pytest.mark.parametrize("make", [ToyMultiLabelDataModule, ToyOrdinalDataModule])
def test_toy_labels_follow_their_probabilities(make: type) -> None:
    dm: Any = make(n_points=8000)
    is_ordinal = make is ToyOrdinalDataModule
    labels = F.one_hot(dm.Y_train, 5) if is_ordinal else dm.Y_train
    count, probs = labels.sum(0), dm.probs_train
    std = (probs * (1 - probs)).sum(0).sqrt()
    assert ((count - probs.sum(0)).abs() < 4 * std).all()
    assert labels.shape == probs.shape


def test_missing_labels_are_in_the_training_data_alone() -> None:
    dm = ToyMultiLabelDataModule(n_points=2000, missing_fraction=0.3)
    assert (dm.Y_train == -1).float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert dm.Y_test.min() == 0


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (ShapesDataModule, {"size": 8}, "size must be an integer >= 16, got 8"),
        (ShapesDataModule, {"border_std": -1.0}, "border_std must be finite and at least 0"),
        (ShapesDataModule, {"test_split": "train"}, "test_split must be 'test' or 'ood'"),
        (DeblurringDataModule, {"noise_std": (0.1, -1.0)}, "noise_std must be two finite numbers"),
        (ToyMultiLabelDataModule, {"missing_fraction": 1.0}, "missing_fraction must be at least 0 and less than 1"),
        (ToyOrdinalDataModule, {"n_points": 3}, "n_points must be an integer >= 4, got 3"),
    ],
)
def test_arguments_are_checked(make: type, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_labels_out_of_range_name_the_ignored_one() -> None:
    x, y = torch.zeros(4, 1, 4, 4), torch.from_numpy(np.full((4, 4, 4), 255))
    with pytest.raises(
        ValueError, match="between 0 and num_classes - 1 = 2, or ignore_index = 254, got labels from 255"
    ):
        ArrayDataModule((x, y), (x, y), num_classes=3, ignore_index=254)
    assert ArrayDataModule((x, y), (x, y), num_classes=3, ignore_index=255).ignore_index == 255
