"""Drawn data of the regression plots against the given data and independent computations."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
import torch
import uncertainty_toolbox as uct
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.lines import Line2D
from torch import nn

from lightning_vi import ConformalQuantileRegression, Deterministic, QuantileRegression, SplitConformal
from lightning_vi.backbones import MLP
from lightning_vi.likelihoods import Gaussian, Prediction, Quantiles
from lightning_vi.plots import plot_calibration, plot_predictions_regression, plot_toy_regression_data

RNG = np.random.default_rng(3)
X = RNG.permutation(np.linspace(-3, 3, 31))
TRUTH, PRED = np.sin(X), np.sin(X) + 0.1 * X
EPISTEMIC, ALEATORIC = 0.1 + 0.05 * X**2, 0.2 + 0.01 * X
TOTAL = np.sqrt(EPISTEMIC**2 + ALEATORIC**2)
X_TRAIN = RNG.uniform(-2, 2, 12)
Y_TRAIN = np.sin(X_TRAIN) + 0.1
ORDER = np.argsort(X)


def line(ax: Axes, label: str) -> Line2D:
    (found,) = [line for line in ax.lines if str(line.get_label()).startswith(label)]
    return found


def labels(ax: Axes) -> list[str]:
    return ax.get_legend_handles_labels()[1]


def band_edges(ax: Axes, label: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns x, lower and upper edge of a filled band, from its outline."""
    (band,) = [c for c in ax.collections if isinstance(c, PolyCollection) and str(c.get_label()).startswith(label)]
    outline = band.get_paths()[0].vertices
    x = np.unique(outline[:, 0])
    edges = [outline[outline[:, 0] == at, 1] for at in x]
    return x, np.array([edge.min() for edge in edges]), np.array([edge.max() for edge in edges])


def test_toy_data_shows_the_points_and_the_sorted_function() -> None:
    figure = plot_toy_regression_data(
        X_TRAIN, Y_TRAIN, X, TRUTH, X_TRAIN + 1, Y_TRAIN - 1, title="toy", xlabel="depth [m]", ylabel="heat [W]"
    )
    (ax,) = figure.axes
    np.testing.assert_array_equal(line(ax, "Training data").get_xydata(), np.stack([X_TRAIN, Y_TRAIN], axis=1))
    np.testing.assert_array_equal(line(ax, "Test data").get_xydata(), np.stack([X_TRAIN + 1, Y_TRAIN - 1], axis=1))
    np.testing.assert_array_equal(line(ax, "True function").get_xydata(), np.stack([X[ORDER], TRUTH[ORDER]], axis=1))
    assert (ax.get_xlabel(), ax.get_ylabel(), figure.get_suptitle()) == ("depth [m]", "heat [W]", "toy")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == labels(ax)


def test_toy_data_needs_only_training_points() -> None:
    (ax,) = plot_toy_regression_data(X_TRAIN, Y_TRAIN).axes
    assert labels(ax) == ["Training data"]


@pytest.mark.parametrize("missing", ["Y_gtext", "X_test"])
def test_arrays_of_a_pair_must_be_given_together(missing: str) -> None:
    pairs = {"X_gtext": X, "Y_gtext": TRUTH, "X_test": X, "Y_test": TRUTH}
    with pytest.raises(ValueError, match=r"X_(\w+) and Y_\1 must be given together"):
        plot_toy_regression_data(X_TRAIN, Y_TRAIN, **{**pairs, missing: None})


def test_prediction_is_drawn_sorted_with_bands_of_two_std() -> None:
    figure = plot_predictions_regression(
        X_TRAIN, Y_TRAIN, X, TRUTH, PRED, TOTAL, epistemic=EPISTEMIC, aleatoric=ALEATORIC
    )
    left, right = figure.axes
    np.testing.assert_array_equal(line(left, "Predictive mean").get_xydata(), np.stack([X, PRED], axis=1)[ORDER])
    np.testing.assert_array_equal(line(left, "True function").get_ydata(), TRUTH[ORDER])
    for label, std in (("Total", TOTAL), ("Epistemic", EPISTEMIC)):
        x, lower, upper = band_edges(left, label)
        np.testing.assert_allclose(x, X[ORDER])
        np.testing.assert_allclose(lower, (PRED - 2 * std)[ORDER])
        np.testing.assert_allclose(upper, (PRED + 2 * std)[ORDER])
        assert any(label in name and "±2 std" in name for name in labels(left))
    for label, std in (("Total", TOTAL), ("Epistemic", EPISTEMIC), ("Aleatoric", ALEATORIC)):
        np.testing.assert_array_equal(line(right, label).get_xydata(), np.stack([X, std], axis=1)[ORDER])


