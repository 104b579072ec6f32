"""Segmentation of shapes whose labeled borders are uncertain."""

from typing import Unpack, cast

import numpy as np
import numpy.typing as npt
import torch
from scipy.special import ndtr
from torch import Tensor

from lightning_vi.datamodules._checks import check_int, check_not_negative, check_seed
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, Splits, TestSplit
from lightning_vi.datamodules.functions import SPLITS, check_test_split, random_state
from lightning_vi.datamodules.heat import diffuse

BRIGHTNESS = {1: (0.8, 1.4), 2: (1.4, 2.4)}

Floats = npt.NDArray[np.float64]

NUM_CLASSES, IGNORED = 3, 255
EDGE_WIDTH, PIXEL_NOISE, TEXTURE = 0.7, 0.1, 0.2


class ShapesDataModule(ArrayDataModule):
    r"""Segmentation of disks and squares in gray images, with labels of annotators who do not agree on the borders.

    Each image has one to three shapes of random position, size and brightness, 0.8 to 1.4 for disks and 1.4 to 2.4 for
    squares, on a noisy background with a smooth texture. Their labels are those of shapes whose border is off by a
    random distance, the same all around a shape:

    .. math:: P(y_j = c) = \Phi(-d_j / s)

    for a pixel at the distance :math:`d_j` outside of the border of a shape of class c, with s = `border_std`. This
    part of the uncertainty is aleatoric, and `probs_test` are the probabilities given the true shapes. The labels of a
    frame of `n_ignored` pixels around each image are 255, which the likelihood must ignore. Out of distribution the
    shapes are darker than the background.

    Args:
        batch_size: Number of images per batch.
        n_images: Number of training images, at least 4. The validation, test, calibration and out-of-distribution sets
            have a quarter as many each, rounded down.
        size: Height and width H of the images in pixels, at least 16.
        border_std: Standard deviation s of the distance between labeled and true borders, in pixels; 0 for exact
            labels.
        n_ignored: Width of the frame without labels, in pixels.
        data_seed: Seed of the images and labels.
        test_split: The images of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those out of
            distribution.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Images, [n, 1, H, H] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Labels, 0 for the background, 1 for disks, 2 for squares and 255 for the
            frame, [n, H, H] int64.
        probs_train, probs_val, probs_test, probs_calib, probs_ood: Probabilities of the labels given the shapes,
            [n, 3, H, H] float32.
        num_classes: 3.
        class_names: Names of the classes.
        ignore_index: 255.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = ShapesDataModule(n_images=40)
        >>> dm.X_train.shape, dm.Y_test.shape, dm.Y_test.unique()
        (torch.Size([40, 1, 24, 24]), torch.Size([10, 24, 24]), tensor([  0,   1,   2, 255]))
    """

    class_names = ("background", "disk", "square")

    def __init__(
        self,
        batch_size: int = 8,
        *,
        n_images: int = 160,
        size: int = 24,
        border_std: float = 1.0,
        n_ignored: int = 2,
        data_seed: int = 0,
        test_split: TestSplit = "test",
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_images = check_int("n_images", n_images, at_least=4)
        size = check_int("size", size, at_least=16)
        check_int("n_ignored", n_ignored, at_least=0, at_most=size // 4)
        check_not_negative("border_std", border_std)
        seed = check_seed("data_seed", data_seed)
        check_test_split(test_split)
        splits: dict[str, tuple[Tensor, Tensor]] = {}
        probs: dict[str, Tensor] = {}
        for name in SPLITS:
            count = n_images if name == "train" else n_images // 4
            drawn = [
                _draw(random_state(seed, f"{name} {index}", "shapes"), size, border_std, is_dark=name == "ood")
                for index in range(count)
            ]
            images, labels, probabilities = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
            is_frame = torch.ones(size, size, dtype=torch.bool)
            is_frame[n_ignored : size - n_ignored, n_ignored : size - n_ignored] = False
            splits[name] = (images.unsqueeze(1).float(), labels.masked_fill(is_frame, IGNORED))
            probs[name] = probabilities.float()
        super().__init__(
            **cast(Splits, splits),
            num_classes=NUM_CLASSES,
            ignore_index=IGNORED,
            batch_size=batch_size,
            **loader_options,
        )
        for name in SPLITS:
            setattr(self, f"probs_{name}", probs[name])
        self.test_split = test_split


def _draw(
    random: np.random.Generator, size: int, border_std: float, *, is_dark: bool
) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
    """Draws an image [H, H], its labels [H, H] and their probabilities [3, H, H]."""
    rows, columns = np.mgrid[:size, :size].astype(np.float64)
    texture = diffuse(torch.from_numpy(random.standard_normal((1, 1, size, size))), 4)[0, 0].numpy()
    image = TEXTURE * texture / texture.std()
    labels = np.zeros((size, size), dtype=np.int64)
    probs = np.zeros((NUM_CLASSES, size, size))
    probs[0] = 1.0
    for _ in range(random.integers(1, 4)):
        label = int(random.integers(1, NUM_CLASSES))
        radius = random.uniform(0.12, 0.24) * size
        center = random.uniform(0.2 * size, 0.8 * size, 2)
        brightness = random.uniform(*BRIGHTNESS[label]) * (-1 if is_dark else 1)
        across, down = columns - center[0], rows - center[1]
        outside = (np.hypot(across, down) if label == 1 else np.maximum(np.abs(across), np.abs(down))) - radius
        inside = ndtr(-outside / EDGE_WIDTH)
        image = image * (1 - inside) + brightness * inside
        labels[outside <= border_std * random.standard_normal()] = label
        chance = ndtr(-outside / border_std) if border_std else (outside <= 0).astype(np.float64)
        probs *= 1 - chance
        probs[label] += chance
    return image + PIXEL_NOISE * random.standard_normal((size, size)), labels, probs
