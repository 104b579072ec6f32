"""Patches of the photographs that are part of scikit-learn."""

from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from lightning_vi.datamodules._checks import check_int, check_seed
from lightning_vi.datamodules._rows import Sample
from lightning_vi.datamodules._split import IntArray
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions

GRAY_WEIGHTS = (0.299, 0.587, 0.114)


class PhotoPatchesDataModule(ArrayDataModule):
    """Gray patches of two photographs: out-of-distribution data for classifiers of small gray images.

    Source: `sklearn.datasets.load_sample_images` (a temple in China and a flower). Patches lie at random places, those
    for training in the left half of a photograph and those for testing in the right half. As an out-of-distribution set
    their pixels are standardized as the training images of the method were, from black to white.

    Args:
        image_size: Height and width of a patch.
        num_train: Number of training patches, half of them of each photograph.
        num_test: Number of test patches, half of them of each photograph.
        as_images: If True, inputs are images, [N, 1, H, W]; otherwise flat rows of pixels, [N, H W].
        data_seed: Seed of the places.
        batch_size: Number of rows per batch.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_test: Gray values in [0, 1], float32.
        Y_train, Y_test: 0 for the temple and 1 for the flower, [N] int64.
        num_classes: 2.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = PhotoPatchesDataModule(image_size=8, num_test=100)
        >>> dm.X_test.shape, dm.Y_test.bincount()
        (torch.Size([100, 1, 8, 8]), tensor([50, 50]))
    """

    class_names = ("temple", "flower")

    def __init__(
        self,
        image_size: int = 28,
        *,
        num_train: int = 200,
        num_test: int = 2000,
        as_images: bool = True,
        data_seed: int = 0,
        batch_size: int = 128,
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        from sklearn.datasets import load_sample_images

        photos = [torch.tensor(photo @ np.array(GRAY_WEIGHTS) / 255) for photo in load_sample_images().images]
        middle = min(photo.shape[1] for photo in photos) // 2
        size = check_int("image_size", image_size, at_least=2, at_most=min(middle, *(len(photo) for photo in photos)))
        random = np.random.default_rng(check_seed("data_seed", data_seed))

        def patches(name: str, total: int, *, on_the_right: bool) -> Sample:
            check_int(name, total, at_least=2)
            counts = (total - total // 2, total // 2)
            found = []
            for photo, count in zip(photos, counts, strict=True):
                half = photo[:, middle:] if on_the_right else photo[:, :middle]
                tops = random.integers(0, half.shape[0] - size + 1, count)
                lefts = random.integers(0, half.shape[1] - size + 1, count)
                found.append(_cut(half, tops, lefts, size))
            images = torch.cat(found).float().unsqueeze(1)
            return images if as_images else images.flatten(1), torch.repeat_interleave(torch.tensor(counts))

        super().__init__(
            train=patches("num_train", num_train, on_the_right=False),
            test=patches("num_test", num_test, on_the_right=True),
            num_classes=2,
            batch_size=batch_size,
            **loader_options,
        )
        self.image_shape = (1, size, size)
        # In bytes a pixel is 255 x, so that data that were standardized from bytes have the same scale.
        self.input_mean, self.input_std = torch.tensor(0.0), torch.tensor(255.0)


def _cut(photo: Tensor, tops: IntArray, lefts: IntArray, size: int) -> Tensor:
    """Patches [N, size, size] of a photograph."""
    return torch.stack(
        [photo[top : top + size, left : left + size] for top, left in zip(tops.tolist(), lefts.tolist(), strict=True)]
    )
