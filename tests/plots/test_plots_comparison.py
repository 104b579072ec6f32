"""Means, standard errors and paired differences of a comparison against scipy."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from scipy import stats

from lightning_vi.plots import plot_method_comparison

RNG = np.random.default_rng(0)
TABLE = pd.DataFrame(
    [
        {"method": name, "dataset": data, "seed": seed, "nll": RNG.normal(), "rmse": RNG.normal(), "note": "x"}
        for seed in range(5)
        for data in ("boston", "yacht")
        for name in ("SWAG", "VBLL", "IVON")
    ]
).sample(frac=1, random_state=1)
METHODS = list(dict.fromkeys(TABLE["method"]))


def dots(ax: Axes) -> dict[str, tuple[float, float]]:
    """Returns the mean and half the length of the error bar of each method."""
    found = {}
    names = [METHODS, [name for name in METHODS if name != "SWAG"]]
    for container in ax.containers:
        (x,), (y,) = container.lines[0].get_data()
        ((low, _), (high, _)) = container.lines[2][0].get_segments()[0]
        names_of_rows = names[len(ax.get_yticks()) < len(METHODS)]
        found[names_of_rows[round(y)]] = (x, (high - low) / 2)
    return found


def test_dots_are_means_with_standard_errors_for_each_data_set_and_metric() -> None:
    figure = plot_method_comparison(TABLE, labels={"nll": "NLL [nats]"})
    axes = iter(figure.axes)
    assert [figure.axes[0].get_xlabel(), figure.axes[1].get_xlabel()] == ["NLL [nats]", "rmse"]
    for data in dict.fromkeys(TABLE["dataset"]):
        for metric in ("nll", "rmse"):
            ax = next(axes)
            for name, (mean, error) in dots(ax).items():
                values = TABLE.loc[(TABLE["method"] == name) & (TABLE["dataset"] == data), metric]
                assert mean == pytest.approx(values.mean())
                assert error == pytest.approx(stats.sem(values))
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == METHODS


def test_differences_are_paired_by_seed() -> None:
    table = TABLE[~((TABLE["method"] == "VBLL") & (TABLE["seed"] == 3))]
    ax, _ = plot_method_comparison(table, "nll", baseline="SWAG").axes
    data = table[table["dataset"] == next(iter(table["dataset"]))]
    for name, (mean, error) in dots(ax).items():
        runs = [data[data["method"] == method].set_index("seed")["nll"] for method in (name, "SWAG")]
        difference = (runs[0] - runs[1]).dropna()
        assert len(difference) == (4 if name == "VBLL" else 5)
        assert mean == pytest.approx(difference.mean())
        assert error == pytest.approx(stats.sem(difference))
        assert error != pytest.approx(np.hypot(*[stats.sem(run) for run in runs]), rel=1e-3)


def test_one_run_has_no_error_and_missing_scores_are_left_out() -> None:
    table = pd.DataFrame({"method": ["A", "B", "C"], "nll": [1.0, np.nan, 2.0]})
    figure = plot_method_comparison(table)
    (ax,) = figure.axes
    assert len(ax.containers) == 2
    assert figure._repr_png_()
    one = plot_method_comparison(table[:1])
    assert one._repr_png_()


def test_tables_without_what_is_needed_are_refused() -> None:
    with pytest.raises(TypeError, match="table must be a pandas DataFrame, got dict"):
        plot_method_comparison({"method": ["A"]})
    with pytest.raises(ValueError, match=r"table must have the column 'method', got \['a'\]"):
        plot_method_comparison(pd.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match="table must have at least one row, got none"):
        plot_method_comparison(TABLE[:0])
    with pytest.raises(ValueError, match=r"metrics must be columns of numbers, \['nll', 'rmse'\], got \['note'\]"):
        plot_method_comparison(TABLE, ["nll", "note"])
    with pytest.raises(ValueError, match=r"baseline must be one of the methods .* got 'X'"):
        plot_method_comparison(TABLE, baseline="X")
    with pytest.raises(ValueError, match="baseline 'SWAG' must have one run for each seed and data set"):
        plot_method_comparison(pd.concat([TABLE, TABLE]), baseline="SWAG")


def test_an_axis_has_few_numbers_which_may_be_long() -> None:
    names = ["Deterministic + VarianceScaling", *"ABCDEFG"]
    table = pd.DataFrame({"method": names, "seed": 0, "crps": np.linspace(0.19033, 0.20285, 8)})
    (ax,) = plot_method_comparison(table).axes
    lowest, highest = ax.get_xlim()
    assert 2 <= sum(lowest <= place <= highest for place in ax.get_xticks()) <= 5
