"""Drawn data of the plots of predictions against targets, on data whose law is known."""

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from scipy import stats
from sklearn.calibration import calibration_curve

from lightning_vi.likelihoods import Gaussian, Prediction
from lightning_vi.plots import (
    plot_calibration_curves,
    plot_error_uncertainty,
    plot_pit,
    plot_predicted_observed,
)

RNG = np.random.default_rng(5)
N = 2000
MEAN, STD = RNG.normal(size=(N, 2)), RNG.uniform(0.2, 2.0, size=(N, 2))
TARGET = MEAN + STD * RNG.normal(size=(N, 2))
CALIBRATED = {"pred": MEAN, "pred_uct": STD}


def error_bars(ax: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns points [n, 2] and the ends of their error bars [n, 2]."""
    (found,) = [c for c in ax.containers if isinstance(c, ErrorbarContainer) and str(c.get_label()).startswith(label)]
    segments = np.array(found.lines[2][0].get_segments())
    return np.asarray(found.lines[0].get_xydata()), segments[:, :, 1]


def histogram(ax: Axes) -> np.ndarray:
    bars = [bar for container in ax.containers for bar in container]
    return np.array([bar.get_height() for bar in sorted(bars, key=lambda bar: bar.get_x())])


def test_predictions_are_drawn_over_targets_with_two_std_and_by_coverage() -> None:
    axes = plot_predicted_observed(CALIBRATED, TARGET, target_names=["heat [W]", "load [N]"], max_points=N).axes
    assert [ax.get_xlabel() for ax in axes] == ["observed heat [W]", "observed load [N]"]
    for column, ax in enumerate(axes):
        inside = np.abs(TARGET - MEAN)[:, column] <= 2 * STD[:, column]
        assert ax.texts[0].get_text() == f"{inside.mean():.1%} inside (95.4% expected)"
        assert ax.get_title(loc="right") == f"RMSE = {np.sqrt(np.mean((TARGET - MEAN)[:, column] ** 2)):.3g}"
        for where, rows in (("Inside", inside), ("Outside", ~inside)):
            points, ends = error_bars(ax, f"{where} (±2 std)")
            order = np.argsort(points[:, 0])
            expected = np.stack([TARGET[rows, column], MEAN[rows, column]], axis=1)
            by_target = np.argsort(expected[:, 0])
            np.testing.assert_allclose(points[order], expected[by_target])
            np.testing.assert_allclose(ends[order, 0], (MEAN - 2 * STD)[rows, column][by_target])
            np.testing.assert_allclose(ends[order, 1], (MEAN + 2 * STD)[rows, column][by_target])


def test_intervals_of_a_prediction_replace_the_std_and_have_their_level() -> None:
    mean, var = torch.tensor([[0.0], [1.0]]), torch.ones(2, 1)
    prediction = Prediction(
        mean, 0 * var, var, var, lower=mean - 0.5, upper=mean + 1, metadata={"interval_level": 0.9, "center": "median"}
    )
    ax = plot_predicted_observed(prediction, torch.tensor([[0.9], [0.4]])).axes[0]
    assert ax.texts[0].get_text() == "50.0% inside (90% expected)"
    _, ends = error_bars(ax, "Inside (90% prediction interval)")
    np.testing.assert_allclose(ends, [[-0.5, 1.0]])


def test_targets_without_std_are_points() -> None:
    (ax,) = plot_predicted_observed({"pred": MEAN[:, 0]}, TARGET[:, 0], max_points=50).axes
    assert len(ax.lines[0].get_xdata()) == 50
    assert not ax.containers


@pytest.mark.parametrize("plot", [plot_predicted_observed, plot_pit, plot_error_uncertainty])
@pytest.mark.parametrize("count", [1, 2])
def test_one_row_and_equal_rows_are_drawn(plot: object, count: int) -> None:
    assert callable(plot)
    figure = plot({"pred": np.ones(count), "pred_uct": np.ones(count)}, np.ones(count))
    assert figure._repr_png_()


def test_transform_of_calibrated_predictions_is_uniform_and_inside_the_band() -> None:
    figure = plot_pit(CALIBRATED, TARGET, n_bins=16)
    for column, ax in enumerate(figure.axes):
        transform = stats.norm.cdf(TARGET[:, column], MEAN[:, column], STD[:, column])
        assert stats.kstest(transform, "uniform").pvalue > 0.01
        np.testing.assert_array_equal(histogram(ax), np.histogram(transform, 16, (0, 1))[0])
        assert ax.get_title(loc="right") == "0 of 16 bins outside"


@pytest.mark.parametrize(("scale", "high"), [(0.6, [0, 15]), (2.0, [7, 8])])
def test_wrong_std_leaves_the_band(scale: float, high: list[int]) -> None:
    ax = plot_pit({"pred": MEAN[:, 0], "pred_uct": scale * STD[:, 0]}, TARGET[:, 0], n_bins=16).axes[0]
    counts = histogram(ax)
    outside = [bar for c in ax.containers if "outside" in str(c.get_label()) for bar in c]
    assert {round(bar.get_x() * 16) for bar in outside} >= set(high)
    assert min(counts[high]) > counts.mean()


def test_transforms_are_accepted_as_values() -> None:
    transform = stats.norm.cdf(TARGET, MEAN, STD)
    for given, column in zip(plot_pit(transform).axes, plot_pit(CALIBRATED, TARGET).axes, strict=True):
        np.testing.assert_array_equal(histogram(given), histogram(column))
    with pytest.raises(ValueError, match=r"values of the transform must lie between 0 and 1, got values in \[-?"):
        plot_pit(TARGET)
    with pytest.raises(TypeError, match="target must be given with a prediction"):
        plot_pit(CALIBRATED)
    with pytest.raises(TypeError, match="prediction must be a result of predict or predict_step"):
        plot_pit(MEAN, TARGET)


def test_errors_of_calibrated_predictions_lie_on_the_ideal_line() -> None:
    for column, ax in enumerate(plot_error_uncertainty(CALIBRATED, TARGET, n_bins=8).axes):
        points, ends = error_bars(ax, "RMSE of a bin")
        order = np.argsort(STD[:, column]).reshape(8, -1)
        error = (TARGET - MEAN)[:, column]
        for point, end, rows in zip(points, ends, order, strict=True):
            squared = error[rows] ** 2
            assert point == pytest.approx([np.sqrt(np.mean(STD[rows, column] ** 2)), np.sqrt(squared.mean())])
            half = stats.norm.ppf(0.975) * stats.sem(squared)
            assert end == pytest.approx(np.sqrt([squared.mean() - half, squared.mean() + half]))
        inside = (ends[:, 0] <= points[:, 0]) & (points[:, 0] <= ends[:, 1])
        assert inside.sum() >= 6
        ence = np.mean(np.abs(points[:, 0] - points[:, 1]) / points[:, 0])
        assert ax.get_title(loc="right") == f"ENCE = {ence:.3f}"
        assert ence < 0.1


def test_equal_uncertainties_are_in_one_bin() -> None:
    std = np.repeat([1.0, 2.0, 3.0], [70, 10, 20])
    ax = plot_error_uncertainty({"pred": np.zeros(100), "pred_uct": std}, RNG.normal(size=100), n_bins=10).axes[0]
    points, _ = error_bars(ax, "RMSE of a bin")
    np.testing.assert_allclose(points[:, 0], [1, 2, 3])
    assert [text.get_text() for text in ax.texts] == ["70", "10", "20"]


def classifier(count: int = 1500) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    probs = (2 * torch.randn(count, 3, generator=generator, dtype=torch.float64)).softmax(-1)
    return probs, torch.multinomial(probs, 1, generator=generator)[:, 0]


def test_error_rates_of_a_classifier_have_wilson_intervals() -> None:
    probs, target = classifier()
    ax = plot_error_uncertainty({"pred": probs}, target, n_bins=5).axes[0]
    points, ends = error_bars(ax, "Error rate")
    uncertainty, wrong = 1 - probs.max(1).values.numpy(), (probs.argmax(1) != target).numpy()
    for point, end, rows in zip(points, ends, np.argsort(uncertainty).reshape(5, -1), strict=True):
        assert point == pytest.approx([uncertainty[rows].mean(), wrong[rows].mean()])
        wilson = stats.binomtest(int(wrong[rows].sum()), len(rows)).proportion_ci(method="wilson")
        assert end == pytest.approx([wilson.low, wilson.high])
    assert [text.get_text() for text in ax.texts] == ["300"] * 5


def test_calibration_curves_of_two_classes_are_those_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    prob = 0.5 + 0.5 * torch.rand(800, dtype=torch.float64, generator=generator)
    target = (torch.rand(800, generator=generator) < 0.75).long()
    after = 0.5 + 0.5 * (prob - 0.5)
    predictions = {name: {"pred": torch.stack([1 - p, p], dim=1)} for name, p in (("before", prob), ("after", after))}
    ax = plot_calibration_curves(predictions, target, n_bins=20).axes[0]
    for name, p in (("before", prob), ("after", after)):
        points, _ = error_bars(ax, f"{name}, ECE")
        accuracy, confidence = calibration_curve(target, p, n_bins=20)
        np.testing.assert_allclose(points, np.stack([confidence, accuracy], axis=1))


def test_calibration_curves_of_regressions_are_shares_of_pooled_targets() -> None:
    ax = plot_calibration_curves({"as is": CALIBRATED, "half": {"pred": MEAN, "pred_uct": STD / 2}}, TARGET).axes[0]
    _, as_is, half = ax.lines
    predicted, observed = as_is.get_data()
    for share, ours in zip(predicted[1:-1:10], observed[1:-1:10], strict=True):
        assert ours == np.mean(np.abs(TARGET - MEAN) <= stats.norm.ppf(0.5 + share / 2) * STD)
    assert np.abs(observed - predicted).max() < 1.63 / np.sqrt(2 * N)  # Kolmogorov-Smirnov at 1%
    assert half.get_ydata()[50] < 0.4
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("predicted share in interval", "observed share in interval")


def test_predictions_of_a_method_and_dictionaries_draw_the_same() -> None:
    prediction = Gaussian(noise_std=0.3).gaussian_prediction(torch.rand(30, 1), torch.rand(30, 1), metadata={})
    target = torch.rand(30, 1)
    axes = [plot_predicted_observed(each, target).axes[0] for each in (prediction, prediction.as_dict())]
    ours, theirs = (error_bars(ax, "Inside (±2 std)") for ax in axes)
    np.testing.assert_array_equal(ours[1], theirs[1])


def test_wrong_predictions_are_refused_by_name() -> None:
    with pytest.raises(TypeError, match=r"prediction must be a result of predict .* got ndarray"):
        plot_predicted_observed(MEAN, TARGET)
    with pytest.raises(ValueError, match=r"prediction must have the key 'pred', got \['mean'\]"):
        plot_predicted_observed({"mean": MEAN}, TARGET)
    with pytest.raises(ValueError, match=r"target must have 2000 rows and 2 columns, the shape of pred, got \(2000,\)"):
        plot_predicted_observed(CALIBRATED, TARGET[:, 0])
    with pytest.raises(ValueError, match=r"target_names must have one name for each of the 2 targets, got \['a'\]"):
        plot_predicted_observed(CALIBRATED, TARGET, target_names="a")
    with pytest.raises(ValueError, match="pred_uct must be positive, got 4000 zeros of 4000 values"):
        plot_pit({"pred": MEAN, "pred_uct": 0 * STD}, TARGET)
    with pytest.raises(TypeError, match="predictions must be a dictionary of predictions by name"):
        plot_calibration_curves([CALIBRATED], TARGET)
    with pytest.raises(ValueError, match="predictions must have at least one curve, got none"):
        plot_calibration_curves({}, TARGET)
    with pytest.raises(TypeError, match="prediction must be that of a regression, got one of a classifier"):
        plot_predicted_observed({"pred": MEAN, "probs_var": STD}, TARGET)
