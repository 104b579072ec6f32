"""Transforms of images against torch.rot90, torch.roll, scipy and closed forms."""

from typing import Any

import numpy as np
import pytest
import torch
from helpers import normal
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.functional import (
    blur_images,
    pixelate_images,
    rotate_images,
    scale_contrast,
    translate_images,
)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_quarter_turns_are_those_of_rot90(size: int, quarters: int) -> None:
    images = normal(3, 2, size, size).double()
    expected = torch.rot90(images, quarters, (-2, -1))
    torch.testing.assert_close(rotate_images(images, 90.0 * quarters), expected, rtol=0, atol=1e-9)


def test_each_image_has_an_angle_of_its_own() -> None:
    images = normal(2, 1, 9, 9)
    turned = rotate_images(images, torch.tensor([0.0, 180.0]))
    torch.testing.assert_close(turned[0], images[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(turned[1], torch.rot90(images[1], 2, (-2, -1)), rtol=0, atol=1e-5)


def test_a_turn_of_a_wide_image_keeps_distances() -> None:
    image = torch.zeros(1, 1, 9, 21, dtype=torch.float64)
    image[0, 0, 4, 13] = 1.0  # three pixels to the right of the center
    turned = rotate_images(image, 90.0)[0, 0]
    assert turned[1, 10] == pytest.approx(1.0)  # three pixels above it


def test_translations_of_whole_pixels_are_those_of_roll() -> None:
    inner = normal(2, 3, 6, 10).double()
    images = F.pad(inner, (4, 4, 4, 4))
    for right, down in ((3, 1), (-2, 4), (0, -4)):
        expected = torch.roll(images, (down, right), (-2, -1))
        torch.testing.assert_close(translate_images(images, right, down), expected, rtol=0, atol=1e-9)


def test_what_moves_in_from_outside_is_zero() -> None:
    moved = translate_images(torch.ones(1, 1, 4, 4), right=2.0, down=0.0)[0, 0]
    assert torch.equal(moved, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(4, 4))


@pytest.mark.parametrize("std", [0.3, 1.0, 2.6])
def test_a_blur_is_that_of_scipy(std: float) -> None:
    images = normal(2, 3, 12, 15).double()
    expected = gaussian_filter(images.numpy(), (0, 0, std, std), mode="nearest", truncate=4.0)
    torch.testing.assert_close(blur_images(images, std), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_a_blur_of_zero_changes_nothing() -> None:
    images = normal(2, 1, 4, 4)
    assert torch.equal(blur_images(images, 0.0), images)


def test_contrast_scales_the_deviations_of_each_channel() -> None:
    images = normal(4, 3, 5, 6).double()
    scaled = scale_contrast(images, 0.3)
    torch.testing.assert_close(scaled.mean((-2, -1)), images.mean((-2, -1)))
    torch.testing.assert_close(scaled.std((-2, -1)), 0.3 * images.std((-2, -1)))


def test_pixels_become_means_of_blocks() -> None:
    images = normal(2, 1, 8, 8).double().numpy()
    blocks = images.reshape(2, 1, 4, 2, 4, 2).mean((3, 5))
    expected = np.repeat(np.repeat(blocks, 2, 2), 2, 3)
    np.testing.assert_allclose(pixelate_images(torch.from_numpy(images), 0.5).numpy(), expected)


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda x: rotate_images(x[0], 5.0), InputValueError, r"shape \[B, C, H, W\], got \[1, 4, 4\]"),
        (lambda x: rotate_images(x.long(), 5.0), InputTypeError, "tensor, got a tensor of torch.int64"),
        (
            lambda x: rotate_images(x, torch.ones(3)),
            InputValueError,
            r"degrees must be a number or .* \[2\]",
        ),
        (lambda x: blur_images(x, -1.0), InputValueError, "std must be a number of pixels of at least 0, got -1.0"),
        (lambda x: pixelate_images(x, 0.0), InputValueError, "share must be above 0 and at most 1, got 0.0"),
    ],
)
def test_wrong_arguments_are_refused(call: Any, error: type[Exception], said: str) -> None:
    images: Tensor = torch.zeros(2, 1, 4, 4)
    with pytest.raises(error, match=said):
        call(images)