def test_total_std_is_computed_from_both_parts() -> None:
    figure = plot_predictions_regression(X_TRAIN, Y_TRAIN, X, TRUTH, PRED, epistemic=EPISTEMIC, aleatoric=ALEATORIC)
    _, lower, upper = band_edges(figure.axes[0], "Total")
    np.testing.assert_allclose((upper - lower) / 4, TOTAL[ORDER])


def test_only_given_quantities_are_drawn() -> None:
    (bare,) = plot_predictions_regression(X_TRAIN, Y_TRAIN, X, None, PRED).axes
    assert labels(bare) == ["Training data", "Predictive mean"]
    (total,) = plot_predictions_regression(X_TRAIN, Y_TRAIN, X, TRUTH, PRED, TOTAL).axes
    assert len(total.collections) == 1
    left, right = plot_predictions_regression(X_TRAIN, Y_TRAIN, X, TRUTH, PRED, epistemic=EPISTEMIC).axes
    assert len(left.collections) == 1
    assert labels(right) == ["Epistemic"]


def test_interval_endpoints_are_lines_with_one_legend_entry() -> None:
    (ax,) = plot_predictions_regression(X_TRAIN, Y_TRAIN, X, TRUTH, PRED, lower=PRED - 1.5, upper=PRED + 2.5).axes
    drawn = [curve.get_xydata() for curve in ax.lines[-2:]]
    for endpoint, shift in zip(drawn, (-1.5, 2.5), strict=True):
        np.testing.assert_allclose(endpoint, np.stack([X, PRED + shift], axis=1)[ORDER])
    assert labels(ax).count("Prediction interval") == 1
    with pytest.raises(ValueError, match="lower and upper must be given together"):
        plot_predictions_regression(X_TRAIN, Y_TRAIN, X, TRUTH, PRED, lower=PRED)
    with pytest.raises(ValueError, match="upper must"):
        plot_predictions_regression(X_TRAIN, Y_TRAIN, X, TRUTH, PRED, lower=PRED, upper=PRED + np.inf)


def test_a_prediction_brings_its_quantities_and_says_what_they_are() -> None:
    column = torch.from_numpy(PRED).unsqueeze(1)
    epistemic, aleatoric = (torch.from_numpy(std**2).unsqueeze(1) for std in (EPISTEMIC, ALEATORIC))
    prediction = Prediction(column, epistemic, aleatoric, epistemic + aleatoric)
    for given in (prediction, prediction.as_dict()):
        left, right = plot_predictions_regression(X_TRAIN, Y_TRAIN, X, TRUTH, given).axes
        _, lower, upper = band_edges(left, "Epistemic")
        np.testing.assert_allclose((upper - lower) / 4, EPISTEMIC[ORDER])
        assert labels(right) == ["Total", "Aleatoric", "Epistemic"]
    level = replace(prediction, lower=column - 1, upper=column + 1, metadata={"interval_level": 0.9})
    (left, _) = plot_predictions_regression(X_TRAIN, Y_TRAIN, X, TRUTH, level).axes
    assert "90% prediction interval" in labels(left)


def test_quantile_regression_has_a_median_its_interval_and_one_std() -> None:
    method = QuantileRegression(MLP(1, [4], 3), Quantiles(levels=(0.1, 0.5, 0.9)))
    prediction = method.predict(torch.from_numpy(X).unsqueeze(1))
    left, right = plot_predictions_regression(X_TRAIN, Y_TRAIN, X, TRUTH, prediction).axes
    assert labels(left) == ["Training data", "True function", "Predictive median", "80% prediction interval"]
    assert not left.collections
    assert labels(right) == ["Total (aleatoric only)"]
    assert right.get_ylabel() == "equivalent Gaussian standard deviation of y"


