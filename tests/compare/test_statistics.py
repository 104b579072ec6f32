"""Means, standard errors, paired differences and tables, against the standard library and scipy."""

import math
import statistics
from functools import partial

import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from lightning_vi.compare import Comparison
from lightning_vi.compare.adjustments import adjusted
from lightning_vi.compare.describe import describe, differences
from lightning_vi.compare.markdown import format_estimate, markdown_table
from lightning_vi.compare.progress import remaining_seconds
from lightning_vi.compare.statistics import estimate, p_value
from lightning_vi.compare.store import Run
from lightning_vi.errors import InputValueError
from lightning_vi.likelihoods import Gaussian
from lightning_vi.methods import MCDropout

SCORES = {"plain": [1.0, 1.4, 0.9, 1.2], "worse": [1.3, 1.6, 1.3, 1.45], "alike": [1.1, 1.3, 1.0, 1.1]}


def comparison(higher_is_better: bool = False, scores: dict[str, list[float]] = SCORES) -> Comparison:
    runs = [
        Run("", method, seed, [{"test_set": "test", "score": value}], {"score": higher_is_better})
        for method, values in scores.items()
        for seed, value in enumerate(values)
    ]
    return Comparison(runs, reference="plain")


def test_an_estimate_is_that_of_the_standard_library() -> None:
    found = estimate([1.5, math.nan, 2.5, 4.0])
    numbers = [1.5, 2.5, 4.0]
    assert found.mean == pytest.approx(statistics.mean(numbers))
    assert found.standard_error == pytest.approx(statistics.stdev(numbers) / math.sqrt(3))
    assert found.count == 3


@pytest.mark.parametrize("method", ["worse", "alike"])
def test_differences_are_those_of_scipy(method: str) -> None:
    (row,) = (row for _, row in comparison().summary().iterrows() if row["method"] == method)
    oracle = stats.ttest_rel(SCORES[method], SCORES["plain"])
    pairs = [own - reference for own, reference in zip(SCORES[method], SCORES["plain"], strict=True)]
    assert row["p_value"] == pytest.approx(oracle.pvalue)
    assert row["difference"] == pytest.approx(statistics.mean(pairs))
    assert row["difference_se"] == pytest.approx(statistics.stdev(pairs) / 2)
    assert row["worse"] == (oracle.pvalue < 0.05)


def test_the_direction_of_a_score_decides_what_is_worse() -> None:
    lower, higher = (comparison(higher).summary().set_index("method") for higher in (False, True))
    assert lower.loc["worse", "worse"]
    assert not lower.loc["worse", "better"]
    assert higher.loc["worse", "better"]
    assert not higher.loc["worse", "worse"]
    assert not lower.loc["plain", ["worse", "better"]].any()


def test_runs_are_paired_by_their_seed() -> None:
    runs = comparison().runs
    shuffled = Comparison([*runs[::-1]], "plain").summary().set_index("method")["difference"]
    straight = comparison().summary().set_index("method")["difference"]
    pd.testing.assert_series_equal(shuffled[straight.index], straight)


def test_one_run_has_no_standard_error() -> None:
    summary = comparison(scores={name: values[:1] for name, values in SCORES.items()}).summary()
    assert summary["standard_error"].isna().all()
    assert not summary["worse"].any()


@pytest.mark.parametrize(("values", "expected"), [([0.0, 0.0], 1.0), ([1.0, 1.0], 0.0)])
def test_equal_differences_have_a_p_value(values: list[float], expected: float) -> None:
    assert p_value(estimate(values)) == expected


def test_a_table_marks_what_is_worse() -> None:
    lines = comparison().to_markdown(["score"]).splitlines()
    cells = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines if line.startswith("|")}
    assert cells["worse"].endswith("*")
    assert not cells["alike"].endswith("*")
    mean = statistics.mean(SCORES["plain"])
    assert cells["plain"] == f"{mean:.2f} ({statistics.stdev(SCORES['plain']) / 2:.2f})"
    with pytest.raises(InputValueError, match="metrics has 'nlll'"):
        comparison().to_markdown(["nlll"])


def test_a_figure_shows_every_method() -> None:
    runs = [Run(run.data, run.method, run.seed, [{"test_set": "test", "nll": 1.0}]) for run in comparison().runs]
    (figure,) = Comparison(runs, "plain").figures().values()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(SCORES)
    assert figure.axes[0].get_title(loc="left") or figure.axes[0].get_title() == "test"


@pytest.mark.parametrize(
    ("mean", "error", "text"),
    [
        (0.28714, 0.00831, "0.2871 (0.0083)"),
        (123.4, 20.0, "123 (20)"),
        (3.0, math.nan, "3"),
        (-0.5, 0.0, "-0.500"),
        (-0.7311507932, 4.3e-9, "-0.73115 (4e-09)"),
        (123456.7, 0.3, "123457 (0.3)"),
        (0.967063, 0.000024, "0.96706 (0.00002)"),
    ],
)
def test_estimates_are_rounded_by_their_error(mean: float, error: float, text: str) -> None:
    assert format_estimate(mean, error) == text


def test_a_table_has_a_cell_for_each_column() -> None:
    lines = markdown_table(["a", "b", "c"], [["1", "2", "3"]]).splitlines()
    assert [line.count("|") for line in lines] == [4, 4, 4]


def test_the_remaining_time_is_that_of_the_same_method() -> None:
    done = [Run("x", "A", 0, seconds=2.0), Run("y", "A", 0, seconds=4.0), Run("x", "B", 0, seconds=9.0, error="no")]
    assert remaining_seconds(done, [("x", "A"), ("y", "A"), ("z", "A"), ("x", "B")]) == 2 + 4 + 3 + 3
    assert remaining_seconds(done[2:], [("x", "B")]) is None


def test_descriptions_tell_functions_apart() -> None:
    def scaled(factor: float) -> object:
        return lambda x: factor * x

    assert describe(scaled(2.0)) == describe(scaled(2.0))
    assert describe(scaled(2.0)) != describe(scaled(3.0))
    assert describe(partial(max, 1)) != describe(partial(max, 2))
    assert describe(nn.Linear(1, 1)) != describe(nn.Linear(1, 1))
    assert describe(nn.Dropout(0.1)) != describe(nn.Dropout(0.2))
    assert describe(torch.ones(2)) == describe(torch.ones(2))


def test_parts_of_deep_structures_are_described_by_their_class() -> None:
    for value in (nn.Dropout(0.1), partial(max, 1), lambda: 1, Run("x", "A", 0)):
        nested: object = value
        for _ in range(6):
            nested = [nested]
        assert type(value).__name__ in str(describe(nested))


def test_differences_name_what_has_changed() -> None:
    before = {"a": {"b": 1, "c": [1]}, "d": 2}
    assert differences(before, {"a": {"b": 1, "c": [2]}}) == ["a.c: [1], now [2]", "d: 2, now None"]
    assert differences(before, before) == []


def test_a_network_without_dropout_gets_some_behind_its_activations() -> None:
    plain = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
    _, _, options = adjusted(MCDropout, plain, Gaussian(), {})
    assert options == {"dropout_p": 0.1, "dropout_module_names": [nn.Tanh]}
    own = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.3), nn.Linear(4, 1))
    assert adjusted(MCDropout, own, Gaussian(), {})[2] == {}
    assert adjusted(MCDropout, plain, Gaussian(), {"dropout_p": 0.5})[2]["dropout_p"] == 0.5
