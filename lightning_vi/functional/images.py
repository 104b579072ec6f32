"""Transforms of batches of images: rotation, translation, blur, contrast and pixelation."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lightning_vi.errors import InputTypeError, InputValueError

TRUNCATE = 4.0
"""Radius of the kernel of a blur, in standard deviations."""


def rotate_images(images: Tensor, degrees: Tensor | float) -> Tensor:
    """Rotates images counterclockwise around their centers, with bilinear interpolation.

    Args:
        images: Shape [B, C, H, W].
        degrees: Angles, one for all or shape [B].

    Returns:
        Shape [B, C, H, W]; pixels from outside of an image are 0.

    Raises:
        TypeError: If the images are no floating-point tensor.
        ValueError: If a shape is wrong.

    Example:
        >>> image = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
        >>> rotate_images(image, 90.0).round(decimals=4)[0, 0]
        tensor([[2., 4.],
                [1., 3.]])
    """
    check_images(images)
    height, width = images.shape[-2:]
    angles = torch.deg2rad(_per_image("degrees", degrees, images))
    cosines, sines, zeros = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # In pixels the matrix is a rotation; the coordinates of a grid run from -1 to 1 in both directions.
    rows = (cosines, -sines * height / width, zeros, sines * width / height, cosines, zeros)
    return _resample(images, torch.stack(rows, 1).reshape(-1, 2, 3))


def translate_images(images: Tensor, right: Tensor | float, down: Tensor | float) -> Tensor:
    """Moves images by a number of pixels, with bilinear interpolation.

    Args:
        images: Shape [B, C, H, W].
        right: Pixels to the right, one number for all or shape [B].
        down: Pixels downwards, as `right`.

    Returns:
        Shape [B, C, H, W]; pixels from outside of an image are 0.

    Raises:
        TypeError: If the images are no floating-point tensor.
        ValueError: If a shape is wrong.

    Example:
        >>> translate_images(torch.tensor([[[[1.0, 2.0, 3.0]]]]), right=1.0, down=0.0)
        tensor([[[[0., 1., 2.]]]])
    """
    check_images(images)
    height, width = images.shape[-2:]
    x, y = _per_image("right", right, images), _per_image("down", down, images)
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    rows = (ones, zeros, -2 * x / width, zeros, ones, -2 * y / height)
    return _resample(images, torch.stack(rows, 1).reshape(-1, 2, 3))


def blur_images(images: Tensor, std: float) -> Tensor:
    """Convolves images with a Gaussian kernel, which ends at four standard deviations.

    Args:
        images: Shape [B, C, H, W].
        std: Standard deviation of the kernel in pixels, not negative.

    Returns:
        Shape [B, C, H, W]; pixels outside of an image count as their nearest ones inside.

    Raises:
        TypeError: If the images are no floating-point tensor.
        ValueError: If a shape is wrong, or `std` is negative or not finite.

    Example:
        >>> blur_images(torch.tensor([[[[0.0, 1.0, 0.0]]]]), std=0.5).round(decimals=3)
        tensor([[[[0.1060, 0.7870, 0.1060]]]])
    """
    check_images(images)
    if not (std >= 0 and math.isfinite(std)):
        raise InputValueError(f"std must be a number of pixels of at least 0, got {std!r}")
    radius = int(TRUNCATE * std + 0.5)
    if radius == 0:
        return images.clone()
    distances = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-0.5 * (distances / std).square(), 0)
    channels = F.pad(images.flatten(0, 1).unsqueeze(1), (radius,) * 4, mode="replicate")
    channels = F.conv2d(F.conv2d(channels, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))
    return channels.reshape(images.shape)


def scale_contrast(images: Tensor, factor: float) -> Tensor:
    """Scales the differences of pixels to the mean of their image and channel.

    Args:
        images: Shape [B, C, H, W].
        factor: 1 leaves the images as they are; 0 makes them uniform.

    Returns:
        Shape [B, C, H, W].

    Raises:
        TypeError: If the images are no floating-point tensor.
        ValueError: If a shape is wrong.

    Example:
        >>> scale_contrast(torch.tensor([[[[0.0, 1.0]]]]), 0.5)
        tensor([[[[0.2500, 0.7500]]]])
    """
    check_images(images)
    means = images.mean((-2, -1), keepdim=True)
    return means + factor * (images - means)


def pixelate_images(images: Tensor, share: float) -> Tensor:
    """Averages images over blocks and fills each block with its mean.

    Args:
        images: Shape [B, C, H, W].
        share: Number of blocks in a direction over the number of pixels, above 0 and at most 1.

    Returns:
        Shape [B, C, H, W].

    Raises:
        TypeError: If the images are no floating-point tensor.
        ValueError: If a shape is wrong, or `share` is out of range.

    Example:
        >>> pixelate_images(torch.tensor([[[[0.0, 1.0, 2.0, 3.0]]]]), 0.5)
        tensor([[[[0.5000, 0.5000, 2.5000, 2.5000]]]])
    """
    check_images(images)
    if not 0 < share <= 1:
        raise InputValueError(f"share must be above 0 and at most 1, got {share!r}")
    height, width = images.shape[-2:]
    blocks = F.adaptive_avg_pool2d(images, (max(1, round(share * height)), max(1, round(share * width))))
    return F.interpolate(blocks, size=(height, width), mode="nearest-exact")


def check_images(images: Tensor) -> None:
    """Raises an error unless a tensor holds images.

    Args:
        images: Any tensor.

    Raises:
        TypeError: If it is no floating-point tensor.
        ValueError: If its shape is not [B, C, H, W].
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        found = f"a tensor of {images.dtype}" if isinstance(images, Tensor) else f"a {type(images).__name__}"
        raise InputTypeError(f"images must be a floating-point tensor, got {found}")
    if images.dim() != 4:
        raise InputValueError(f"images must have the shape [B, C, H, W], got {list(images.shape)}")


def _per_image(name: str, value: Tensor | float, images: Tensor) -> Tensor:
    values = torch.as_tensor(value, dtype=images.dtype, device=images.device)
    if values.dim() > 1 or (values.dim() == 1 and len(values) != len(images)):
        raise InputValueError(
            f"{name} must be a number or have the shape [{len(images)}] of the images, got {list(values.shape)}"
        )
    return values.expand(len(images))


def _resample(images: Tensor, matrices: Tensor) -> Tensor:
    """Takes each pixel from the place where an affine map, [B, 2, 3], of its coordinates (x, y) is."""
    grid = F.affine_grid(matrices, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
