"""Every method on every problem can be evaluated."""

import math

import pytest
import torch
from method_cases import ROWS, Case, each_case, global_states, modes

from lightning_vi.evaluation import ood_detection, selective_prediction


@each_case
def test_selective_prediction_and_ood_detection_take_any_method(case: Case) -> None:
    x, y = case.problem.data()
    method = case.build()
    before = [global_states(), modes(method)]
    result = selective_prediction(method, [(x, y)], score="epistemic_uct")
    detection = ood_detection(method, [x], [10 * x])
    assert [global_states(), modes(method)] == before
    assert result.risk.shape == result.uncertainty.shape == detection.scores_out.shape == (ROWS,)
    assert math.isfinite(result.aurc)
    assert 0 <= result.excess_aurc <= result.aurc
    assert 0 <= detection.auroc <= 1
    if case.is_point:
        torch.testing.assert_close(result.risk, result.loss.double().mean().expand(ROWS))
        assert ood_detection(method, [x], [10 * x], score="epistemic_uct").auroc == pytest.approx(0.5)
