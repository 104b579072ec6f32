"""Drawn data of the classification plots against independent computations."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.contour import QuadContourSet
from scipy.stats import binomtest
from sklearn.calibration import calibration_curve
from torchmetrics.functional.classification import multiclass_calibration_error

from lightning_vi.plots import plot_classification_2d, plot_reliability_diagram


def overconfident_classifier(num_classes: int, count: int = 500) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(num_classes)
    logits = 2 * torch.randn(count, num_classes, generator=generator, dtype=torch.float64)
    target = torch.multinomial((0.5 * logits).softmax(-1), 1, generator=generator)[:, 0]
    return logits.softmax(-1), target


def bars(ax: Axes, label: str) -> list[tuple[float, float, float]]:
    """Returns the left edge, bottom and height of each bar."""
    (container,) = [c for c in ax.containers if c.get_label() == label]
    return [(bar.get_x(), bar.get_y(), bar.get_height()) for bar in container]


def all_gaps(ax: Axes) -> list[tuple[float, float, float]]:
    labels = {str(c.get_label()) for c in ax.containers}
    return sorted(bar for label in labels if label.startswith("Gap to confidence: ") for bar in bars(ax, label))


@pytest.mark.parametrize(("num_classes", "n_bins"), [(2, 1), (3, 4), (10, 15)])
def test_ece_in_the_title_equals_torchmetrics(num_classes: int, n_bins: int) -> None:
    probs, target = overconfident_classifier(num_classes)
    expected = multiclass_calibration_error(probs, target, num_classes, n_bins=n_bins)
    figure = plot_reliability_diagram(probs, target, n_bins)
    assert figure.axes[0].get_title(loc="right") == f"ECE = {expected.item():.3f}"
    assert expected > 0.01


def test_bars_show_the_accuracy_and_the_gap_to_the_confidence_of_each_bin() -> None:
    probs, target = overconfident_classifier(4)
    ax = plot_reliability_diagram(probs, target, n_bins=10).axes[0]
    confidence, predicted = probs.max(-1)
    accuracy = bars(ax, "Accuracy")
    gaps = all_gaps(ax)
    (errors,) = [c for c in ax.containers if c.get_label() == "95% interval of the accuracy"]
    intervals = errors.lines[2][0].get_segments()
    filled = 0
    for index in range(10):
        inside = (confidence > index / 10) & (confidence <= (index + 1) / 10)
        if inside.any():
            hits = (predicted[inside] == target[inside]).double().mean().item()
            assert accuracy[filled] == pytest.approx((index / 10, 0, hits))
            mean_confidence = confidence[inside].mean().item()
            assert gaps[filled] == pytest.approx((index / 10, min(hits, mean_confidence), abs(mean_confidence - hits)))
            wilson = binomtest(round(hits * int(inside.sum())), int(inside.sum())).proportion_ci(method="wilson")
            assert intervals[filled][:, 1].tolist() == pytest.approx([wilson.low, wilson.high])
            filled += 1
    assert filled == len(accuracy) == len(gaps) < 10


def test_bins_of_two_classes_are_those_of_scikit_learn() -> None:
    probs = torch.rand(500, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).mul(0.5).add(0.5)
    probs = torch.cat([1 - probs, probs], dim=1)
    right = torch.rand(500, generator=torch.Generator().manual_seed(1)) < 0.7
    ax = plot_reliability_diagram(probs, right.long(), n_bins=20).axes[0]
    accuracy, confidence = calibration_curve(right, probs[:, 1], n_bins=20)
    drawn = bars(ax, "Accuracy")
    assert [height for _, _, height in drawn] == pytest.approx(accuracy.tolist())
    over, under = bars(ax, "Gap to confidence: overconfident"), bars(ax, "Gap to confidence: underconfident")
    ends = {left: bottom + height for left, bottom, height in over} | {left: bottom for left, bottom, _ in under}
    assert sorted(over + under) == all_gaps(ax)
    assert [ends[left] for left, _, _ in drawn] == pytest.approx(confidence.tolist())


def test_each_bar_of_the_histogram_has_its_count() -> None:
    probs, target = overconfident_classifier(3)
    ax = plot_reliability_diagram(probs, target, n_bins=6).axes[1]
    assert [text.get_text() for text in ax.texts] == [
        f"{bar.get_height():.0f}" for bar in ax.patches if bar.get_height()
    ]


def test_pixels_and_predictions_are_accepted() -> None:
    probs = torch.rand(2, 3, 4, 4).softmax(1)
    target = torch.randint(0, 3, (2, 4, 4))
    flat = plot_reliability_diagram(probs.movedim(1, -1).reshape(-1, 3), target.flatten())
    for given in (probs, {"pred": probs, "pred_uct": probs[:, 0]}):
        assert bars(plot_reliability_diagram(given, target).axes[0], "Accuracy") == bars(flat.axes[0], "Accuracy")


def test_histogram_counts_the_confidences() -> None:
    probs, target = overconfident_classifier(3)
    ax = plot_reliability_diagram(probs, target, n_bins=6).axes[1]
    expected = torch.histc(probs.max(-1).values, bins=6, min=0, max=1)
    assert [bar.get_height() for bar in ax.patches] == expected.tolist()
    accuracy, confidence = (line.get_xdata()[0] for line in ax.lines)
    assert accuracy == pytest.approx((probs.argmax(-1) == target).double().mean().item())
    assert confidence == pytest.approx(probs.max(-1).values.mean().item())


def test_full_confidence_belongs_to_the_last_bin() -> None:
    probs = torch.eye(2).repeat(3, 1)
    figure = plot_reliability_diagram(probs, torch.tensor([0, 1, 0, 1, 0, 0]), n_bins=5)
    assert bars(figure.axes[0], "Accuracy") == [pytest.approx((0.8, 0, 5 / 6))]
    assert figure.axes[0].get_title(loc="right") == "ECE = 0.167"


def test_probabilities_of_class_1_stand_for_two_classes() -> None:
    probs, target = overconfident_classifier(2)
    both, one = plot_reliability_diagram(probs, target), plot_reliability_diagram(probs[:, 1:], target[:, None])
    np.testing.assert_allclose(bars(one.axes[0], "Accuracy"), bars(both.axes[0], "Accuracy"))


@pytest.mark.parametrize(
    ("probs", "target", "n_bins", "message"),
    [
        (np.ones((3, 2)) / 2, np.zeros(3), 0, "n_bins must be at least 1, got 0"),
        (np.ones((3, 2)), np.zeros(3), 15, r"probs must be probabilities that sum to 1.*sums in \[2, 2\]"),
        (np.array([-0.5, 0.2]), np.zeros(2), 15, r"probs must be probabilities .*got values in \[-0.5, 1.5\]"),
        (
            np.ones((3, 2, 2)) / 2,
            np.zeros(3),
            15,
            r"target must have shape \(3, 2\), that of probs without classes, got \(3,\)",
        ),
        (np.ones((3, 2)) / 2, np.zeros(4), 15, r"target must have shape \[3\].*as long as probs, got \(4,\)"),
        (np.ones((3, 2)) / 2, np.array([0, 1, 2]), 15, r"target must hold class labels 0 to 1, got values in \[0, 2\]"),
        (np.ones((3, 2)) / 2, np.array([0, 0.5, 1]), 15, "target must hold class labels 0 to 1"),
    ],
)
def test_reliability_diagram_rejects_invalid_input(
    probs: np.ndarray, target: np.ndarray, n_bins: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        plot_reliability_diagram(probs, target, n_bins)


X1, X2 = np.linspace(-2, 3, 21), np.linspace(-1, 1, 11)
GRID = np.stack(np.meshgrid(X1, X2, indexing="ij"), axis=-1).reshape(-1, 2)
POINTS, LABELS = np.array([[-1.0, 0.5], [0.0, 0.2], [2.0, -0.3]]), np.array([0, 0, 1])


def two_class_probs(grid: np.ndarray) -> np.ndarray:
    """Returns the probability of class 1, which is 1/2 at x1 = 0.4."""
    return 1 / (1 + np.exp(0.4 - grid[:, 0]))


def contour_sets(ax: Axes, *, filled: bool) -> list[QuadContourSet]:
    return [c for c in ax.collections if isinstance(c, QuadContourSet) and c.filled == filled]


@pytest.mark.parametrize("transposed", [False, True])
def test_decision_boundary_is_where_the_classes_are_equally_likely(transposed: bool) -> None:
    grid = GRID.reshape(21, 11, 2).transpose(1, 0, 2).reshape(-1, 2) if transposed else GRID
    figure = plot_classification_2d(POINTS, LABELS, grid, two_class_probs(grid), grid[:, 1] ** 2)
    for ax in figure.axes[:2]:
        (boundary,) = contour_sets(ax, filled=False)
        vertices = boundary.get_paths()[0].vertices
        np.testing.assert_allclose(vertices[:, 0], 0.4, atol=1e-3)
        assert (vertices[:, 1].min(), vertices[:, 1].max()) == (-1, 1)
        assert (*ax.get_xlim(), *ax.get_ylim()) == (-2, 3, -1, 1)


def test_contours_show_the_probabilities_and_the_uncertainty() -> None:
    probs, uncertainty = two_class_probs(GRID), 0.3 * GRID[:, 1] ** 2
    axes = plot_classification_2d(POINTS, LABELS, GRID, probs, uncertainty, uncertainty_label="MI [nats]").axes
    np.testing.assert_allclose(contour_sets(axes[0], filled=True)[0].get_array(), np.linspace(0.05, 0.95, 10))
    levels = contour_sets(axes[1], filled=True)[0].levels
    assert levels[0] == 0
    assert 0.3 <= levels[-1] <= 0.35
    assert [ax.get_ylabel() for ax in axes[2:]] == ["probability of class 1", "MI [nats]"]


def test_points_are_drawn_in_the_color_of_their_class() -> None:
    (ax, *_) = plot_classification_2d(POINTS, LABELS, GRID, two_class_probs(GRID)).axes
    for label, line in enumerate(ax.lines):
        np.testing.assert_array_equal(line.get_xydata(), POINTS[label == LABELS])
        assert line.get_label() == f"Class {label}"
    assert len({line.get_color() for line in ax.lines}) == 2


def test_each_of_many_classes_fills_the_region_where_it_is_most_probable() -> None:
    centers = np.array([[-1.5, 0.0], [0.5, 0.0], [2.5, 0.0]])
    logits = -((GRID[:, None] - centers) ** 2).sum(-1)
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    (ax,) = plot_classification_2d(centers, np.arange(3), GRID, probs).axes
    regions = contour_sets(ax, filled=True)
    assert len(regions) == 3
    for region, left, right in zip(regions, (-2, -0.5, 1.5), (-0.5, 1.5, 3), strict=True):
        vertices = np.concatenate([path.vertices for path in region.get_paths()])
        assert (vertices[:, 0].min(), vertices[:, 0].max()) == pytest.approx((left, right), abs=0.01)
    darkest = [to_hex(region.get_facecolors()[-1]) for region in regions]
    assert len(set(darkest)) == 3


@pytest.mark.parametrize("num_classes", [2, 9])
def test_a_certain_classifier_without_uncertainty_can_be_drawn(num_classes: int) -> None:
    probs = np.eye(num_classes)[np.zeros(len(GRID), dtype=int)]
    axes = plot_classification_2d(POINTS, LABELS, GRID, probs, np.zeros(len(GRID))).axes
    assert not contour_sets(axes[0], filled=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": POINTS[:, 0]}, r"X must have shape \[N, 2\], got \(3,\)"),
        ({"Y": LABELS[:2]}, r"Y must have shape \[3\].*as long as X, got \(2,\)"),
        ({"Y": LABELS + 1}, "Y must hold class labels 0 to 1"),
        ({"X_grid": GRID[:-1]}, r"X_grid must be a regular grid of at least 2 x 2 nodes: its shape is \(230, 2\)"),
        ({"X_grid": GRID + 0.1 * GRID[:, ::-1]}, "regular grid"),
        ({"X_grid": np.random.default_rng(0).permutation(GRID), "grid_shape": (21, 11)}, "is not a regular grid"),
        ({"grid_shape": (10, 11)}, r"does not make rows and columns of grid_shape \(10, 11\)"),
        ({"probs_grid": two_class_probs(GRID)[1:]}, "probs_grid must have 231 rows, as many as X_grid, got 230"),
        ({"uncertainty_grid": np.zeros(7)}, r"uncertainty_grid must have shape \[231\].*X_grid, got \(7,\)"),
    ],
)
def test_classification_rejects_invalid_input(change: dict[str, object], message: str) -> None:
    given = {"X": POINTS, "Y": LABELS, "X_grid": GRID, "probs_grid": two_class_probs(GRID)}
    with pytest.raises(ValueError, match=message):
        plot_classification_2d(**{**given, **change})