@pytest.mark.parametrize("wrapper", [SplitConformal, ConformalQuantileRegression])
def test_conformal_bands_have_their_level(wrapper: type[SplitConformal]) -> None:
    conformal = wrapper(Deterministic(nn.Identity(), Gaussian(noise_std=0.5)), coverage=0.75)
    conformal.calibrate([(torch.zeros(30, 1), torch.randn(30, 1))])
    left, _ = plot_predictions_regression(
        X_TRAIN, Y_TRAIN, X, TRUTH, conformal.predict(torch.from_numpy(X).float().unsqueeze(1))
    ).axes
    assert "75% prediction interval" in labels(left)
    with pytest.raises(ValueError, match=r"interval_level must lie strictly between 0 and 1, got 90"):
        plot_predictions_regression(X_TRAIN, Y_TRAIN, X, None, PRED, lower=PRED, upper=PRED, interval_level=90)
    with pytest.raises(ValueError, match=r"center must be 'mean' or 'median', got 'mode'"):
        plot_predictions_regression(X_TRAIN, Y_TRAIN, X, None, PRED, center="mode")


def test_bands_can_be_hidden() -> None:
    left, right = plot_predictions_regression(
        X_TRAIN, Y_TRAIN, X, TRUTH, PRED, TOTAL, epistemic=EPISTEMIC, aleatoric=ALEATORIC, show_bands=False
    ).axes
    assert not left.collections
    assert labels(right) == ["Total", "Aleatoric", "Epistemic"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": PRED[:-1]}, r"pred must have shape \[31\] or \[31, 1\], as long as X_gtext, got \(30,\)"),
        ({"pred": np.stack([PRED, PRED], axis=1)}, r"pred must have shape \[N\] or \[N, 1\], got \(31, 2\)"),
        ({"Y_train": Y_TRAIN[:3]}, r"Y_train must have shape \[12\].*X_train, got \(3,\)"),
        ({"epistemic": -EPISTEMIC}, "epistemic holds standard deviations and must not be negative"),
        ({"X_train": X_TRAIN[:0]}, r"X_train is empty: its shape is \(0,\)"),
    ],
)
def test_errors_name_the_array(change: dict[str, np.ndarray], message: str) -> None:
    given = {"X_train": X_TRAIN, "Y_train": Y_TRAIN, "X_gtext": X, "Y_gtext": TRUTH, "pred": PRED}
    with pytest.raises(ValueError, match=message):
        plot_predictions_regression(**{**given, **change})


