"""Bad targets and inputs at every entry point: an error that names them, and a method that is left as it was."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import copy_of_state, quiet_trainer
from method_cases import CASES, DEFAULT, Case, params
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_vi import SplitConformal, TemperatureScaling
from lightning_vi.core import FittedMethod
from lightning_vi.evaluation import selective_prediction
from lightning_vi.methods import Ensemble, UQMethod

each_case = pytest.mark.parametrize("case", params(CASES, default=DEFAULT))


def spoiled(values: Tensor, wrong: float) -> Tensor:
    values = values.clone()
    values.view(-1)[-1] = wrong
    return values


def bad_batches(case: Case) -> Iterator[tuple[str, Tensor, Tensor, str]]:
    x, y = case.problem.data()
    for wrong in (torch.nan, torch.inf):
        yield f"input {wrong}", spoiled(x, wrong), y, "inputs have NaN or infinite values"
    if not case.problem.is_regression:
        is_multi_label = case.problem_name == "multi-label"
        classes = 2 if is_multi_label else case.problem.likelihood().num_predictions
        message = "labels must be 0 or 1" if is_multi_label else f"labels must lie between 0 and {classes - 1}"
        for label in (classes, -1, 255):
            yield f"label {label}", x, spoiled(y, label), message
        return
    for wrong in (torch.nan, torch.inf, -torch.inf):
        yield f"target {wrong}", x, spoiled(y, wrong), "targets have NaN or infinite values"
    if case.problem.likelihood().support == "counts":
        for count in (-1.0, 2.5):
            yield f"count {count}", x, spoiled(y, count), r"needs counts 0, 1, 2, \.\.\., got"


def loaded(x: Tensor, y: Tensor) -> DataLoader[Any]:
    return DataLoader([(x, y)], batch_size=None)  # type: ignore[arg-type]


def entry_points(method: UQMethod) -> dict[str, Callable[[Tensor, Tensor], object]]:
    entries: dict[str, Callable[[Tensor, Tensor], object]] = {
        "validate": lambda x, y: quiet_trainer().validate(method, loaded(x, y), verbose=False),
        "test": lambda x, y: quiet_trainer().test(method, loaded(x, y), verbose=False),
        "ensemble": lambda x, y: quiet_trainer().test(Ensemble([method]), loaded(x, y), verbose=False),
        "elbo": lambda x, y: method.elbo(x, y, num_data=len(y)),
    }
    if isinstance(method, FittedMethod) and hasattr(method, "curvature"):
        entries["fit_posterior"] = lambda x, y: method.fit_posterior([(x, y)])
    return entries


@each_case
def test_bad_values_are_refused_at_every_entry_point(case: Case, tally: Callable[..., None]) -> None:
    method = case.build()
    state = copy_of_state(method)
    tried = 0
    for _, x, y, message in bad_batches(case):
        for entry in entry_points(method).values():
            with pytest.raises(ValueError, match=message):
                entry(x, y)
            tried += 1
    after = copy_of_state(method)
    assert all(torch.equal(value, after[name]) for name, value in state.items())
    tally("bad targets", case.method_name, tried=tried, right=tried)


@pytest.mark.parametrize("problem", ["categorical", "Gaussian, learned"])
def test_bad_targets_are_refused_by_calibrations_and_evaluation(problem: str, tally: Callable[..., None]) -> None:
    case = Case("MeanFieldVI", problem)
    method, tried = case.build(), 0
    for name, x, y, message in bad_batches(case):
        if name.startswith("input"):
            continue
        calibrated = (SplitConformal if case.problem.is_regression else TemperatureScaling)(method)
        with pytest.raises(ValueError, match=message):
            calibrated.calibrate([(x, y)])
        assert not calibrated.is_calibrated
        with pytest.raises(ValueError, match=message):
            selective_prediction(method, [(x, y)])
        tried += 2
    tally("bad targets", "calibrations and evaluation", tried=tried, right=tried)


def test_an_interrupted_test_leaves_no_scores_behind() -> None:
    case = Case("Deterministic", "Gaussian, learned")
    method, (x, y) = case.build(), case.problem.data()
    expected = quiet_trainer().test(method, loaded(x, y), verbose=False)
    batches = DataLoader([(x, y + 9.0), (x, spoiled(y, torch.nan))], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"targets have NaN .*Gaussian\(missing='ignore'\) ignores NaN"):
        quiet_trainer().test(method, batches, verbose=False)
    assert quiet_trainer().test(method, loaded(x, y), verbose=False) == expected
