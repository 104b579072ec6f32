"""Image-to-image regression: sharp images from blurred ones, with noise in one half of each."""

from typing import Unpack, cast

import numpy as np
import torch
from torch import Tensor

from lightning_vi.datamodules._checks import check_int, check_seed
from lightning_vi.datamodules.base import ArrayDataModule, LoaderOptions, Splits, TestSplit
from lightning_vi.datamodules.functions import SPLITS, check_test_split, random_state
from lightning_vi.datamodules.heat import diffuse
from lightning_vi.errors import InputValueError

SMOOTHING, OOD_SMOOTHING = 3, 1


class DeblurringDataModule(ArrayDataModule):
    r"""Regression from blurred images to sharp ones, whose pixels have more noise in one half of an image.

    With a step M that replaces each value by the mean of its 3 x 3 neighborhood, white noise :math:`\varepsilon` and a
    factor a that gives the images a standard deviation of 1,

    .. math::
        z = a\, M^3 \varepsilon, \qquad x = (M z, h), \qquad y = z + \sigma(h)\, \varepsilon', \qquad
        \sigma(h) = \begin{cases} 0.6 & h = 1 \\ 0.2 & h = 0 \end{cases}

    The second input channel h is 1 in the noisy half, which is the left, right, upper or lower one. Out of distribution
    the images are rough, with M instead of :math:`M^3`. Targets are images with the channels first, [n, 1, H, H], for
    ``ChannelsFirst(HeteroscedasticGaussian())`` and a network with two output channels.

    Args:
        batch_size: Number of images per batch.
        n_images: Number of training images, at least 4. The validation, test, calibration and out-of-distribution sets
            have a quarter as many each, rounded down.
        size: Height and width H of the images in pixels, at least 4.
        noise_std: Standard deviations of the noise in the quiet and in the noisy half.
        data_seed: Seed of the images and the noise.
        test_split: The images of `test_dataloader` and `predict_dataloader`: `"test"`, or `"ood"` for those out of
            distribution.
        **loader_options: `num_workers`, `pin_memory`, `shuffle_seed`, see `LoaderOptions`.

    Attributes:
        X_train, X_val, X_test, X_calib, X_ood: Blurred images and the noisy half, [n, 2, H, H] float32.
        Y_train, Y_val, Y_test, Y_calib, Y_ood: Sharp images with noise, [n, 1, H, H] float32.
        truth_train, truth_val, truth_test, truth_calib, truth_ood: The images without noise, [n, 1, H, H] float32.
        noise_std_train, noise_std_val, noise_std_test, noise_std_calib, noise_std_ood: Standard deviation of the noise,
            [n, 1, H, H] float32.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> dm = DeblurringDataModule(n_images=40)
        >>> dm.X_train.shape, dm.Y_test.shape, dm.noise_std_test.unique()
        (torch.Size([40, 2, 16, 16]), torch.Size([10, 1, 16, 16]), tensor([0.2000, 0.6000]))
    """

    target_names = ("brightness",)

    def __init__(
        self,
        batch_size: int = 8,
        *,
        n_images: int = 120,
        size: int = 16,
        noise_std: tuple[float, float] = (0.2, 0.6),
        data_seed: int = 0,
        test_split: TestSplit = "test",
        **loader_options: Unpack[LoaderOptions],
    ) -> None:
        n_images = check_int("n_images", n_images, at_least=4)
        size = check_int("size", size, at_least=4)
        seed = check_seed("data_seed", data_seed)
        check_test_split(test_split)
        if len(noise_std) != 2 or not all(0 <= std < float("inf") for std in noise_std):
            raise InputValueError(f"noise_std must be two finite numbers that are not negative, got {noise_std!r}.")
        splits: dict[str, tuple[Tensor, Tensor]] = {}
        facts: dict[str, tuple[Tensor, Tensor]] = {}
        for name in SPLITS:
            random = random_state(seed, name, "images")
            count = n_images if name == "train" else n_images // 4
            white, noise = (torch.from_numpy(random.standard_normal((count, 1, size, size))) for _ in range(2))
            sharp = diffuse(white, OOD_SMOOTHING if name == "ood" else SMOOTHING)
            sharp = sharp / sharp.std((1, 2, 3), keepdim=True)
            half = _halves(random.integers(0, 4, count), size)
            std = torch.where(half, noise_std[1], noise_std[0])
            inputs = torch.cat([diffuse(sharp, 1), half.double()], dim=1)
            splits[name] = (inputs.float(), (sharp + std * noise).float())
            facts[name] = sharp.float(), std.float()
        super().__init__(**cast(Splits, splits), target_dim=1, batch_size=batch_size, **loader_options)
        for name in SPLITS:
            truth, std = facts[name]
            setattr(self, f"truth_{name}", truth)
            setattr(self, f"noise_std_{name}", std)
        self.test_split = test_split


def _halves(sides: np.ndarray[tuple[int], np.dtype[np.int64]], size: int) -> Tensor:
    """True in the noisy half of each image [n, 1, H, H], for sides 0 to 3."""
    is_low = torch.arange(size) < size // 2
    left = is_low.expand(size, size)
    choices = torch.stack([left, ~left, left.T, ~left.T])
    return choices[torch.from_numpy(sides)].unsqueeze(1)
