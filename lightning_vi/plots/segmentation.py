"""Maps of a segmentation and its uncertainty."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Array, Floats, as_floats, as_probs
from lightning_vi.plots._images import as_images, color_bar, show_image
from lightning_vi.plots._predictions import PredictionLike, as_dict, class_names_of
from lightning_vi.plots._style import GRID, INK, TICK_SIZE, TITLE_SIZE, class_colors, new_figure

IGNORED = "#FFFFFF"
MAX_IN_LEGEND = 21


def plot_segmentation(
    image: Array,
    prediction: PredictionLike,
    label: Array | None = None,
    *,
    class_names: Sequence[str] | None = None,
    ignore_index: int | None = None,
    title: str | None = None,
    max_images: int = 6,
) -> Figure:
    """Plots images, labels, predicted classes, the predictive entropy and the mutual information of each pixel.

    The color scales of entropy and mutual information start at zero and are shared by all images.

    Args:
        image: images, [N, H, W], [N, 1, H, W] or [N, 3, H, W]; scaled to [0, 1] together unless they lie there.
        prediction: a `Prediction`, a dictionary of `predict_step`, or a dictionary of arrays: probabilities `pred`,
            [N, C, H, W], and, if there are, predictive entropies `pred_uct` and mutual information `epistemic_uct` in
            nats, [N, H, W].
        label: class labels 0 to C - 1, [N, H, W]; None: no panel of labels.
        class_names: names of the C classes; None: their numbers.
        ignore_index: label of pixels without a class, which stay white.
        title: title of the figure.
        max_images: maximal number of images to draw, the first ones.

    Returns:
        A figure with one row of panels for each image.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, `pred` are not probabilities, labels are
            not class labels, or `max_images` is less than 1.
        TypeError: if `prediction` is none.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_segmentation
        >>> probs = torch.rand(2, 3, 8, 8).softmax(1)
        >>> entropy = -(probs * probs.log()).sum(1)
        >>> figure = plot_segmentation(torch.rand(2, 8, 8), {"pred": probs, "pred_uct": entropy}, probs.argmax(1))
        >>> [ax.get_title() for ax in figure.axes[:4]]
        ['Image', 'Label', 'Prediction', 'Predictive entropy']
    """
    if max_images < 1:
        raise InputValueError(f"max_images must be at least 1, got {max_images}")
    images, values = as_images(image, "image"), as_dict(prediction)
    probs = as_floats(values["pred"], "pred")
    if probs.ndim != 4 or probs.shape[0] != len(images) or probs.shape[2:] != images.shape[1:3]:
        raise InputValueError(
            f"pred must have shape [{len(images)}, C, {images.shape[1]}, {images.shape[2]}], that of the images with a "
            f"dimension of classes, got {probs.shape}"
        )
    as_probs(np.moveaxis(probs, 1, -1).reshape(-1, probs.shape[1]), "pred")
    num_classes, shape = probs.shape[1], images.shape[:3]
    names = class_names_of(class_names, num_classes)
    columns: list[tuple[str, Floats]] = [("Image", images)]
    if label is not None:
        columns.append(("Label", _as_label_maps(label, shape, num_classes, ignore_index)))
    columns.append(("Prediction", probs.argmax(axis=1).astype(np.float64)))
    for key, name in (("pred_uct", "Predictive entropy"), ("epistemic_uct", "Mutual information")):
        if values.get(key) is not None:
            maps = as_floats(values[key], key)
            if maps.shape != shape:
                raise InputValueError(f"{key} must have shape {list(shape)}, that of the images, got {maps.shape}")
            columns.append((name, maps))

    count = min(len(images), max_images)
    aspect = images.shape[1] / images.shape[2]
    figure = new_figure(2.3 * len(columns), max(2.2 * aspect * count + 1.3, 2.4), title)
    panels = figure.subplots(count, len(columns), squeeze=False)
    shown: set[int] = set()
    for place, (name, maps) in enumerate(columns):
        axes = list(panels[:, place])
        axes[0].set_title(name, fontsize=TITLE_SIZE, fontweight="bold", color=INK)
        if name == "Image":
            for ax, each in zip(axes, maps, strict=False):
                show_image(ax, each)
        elif name in ("Label", "Prediction"):
            shown |= _draw_classes(axes, maps[:count], num_classes)
        else:
            top = float(maps[:count].max()) or 1.0
            drawn = [
                show_image(ax, each, cmap="magma", vmin=0.0, vmax=top) for ax, each in zip(axes, maps, strict=False)
            ]
            color_bar(axes[count - 1], drawn[0], "nats")
    _legend(figure, names, sorted(shown), has_ignored=-1 in shown)
    return figure


def _as_label_maps(label: Array, shape: tuple[int, ...], num_classes: int, ignore_index: int | None) -> Floats:
    """Labels [N, H, W], with -1 for pixels without a class."""
    labels = as_floats(label, "label")
    if labels.shape != shape:
        raise InputValueError(f"label must have shape {list(shape)}, that of the images, got {labels.shape}")
    if ignore_index is not None:
        labels[labels == ignore_index] = -1
    known = labels[labels != -1] if ignore_index is not None else labels
    if known.size and ((known != np.round(known)).any() or known.min() < 0 or known.max() >= num_classes):
        raise InputValueError(
            f"label must hold class labels 0 to {num_classes - 1}, got values in [{known.min():g}, {known.max():g}]; "
            "name the label of pixels without a class as ignore_index"
        )
    return labels


def _draw_classes(axes: list[Axes], maps: Floats, num_classes: int) -> set[int]:
    colormap = ListedColormap([to_rgb(IGNORED), *map(to_rgb, class_colors(num_classes))])
    for ax, each in zip(axes, maps, strict=True):
        show_image(ax, each, cmap=colormap, vmin=-1.5, vmax=num_classes - 0.5)
    return {int(label) for label in np.unique(maps)}


def _legend(figure: Figure, names: list[str], shown: list[int], *, has_ignored: bool) -> None:
    """Draws a legend of the classes that occur; none if there are too many."""
    classes = [label for label in shown if label >= 0]
    if len(classes) > MAX_IN_LEGEND:
        return
    colors = class_colors(len(names))
    handles = [Patch(facecolor=colors[label], label=names[label]) for label in classes]
    if has_ignored:
        handles.append(Patch(facecolor=IGNORED, edgecolor=GRID, label="ignored"))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 7),
        fontsize=TICK_SIZE,
        labelcolor=INK,
        frameon=False,
    )
