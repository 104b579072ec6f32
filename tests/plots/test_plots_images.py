"""Drawn data of segmentation maps, image grids and fields."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh

from lightning_vi.plots import plot_field, plot_image_grid, plot_segmentation

RNG = np.random.default_rng(1)
IMAGES = RNG.uniform(0, 255, size=(3, 1, 6, 8))
LOGITS = torch.tensor(RNG.normal(size=(3, 4, 6, 8)))
PROBS = LOGITS.softmax(1)
ENTROPY = -(PROBS * PROBS.log()).sum(1)
LABELS = torch.tensor(RNG.integers(0, 4, size=(3, 6, 8)))
MAPS = {"pred": PROBS, "pred_uct": ENTROPY, "epistemic_uct": ENTROPY / 3}


def drawn(ax: Axes) -> np.ndarray:
    (image,) = ax.images
    return np.asarray(image.get_array())


def test_each_row_has_the_maps_of_an_image() -> None:
    axes = plot_segmentation(IMAGES, MAPS, LABELS, max_images=2).axes
    names = ["Image", "Label", "Prediction", "Predictive entropy", "Mutual information"]
    assert [ax.get_title() for ax in axes[:5]] == names
    scaled = (IMAGES - IMAGES.min()) / (IMAGES.max() - IMAGES.min())
    for row in range(2):
        image, label, predicted, entropy, information = axes[5 * row : 5 * row + 5]
        np.testing.assert_allclose(drawn(image), scaled[row, 0])
        np.testing.assert_array_equal(drawn(label), LABELS[row])
        np.testing.assert_array_equal(drawn(predicted), PROBS[row].argmax(0))
        np.testing.assert_allclose(drawn(entropy), ENTROPY[row])
        np.testing.assert_allclose(drawn(information), ENTROPY[row] / 3)
    assert axes[3].images[0].get_clim() == axes[8].images[0].get_clim() == (0, ENTROPY[:2].max())


def test_a_class_has_one_color_in_label_prediction_and_legend_and_ignored_pixels_are_white() -> None:
    labels = LABELS.clone()
    labels[0, 0, 0] = 255
    names = ["sky", "road", "tree", "car"]
    figure = plot_segmentation(IMAGES, MAPS, labels, class_names=names, ignore_index=255)
    label, predicted = figure.axes[1].images[0], figure.axes[2].images[0]
    assert label.cmap(label.norm(-1)) == (1, 1, 1, 1)
    (legend,) = figure.legends
    shown = {
        text.get_text(): patch.get_facecolor() for text, patch in zip(legend.texts, legend.get_patches(), strict=True)
    }
    assert list(shown) == [*names, "ignored"]
    for number, name in enumerate(names):
        assert label.cmap(label.norm(number)) == predicted.cmap(predicted.norm(number)) == pytest.approx(shown[name])


def test_maps_of_other_shapes_and_unknown_labels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pred must have shape \[3, C, 6, 8\].*got \(3, 4, 6, 7\)"):
        plot_segmentation(IMAGES, {"pred": PROBS[..., :-1]}, LABELS)
    with pytest.raises(ValueError, match=r"label must have shape \[3, 6, 8\]"):
        plot_segmentation(IMAGES, MAPS, LABELS[:, 0])
    with pytest.raises(ValueError, match=r"label must hold class labels 0 to 3, .*name the label .* as ignore_index"):
        plot_segmentation(IMAGES, MAPS, LABELS + 1)
    with pytest.raises(ValueError, match=r"image must have shape \[N, H, W\].*got \(3, 2, 6, 8\)"):
        plot_segmentation(np.concatenate([IMAGES, IMAGES], axis=1), MAPS)
    with pytest.raises(ValueError, match=r"epistemic_uct must have shape \[3, 6, 8\], that of the images"):
        plot_segmentation(IMAGES, MAPS | {"epistemic_uct": ENTROPY[:, 0]})
    with pytest.raises(ValueError, match="pred must be probabilities"):
        plot_segmentation(IMAGES, {"pred": LOGITS})


def test_grids_show_the_most_and_the_least_certain_images_in_order() -> None:
    images = RNG.uniform(size=(20, 3, 5, 5))
    probs = torch.tensor(RNG.dirichlet(np.ones(3), size=20))
    scores, labels = RNG.permutation(20) / 20.0, torch.tensor(RNG.integers(0, 3, size=20))
    prediction = {"pred": probs, "epistemic_uct": scores}
    figure = plot_image_grid(
        images, prediction, labels, uncertainty="epistemic_uct", num_images=4, class_names=["a", "b", "c"]
    )
    order = np.argsort(scores)
    for ax, row in zip(figure.axes, [*order[:4], *order[:-5:-1]], strict=True):
        np.testing.assert_allclose(drawn(ax), np.moveaxis(images[row], 0, -1))
        predicted, label = "abc"[probs[row].argmax()], "abc"[labels[row]]
        text = f"{predicted} ({probs[row].max():.0%})"
        assert ax.get_title() == (text if predicted == label else f"{text}, is {label}")
    assert "0 to 0.15" in figure.subfigs[0].get_suptitle()


def test_few_images_are_drawn_once() -> None:
    prediction = {"pred": torch.tensor([[0.9, 0.1]]), "pred_uct": torch.tensor([0.3])}
    (ax,) = plot_image_grid(np.zeros((1, 4, 4)), prediction).axes
    assert ax.get_title() == "0 (90%)"
    with pytest.raises(
        ValueError, match=r"uncertainty must be a key of the prediction, \['pred', 'pred_uct'\], got 'mi'"
    ):
        plot_image_grid(np.zeros((1, 4, 4)), prediction, uncertainty="mi")
    with pytest.raises(ValueError, match=r"class_names must have one name for each of the 2 classes, got \['a'\]"):
        plot_image_grid(np.zeros((1, 4, 4)), prediction, class_names=["a"])


def field(ax: Axes) -> np.ndarray:
    (mesh,) = [c for c in ax.collections if isinstance(c, QuadMesh)]
    return np.asarray(mesh.get_array())


def test_fields_are_drawn_on_their_grid_in_either_order() -> None:
    first, second = np.linspace(0, 1, 4), np.linspace(-2, 2, 5)
    grid = np.stack(np.meshgrid(first, second, indexing="ij"), axis=-1)
    truth = np.sin(3 * grid[..., 0]) * grid[..., 1]
    values = {"pred": truth + 0.1, "epistemic_uct": 0.1 + truth**2, "aleatoric_uct": 0.2 + 0 * truth}
    for order in ("C", "F"):
        points = grid.reshape(-1, 2) if order == "C" else grid.transpose(1, 0, 2).reshape(-1, 2)
        flat = {key: value.ravel(order) for key, value in values.items()}
        axes = plot_field(flat, truth.ravel(order), points, X_train=points[:3]).axes[:5]
        names = ["Truth", "Predictive mean", "Error", "Epistemic std", "Aleatoric std"]
        assert [ax.get_title(loc="left") for ax in axes] == names
        expected = [truth, truth + 0.1, 0.1 + 0 * truth, values["epistemic_uct"], values["aleatoric_uct"]]
        for ax, each in zip(axes, expected, strict=True):
            np.testing.assert_allclose(field(ax), each if order == "C" else each.T)
        meshes = [ax.collections[0] for ax in axes]
        assert meshes[0].get_clim() == meshes[1].get_clim()
        assert meshes[3].get_clim() == meshes[4].get_clim() == (0, values["epistemic_uct"].max())
        assert meshes[2].get_clim() == pytest.approx((-0.1, 0.1))
        np.testing.assert_array_equal(np.asarray(axes[3].lines[0].get_xydata()), points[:3])


def test_fields_of_a_shape_need_no_points() -> None:
    values = torch.rand(1, 5, 7, 2)
    ax = plot_field({"pred": values}, target=1).axes[0]
    np.testing.assert_allclose(field(ax), values[0, ..., 1])


def test_fields_that_are_no_grid_are_refused() -> None:
    with pytest.raises(ValueError, match=r"x must be given, or pred must be a field .* got \(12,\)"):
        plot_field({"pred": np.zeros(12)})
    with pytest.raises(ValueError, match=r"x must be a regular grid of at least 2 x 2 nodes"):
        plot_field({"pred": np.zeros(12)}, x=RNG.normal(size=(12, 2)))
    with pytest.raises(ValueError, match=r"truth must have a value for each of the 3 x 4 points, got \(11,\)"):
        plot_field({"pred": np.zeros((3, 4))}, np.zeros(11))
    with pytest.raises(ValueError, match=r"target must be an index of the 1 targets of pred, got 2"):
        plot_field({"pred": np.zeros((3, 4))}, target=2)
