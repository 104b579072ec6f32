"""Plots of shifted data and of detection: means, standard errors and refusals."""

import numpy as np
import pandas as pd
import pytest

from lightning_vi.errors import InputTypeError, InputValueError
from lightning_vi.plots import plot_detection, plot_shift

RNG = np.random.default_rng(0)
METHODS = [f"method {index}" for index in range(9)]
SHIFTED = pd.DataFrame(
    [
        {
            "method": method,
            "seed": seed,
            "shift": shift,
            "severity": level,
            "nll": 5 * RNG.random(),
            "ece": RNG.random(),
        }
        for method in METHODS
        for seed in range(3)
        for shift in ("rotation", "gaussian_blur")
        for level in (0, 2, 5)
    ]
)
DETECTED = pd.DataFrame(
    [
        {"method": method, "seed": seed, "test_set": name, "score": score, "auroc": RNG.random()}
        for method in METHODS[:3]
        for seed in range(3)
        for name in ("letters", "clothes")
        for score in ("energy", "nearest_neighbors")
    ]
)


def test_lines_are_means_with_standard_errors() -> None:
    figure = plot_shift(SHIFTED, "nll", label="NLL [nats]")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["rotation", "gaussian blur"]
    for ax, shift in zip(figure.axes, ("rotation", "gaussian_blur"), strict=True):
        assert ax.get_ylabel() == "NLL [nats]"
        for container, method in zip(ax.containers, METHODS, strict=True):
            own = SHIFTED[(SHIFTED["method"] == method) & (SHIFTED["shift"] == shift)].groupby("severity")["nll"]
            x, y = container.lines[0].get_data()
            np.testing.assert_array_equal(x, [0, 2, 5])
            np.testing.assert_allclose(y, own.mean())
            heights = [segment[1, 1] - segment[0, 1] for segment in container.lines[2][0].get_segments()]
            np.testing.assert_allclose(heights, 2 * own.sem())
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == METHODS


def test_lines_beyond_the_palette_look_different() -> None:
    lines = [container.lines[0] for container in plot_shift(SHIFTED, "ece").axes[0].containers]
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in lines}
    assert len(looks) == len(METHODS)


def test_scores_between_0_and_1_share_their_axis() -> None:
    assert len({ax.get_ylim() for ax in plot_shift(SHIFTED, "ece").axes}) == 1
    assert len({ax.get_ylim() for ax in plot_shift(SHIFTED, "nll").axes}) == 2


def test_dots_are_means_of_each_score_and_method() -> None:
    figure = plot_detection(DETECTED)
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["letters", "clothes"]
    for ax in figure.axes:
        for container, score in zip(ax.containers, ("energy", "nearest_neighbors"), strict=True):
            own = DETECTED[(DETECTED["test_set"] == ax.get_title(loc="left")) & (DETECTED["score"] == score)]
            x, y = container.lines[0].get_data()
            np.testing.assert_allclose(x, own.groupby("method")["auroc"].mean())
            assert np.round(y).tolist() == [0, 1, 2]


def test_wrong_tables_are_refused() -> None:
    with pytest.raises(InputTypeError, match="table must be a pandas DataFrame, got list"):
        plot_shift([], "nll")  # type: ignore[arg-type]
    with pytest.raises(InputValueError, match="table must have the column 'severity'"):
        plot_shift(SHIFTED.drop(columns="severity"), "nll")
    with pytest.raises(InputValueError, match="table must have the column 'aupr'"):
        plot_detection(DETECTED, "aupr")
    with pytest.raises(InputValueError, match="at least one row, got none"):
        plot_detection(DETECTED.iloc[:0])
