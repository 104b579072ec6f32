"""Grid of the images that a classifier is most and least certain of."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lightning_vi.errors import InputValueError
from lightning_vi.plots._arrays import Array, as_floats, as_labels, as_probs, as_vector
from lightning_vi.plots._images import as_images, caption, show_image
from lightning_vi.plots._predictions import PredictionLike, as_dict, class_names_of
from lightning_vi.plots._style import INK, TITLE_SIZE, VERMILION, new_figure

NAMES = {
    "pred_uct": "predictive entropy in nats",
    "epistemic_uct": "mutual information in nats",
    "aleatoric_uct": "expected entropy in nats",
}


def plot_image_grid(
    image: Array,
    prediction: PredictionLike,
    label: Array | None = None,
    *,
    uncertainty: Array | str = "pred_uct",
    class_names: Sequence[str] | None = None,
    num_images: int = 8,
    title: str | None = None,
) -> Figure:
    """Plots the images with the lowest and the highest uncertainty, with predicted and true classes.

    Captions give the predicted class with its probability and the uncertainty; those of wrong predictions are drawn in
    a second color, with the true class.

    Args:
        image: images, [N, H, W], [N, 1, H, W] or [N, 3, H, W]; scaled to [0, 1] together unless they lie there.
        prediction: a `Prediction`, a dictionary of `predict_step`, or a dictionary of arrays: probabilities `pred`,
            [N, C], and the key of `uncertainty`.
        label: class labels 0 to C - 1, [N]; None if they are not known.
        uncertainty: key of the prediction by which images are sorted, `pred_uct` (predictive entropy), `epistemic_uct`
            (mutual information) or `aleatoric_uct`; or values, [N].
        class_names: names of the C classes; None: their numbers.
        num_images: number of images of each kind; all are drawn once if there are fewer than twice as many.
        title: title of the figure.

    Returns:
        A figure with a row of the most certain images and a row of the least certain ones.

    Raises:
        ValueError: if the shape of an array is wrong, a value is not finite, `pred` are not probabilities, labels are
            not class labels, the prediction lacks the key `uncertainty`, or `num_images` is less than 1.
        TypeError: if `prediction` is none.

    Example:
        >>> import torch
        >>> from lightning_vi.plots import plot_image_grid
        >>> prediction = {"pred": torch.tensor([[0.9, 0.1], [0.6, 0.4]]), "pred_uct": torch.tensor([0.33, 0.67])}
        >>> figure = plot_image_grid(torch.rand(2, 8, 8), prediction, torch.tensor([0, 1]), num_images=1)
        >>> figure.axes[1].get_title()
        '0 (60%), is 1'
    """
    if num_images < 1:
        raise InputValueError(f"num_images must be at least 1, got {num_images}")
    images, values = as_images(image, "image"), as_dict(prediction)
    probs = as_probs(values["pred"], "pred")
    if len(probs) != len(images):
        raise InputValueError(
            f"pred must have {len(images)} rows, as many as image, got {as_floats(values['pred'], 'pred').shape}"
        )
    labels = (
        None
        if label is None
        else as_labels(label, "label", num_classes=probs.shape[1], length=len(images), like="image")
    )
    names = class_names_of(class_names, probs.shape[1])
    if isinstance(uncertainty, str):
        if values.get(uncertainty) is None:
            raise InputValueError(f"uncertainty must be a key of the prediction, {sorted(values)}, got {uncertainty!r}")
        scores = as_vector(values[uncertainty], uncertainty, length=len(images), like="image")
        score_name = NAMES.get(uncertainty, uncertainty)
    else:
        scores, score_name = as_vector(uncertainty, "uncertainty", length=len(images), like="image"), "uncertainty"

    order = np.argsort(scores, kind="stable")
    groups = {"Most certain": order[:num_images], "Least certain": order[::-1][:num_images]}
    if len(images) < 2 * num_images:
        groups = {"All images": order}
    columns = max(len(rows) for rows in groups.values())
    figure = new_figure(max(1.25 * columns, 5.6), 1.9 * len(groups) + 0.4, title)
    for band, (name, rows) in zip(figure.subfigures(len(groups), 1, squeeze=False)[:, 0], groups.items(), strict=True):
        band.suptitle(
            f"{name} ({score_name} {scores[rows].min():.2g} to {scores[rows].max():.2g})",
            fontsize=TITLE_SIZE,
            fontweight="bold",
            color=INK,
            ha="left",
            x=0.01,
        )
        for ax, row in zip(
            band.subplots(1, columns, squeeze=False)[0], [*rows, *[None] * (columns - len(rows))], strict=True
        ):
            if row is None:
                ax.set_axis_off()
                continue
            show_image(ax, images[row])
            predicted = int(probs[row].argmax())
            text = f"{names[predicted]} ({probs[row, predicted]:.0%})"
            wrong = labels is not None and labels[row] != predicted
            caption(
                ax,
                f"{text}, is {names[labels[row]]}" if labels is not None and wrong else text,
                VERMILION if wrong else INK,
            )
    return figure
