"""Calibration, ensembles and evaluation take every method."""

from functools import partial
from typing import Any

import pytest
import torch
from helpers import copy_of_state, loader, metric_inputs, quiet_trainer, same_state
from method_cases import METHODS, Case
from torch.testing import assert_close

from lightning_vi import (
    AdaptivePredictionSets,
    ConformalQuantileRegression,
    Ensemble,
    SplitConformal,
    TemperatureScaling,
    VarianceScaling,
)
from lightning_vi.evaluation import ood_detection, selective_prediction
from lightning_vi.methods import CalibratedMethod

ON_REGRESSION = ["Gaussian, learned", "heteroscedastic", "quantiles"]
WRAPPERS: dict[str, list[Any]] = {
    "regression": [
        VarianceScaling,
        partial(SplitConformal, coverage=0.7),
        partial(ConformalQuantileRegression, coverage=0.7),
    ],
    "classification": [TemperatureScaling, partial(AdaptivePredictionSets, coverage=0.7)],
}


def first_case(method: str, candidates: list[str]) -> list[Case]:
    """The method on the first of some problems that it takes, if there is one."""
    return [Case(method, name) for name in candidates if name in METHODS[method].problems][:1]


CASES = [case for method in METHODS for names in (ON_REGRESSION, ["categorical"]) for case in first_case(method, names)]
each_case = pytest.mark.parametrize("case", CASES, ids=str)


@each_case
def test_every_method_can_be_calibrated(case: Case) -> None:
    """Each calibration has its own oracle; its predictions can be scored and evaluated."""
    method, (x, y) = case.build(), case.problem.data()
    state = copy_of_state(method)
    own = method.predict(x)
    for wrapper in WRAPPERS["regression" if case.problem.is_regression else "classification"]:
        calibrated: CalibratedMethod = wrapper(method)
        calibrated.calibrate(loader(x, y, batch_size=5))
        prediction = calibrated.predict(x)
        if isinstance(calibrated, VarianceScaling):
            assert_close(prediction.total_var, own.total_var * calibrated.std_factor.square())
            residual = (y - own.mean).square() / own.total_var
            assert_close(calibrated.std_factor.square(), residual.flatten(0, -2).mean(0), rtol=1e-3, atol=1e-5)
        elif isinstance(calibrated, TemperatureScaling):
            tempered = own.mean.log().div(calibrated.temperature).softmax(1)
            assert_close(prediction.mean, tempered, rtol=1e-3, atol=1e-5)
        elif prediction.pred_set is not None:
            assert prediction.pred_set.gather(1, y.unsqueeze(1)).float().mean() >= 0.7
        else:
            assert prediction.lower is not None
            assert prediction.upper is not None
            inside = (prediction.lower <= y) & (y <= prediction.upper)
            assert (inside.float().mean(0) >= 0.7).all()
        (scores,) = quiet_trainer().test(calibrated, loader(x, y, batch_size=5), verbose=False)
        assert all(torch.tensor(value).isfinite() for value in scores.values())
        assert selective_prediction(calibrated, [(x, y)]).aurc >= 0
        assert 0 <= ood_detection(calibrated, [x], [10 * x]).auroc <= 1
    assert same_state(copy_of_state(method), state)


@pytest.mark.parametrize("problem", ["Gaussian, learned", "heteroscedastic", "categorical"])
def test_all_methods_make_one_ensemble(problem: str) -> None:
    cases = [case for case in CASES if case.problem_name == problem and case.method_name != "LatentVariableVI"]
    methods = [case.build() for case in cases]
    x, y = cases[0].problem.data()
    wrapper = WRAPPERS["regression" if cases[0].problem.is_regression else "classification"][0](methods[0])
    wrapper.calibrate([(x, y)])
    ensemble = Ensemble([*methods, wrapper]).eval()
    prediction = ensemble.predict(x)
    means = torch.stack([member.predict(x).mean for member in ensemble.members])
    assert_close(prediction.mean, means.mean(0), rtol=1e-4, atol=1e-5)
    (scores,) = quiet_trainer().test(ensemble, loader(x, y, batch_size=5), verbose=False)
    densities = [metric_inputs(member, x, y)["log_prob"].exp().mean(0) for member in ensemble.members]
    assert scores["test_nll"] == pytest.approx(-torch.stack(densities).mean(0).log().mean().item(), rel=1e-3)
