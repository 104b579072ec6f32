"""Patches of photographs, as out-of-distribution data on the scale of the training images."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from lightning_vi.datamodules import ArrayDataModule, DigitsDataModule, PhotoPatchesDataModule
from lightning_vi.errors import InputValueError


def test_patches_are_parts_of_the_photographs() -> None:
    dm = PhotoPatchesDataModule(image_size=6, num_train=4, num_test=6)
    grays = [photo @ np.array([0.299, 0.587, 0.114]) / 255 for photo in load_sample_images().images]
    for rows, labels, start in ((dm.X_train, dm.Y_train, 0), (dm.X_test, dm.Y_test, 320)):
        for patch, label in zip(rows, labels, strict=True):
            half = grays[int(label)][:, start : start + 320]
            windows = np.lib.stride_tricks.sliding_window_view(half, (6, 6))
            assert np.abs(windows - patch[0].numpy()).max((2, 3)).min() < 1e-6
    again = PhotoPatchesDataModule(image_size=6, num_train=4, num_test=6, as_images=False)
    assert torch.equal(again.X_test, dm.X_test.flatten(1))
    assert dm.Y_test.bincount().tolist() == [3, 3]


def test_pixels_are_scaled_as_those_of_the_training_images() -> None:
    photos = PhotoPatchesDataModule(image_size=8, num_test=10)
    standardized = ArrayDataModule(
        train=(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])),
        test=(torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])),
        num_classes=2,
    )
    standardized.input_mean, standardized.input_std = torch.tensor(33.0), torch.tensor(78.0)
    for trained_on, expected in (
        (DigitsDataModule(as_images=True), photos.X_test),
        (standardized, (photos.X_test * 255 - 33) / 78),
    ):
        photos.load_state_dict(trained_on.data_state)
        (x, _) = next(iter(photos.test_dataloader()))
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("argument", ["image_size", "num_train", "num_test"])
def test_sizes_out_of_range_are_refused(argument: str) -> None:
    with pytest.raises(InputValueError, match=f"{argument} must be an integer"):
        PhotoPatchesDataModule(**{argument: 1})