def calibration_data(count: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x = RNG.uniform(-3, 3, count)
    mean, std = np.sin(x), 0.2 + 0.05 * x**2
    return mean, std, mean + 1.5 * std * RNG.normal(size=count), x


def test_several_targets_have_rows_of_their_own() -> None:
    mean, std, target, x = calibration_data()
    means, stds, targets = (np.stack([v, 2 * v], axis=1) for v in (mean, std, target))
    axes = plot_calibration(means, stds, targets, x, target_names=["heat [W]", "load [N]"]).axes
    assert [axes[0].get_ylabel(), axes[4].get_ylabel()] == ["heat [W]", "load [N]"]
    for panel in range(4):
        one = plot_calibration(2 * mean, 2 * std, 2 * target, x).axes[panel]
        for ours, theirs in zip(axes[4 + panel].lines, one.lines, strict=True):
            np.testing.assert_array_equal(ours.get_xydata(), theirs.get_xydata())


def test_ordered_intervals_are_two_std_wide_and_sorted_by_target() -> None:
    mean, std, target, _ = calibration_data()
    intervals = plot_calibration(mean, std, target).axes[0]
    order = np.argsort(target)
    (bars,) = [c for c in intervals.collections if isinstance(c, LineCollection)]
    segments = np.stack(bars.get_segments())
    np.testing.assert_allclose(segments[:, 0, 1], (mean - 2 * std)[order])
    np.testing.assert_allclose(segments[:, 1, 1], (mean + 2 * std)[order])
    np.testing.assert_array_equal(line(intervals, "Target").get_ydata(), target[order])
    inside = np.mean([abs(t - m) <= 2 * s for t, m, s in zip(target, mean, std, strict=True)])
    assert intervals.texts[0].get_text() == f"{100 * inside:.1f}% of the targets inside (95.4% if calibrated)"


def test_many_intervals_are_thinned_evenly() -> None:
    mean, std, target, _ = calibration_data(301)
    drawn = line(plot_calibration(mean, std, target, max_intervals=11).axes[0], "Target")
    np.testing.assert_array_equal(drawn.get_xdata(), np.arange(0, 301, 30))
    np.testing.assert_array_equal(drawn.get_ydata(), np.sort(target)[::30])


def test_calibration_curve_and_area_equal_their_definition() -> None:
    mean, std, target, _ = calibration_data()
    calibration = plot_calibration(mean, std, target).axes[1]
    predicted, observed = line(calibration, "Model").get_data()
    half_widths = [NormalDist().inv_cdf(0.5 + share / 2) for share in predicted[1:-1]]
    shares = [np.mean(np.abs(target - mean) <= half * std) for half in half_widths]
    np.testing.assert_allclose(observed[1:-1], shares)
    assert (predicted[0], predicted[-1], observed[-1]) == (0, 1, 1)
    area = uct.miscalibration_area(mean, std, target)
    assert calibration.texts[0].get_text() == f"Miscalibration area = {area:.3f}"
    assert area > 0.02


def test_sharpness_histogram_counts_every_target() -> None:
    mean, std, target, _ = calibration_data()
    sharpness = plot_calibration(mean, std, target).axes[2]
    assert sum(bar.get_height() for bar in sharpness.patches) == len(std)
    assert line(sharpness, "Sharpness").get_xdata()[0] == pytest.approx(uct.sharpness(std))
    assert line(sharpness, "RMSE").get_xdata()[0] == pytest.approx(np.sqrt(np.mean((mean - target) ** 2)))


def test_x_adds_a_panel() -> None:
    mean, std, target, x = calibration_data()
    axes = plot_calibration(mean, std, target, x, xlabel="time [s]", ylabel="load [N]").axes
    assert len(axes) == 4
    order = np.argsort(x)
    np.testing.assert_array_equal(line(axes[0], "Predictive mean").get_xydata(), np.stack([x, mean], axis=1)[order])
    _, lower, upper = band_edges(axes[0], "Interval")
    np.testing.assert_allclose(lower, (mean - 2 * std)[order])
    np.testing.assert_allclose(upper, (mean + 2 * std)[order])
    assert (axes[0].get_xlabel(), axes[0].get_ylabel()) == ("time [s]", "load [N]")


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_constant_std_of_any_scale_has_a_histogram(scale: float) -> None:
    mean, _, target, _ = calibration_data()
    sharpness = plot_calibration(scale * mean, np.full_like(mean, 0.3 * scale), scale * target).axes[2]
    assert sum(bar.get_height() for bar in sharpness.patches) == len(mean)
    assert 0 < sharpness.get_xlim()[0] < 0.3 * scale


def test_calibration_rejects_invalid_input() -> None:
    mean, std, target, x = calibration_data()
    with pytest.raises(ValueError, match="pred_uct must be positive, got 60 zeros of 60 values"):
        plot_calibration(mean, 0 * std, target)
    with pytest.raises(ValueError, match="pred_uct holds standard deviations and must not be negative"):
        plot_calibration(mean, -std, target)
    with pytest.raises(ValueError, match=r"target must have 60 rows and 1 columns, the shape of pred, got \(59,\)"):
        plot_calibration(mean, std, target[1:])
    with pytest.raises(ValueError, match=r"x must have shape \[60\].*as long as pred, got \(10,\)"):
        plot_calibration(mean, std, target, x[:10])
    with pytest.raises(ValueError, match="max_intervals must be at least 1, got 0"):
        plot_calibration(mean, std, target, max_intervals=0)
