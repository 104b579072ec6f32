"""Shifts of images in named kinds and five severities."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_vi.arguments import suggestion
from lightning_vi.errors import InputValueError
from lightning_vi.functional.images import (
    blur_images,
    check_images,
    pixelate_images,
    rotate_images,
    scale_contrast,
    translate_images,
)
from lightning_vi.noise import mix_seed

SEVERITIES = (1, 2, 3, 4, 5)
PixelRange = tuple[Tensor | float, Tensor | float]
"""Pixel values of black and white, each one number or one for each channel, [C]."""


@dataclass(frozen=True)
class _Draws:
    """Random numbers of some images: each depends on the seed and the number of its image alone."""

    seed: int
    indices: Sequence[int]

    def signs(self) -> Tensor:
        """Two signs for each image, [B, 2]."""
        bits = torch.tensor([mix_seed(self.seed, index, 0) for index in self.indices]).reshape(-1, 1)
        return 1.0 - 2.0 * ((bits >> torch.tensor([0, 1])) & 1)

    def normal(self, images: Tensor) -> Tensor:
        """Standard normal numbers in the shape of the images."""
        noise, generator = torch.empty(images.shape), torch.Generator()
        for row, index in zip(noise, self.indices, strict=True):
            row.normal_(generator=generator.manual_seed(mix_seed(self.seed, index, 1)))
        return noise.to(images)


def _rotation(images: Tensor, level: float, draws: _Draws) -> Tensor:
    return rotate_images(images, level * draws.signs()[:, 0])


def _translation(images: Tensor, level: float, draws: _Draws) -> Tensor:
    height, width = images.shape[-2:]
    right, down = (level * draws.signs()).unbind(1)
    return translate_images(images, width * right, height * down)


def _gaussian_noise(images: Tensor, level: float, draws: _Draws) -> Tensor:
    return images + level * draws.normal(images)


def _gaussian_blur(images: Tensor, level: float, _: _Draws) -> Tensor:
    return blur_images(images, level * min(images.shape[-2:]))


def _contrast(images: Tensor, level: float, _: _Draws) -> Tensor:
    return scale_contrast(images, level)


def _brightness(images: Tensor, level: float, _: _Draws) -> Tensor:
    return images + level


def _pixelate(images: Tensor, level: float, _: _Draws) -> Tensor:
    return pixelate_images(images, level)


@dataclass(frozen=True)
class Shift:
    """A kind of shift.

    Attributes:
        apply: Function of images in [0, 1], the level and random numbers.
        levels: Level of each severity.
        unit: What a level is.
    """

    apply: Callable[[Tensor, float, _Draws], Tensor]
    levels: tuple[float, float, float, float, float]
    unit: str


SHIFTS: Mapping[str, Shift] = {
    "brightness": Shift(_brightness, (0.1, 0.2, 0.3, 0.4, 0.5), "added to each pixel"),
    "contrast": Shift(_contrast, (0.4, 0.3, 0.2, 0.1, 0.05), "factor of the differences to the mean"),
    "gaussian_blur": Shift(_gaussian_blur, (0.03, 0.05, 0.07, 0.09, 0.12), "std over the shorter side"),
    "gaussian_noise": Shift(_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), "std"),
    "pixelate": Shift(_pixelate, (0.5, 0.4, 0.3, 0.2, 0.15), "blocks over pixels in a direction"),
    "rotation": Shift(_rotation, (15.0, 30.0, 45.0, 60.0, 75.0), "degrees"),
    "translation": Shift(_translation, (0.05, 0.1, 0.15, 0.2, 0.25), "share of width and height"),
}
"""All kinds by name. Levels of noise, contrast and brightness are those of Hendrycks and Dietterich (2019)."""


def shift_images(
    images: Tensor,
    shift: str,
    severity: int,
    *,
    seed: int = 0,
    indices: Sequence[int] | None = None,
    pixel_range: PixelRange = (0.0, 1.0),
) -> Tensor:
    """Shifts images: a transform of a named kind and a severity from 1 to 5.

    The direction of a rotation, the diagonal of a translation and the noise are random for each image. They depend on
    `seed` and the number of the image alone: not on the batch, and not on the severity. The global random state does
    not change. Pixels are clipped to the range from black to white, and pixels from outside of an image are black.

    Args:
        images: Shape [B, C, H, W].
        shift: `brightness`, `contrast`, `gaussian_blur`, `gaussian_noise`, `pixelate`, `rotation` or `translation`.
        severity: 1 to 5.
        seed: Seed of directions and noise.
        indices: Number of each image in its data set; 0 to B - 1 by default.
        pixel_range: Pixel values of black and white, one number or one for each channel, [C].

    Returns:
        Shape [B, C, H, W].

    Raises:
        TypeError: If the images are no floating-point tensor.
        ValueError: If a shape is wrong, the kind is unknown, or the severity is out of range.

    Example:
        >>> images = torch.full((2, 1, 8, 8), 0.5)
        >>> shift_images(images, "brightness", 3).unique()
        tensor([0.8000])
    """
    check_shift(shift)
    check_severity(severity)
    check_images(images)
    numbers = range(len(images)) if indices is None else indices
    if len(numbers) != len(images):
        raise InputValueError(f"indices must have one number for each of the {len(images)} images, got {len(numbers)}")
    black, white = (_channels(value, images) for value in pixel_range)
    scale = white - black
    if not (scale > 0).all():
        raise InputValueError(f"pixel_range must have black below white, got {pixel_range}")
    kind = SHIFTS[shift]
    shifted = kind.apply((images - black) / scale, kind.levels[severity - 1], _Draws(seed, numbers))
    return shifted.clamp(0.0, 1.0) * scale + black


def check_shift(shift: Any) -> None:
    """Raises a `ValueError` unless it is the name of a kind of shift."""
    if shift not in SHIFTS:
        raise InputValueError(f"there is no shift {shift!r}{suggestion(str(shift), SHIFTS)}")


def check_severity(severity: Any) -> None:
    """Raises a `ValueError` unless it is an integer from 1 to 5."""
    if isinstance(severity, bool) or severity not in SEVERITIES:
        raise InputValueError(f"severity must be an integer from 1 to 5, got {severity!r}; the clean images are 0")


def _channels(value: Tensor | float, images: Tensor) -> Tensor:
    """A pixel value, in the shape [C or 1, 1, 1]."""
    values = torch.as_tensor(value, dtype=images.dtype, device=images.device)
    if values.dim() > 1 or values.numel() not in (1, images.shape[1]):
        raise InputValueError(
            f"pixel_range must have one number or one for each of the {images.shape[1]} channels, "
            f"got {list(values.shape)}"
        )
    return values.reshape(-1, 1, 1)
