"""Images as arrays that matplotlib draws."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Array, Floats, as_floats
from lightning_vi.plots._style import IDEAL, INK, TICK_SIZE


def as_images(value: Array, name: str) -> Floats:
    """Returns images [N, H, W] or [N, 1, H, W] as [N, H, W], and [N, 3, H, W] or [N, H, W, 3] as [N, H, W, 3].

    Values of all images are scaled to [0, 1] together, unless they lie there already.
    """
    images = as_floats(value, name)
    if images.ndim == 4 and images.shape[1] in (1, 3):
        images = np.moveaxis(images, 1, -1)
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[-1] != 3):
        raise InputValueError(
            f"{name} must have shape [N, H, W], [N, 1, H, W] or [N, 3, H, W], got {np.shape(value)}; "
            "choose one or three channels of others"
        )
    low, high = images.min(), images.max()
    if low < 0 or high > 1:
        images = (images - low) / (high - low)
    return images


def show_image(ax: Axes, image: Floats, **options: object) -> AxesImage:
    """Draws an image without ticks, in a thin frame; gray from 0 to 1 if it has no colors."""
    if image.ndim == 2 and "cmap" not in options:
        options = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
    drawn = ax.imshow(image, interpolation="nearest", **options)  # type: ignore[arg-type]
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_color(IDEAL)
        spine.set_linewidth(0.6)
    return drawn


def caption(ax: Axes, text: str, color: str = INK) -> None:
    """Writes a small title above an image."""
    ax.set_title(text, fontsize=TICK_SIZE - 1, color=color, pad=3)


def color_bar(ax: Axes, drawn: AxesImage, label: str) -> None:
    """Draws a labeled color bar below an image, which keeps its size."""
    place = ax.inset_axes((0.0, -0.09, 1.0, 0.05))
    bar = ax.figure.colorbar(drawn, cax=place, orientation="horizontal", ticks=MaxNLocator(4))
    bar.set_label(label, fontsize=TICK_SIZE, color=INK)
    bar.ax.tick_params(labelsize=TICK_SIZE - 1, labelcolor=INK)
    bar.outline.set_visible(False)
