"""The contract of every method on every likelihood: the shipped checks, and facts of each method."""

import functools

import pytest
import torch
from helpers import copy_of_state, same_state
from method_cases import CASES, DEFAULT, METHODS, PROBLEMS, TEST, Case, each_case
from torch import Tensor
from torch.testing import assert_close

from lightning_vi.methods import UQMethod
from lightning_vi.testing import Check, check_method, checks


@functools.lru_cache(maxsize=4)
def built(case: Case) -> tuple[UQMethod, Tensor, Tensor]:
    """The method, an input and a target, for tests that change nothing."""
    return case.build(), *case.problem.data()


@pytest.mark.parametrize("check", checks(), ids=lambda check: check.__name__)
@pytest.mark.parametrize("case", DEFAULT, ids=str)
def test_every_method_passes_each_shipped_check(case: Case, check: Check) -> None:
    check(*built(case))


@pytest.mark.thorough
@pytest.mark.parametrize("case", [case for case in CASES if case not in DEFAULT], ids=str)
def test_the_other_cases_pass_all_shipped_checks(case: Case) -> None:
    check_method(*built(case))


def test_the_default_cases_have_every_method_and_every_problem() -> None:
    assert {case.method_name for case in DEFAULT} == set(METHODS)
    assert {case.problem_name for case in DEFAULT} == set(PROBLEMS)
    assert 2 * len(METHODS) <= len(DEFAULT) <= 3 * len(METHODS)
    assert set(CASES) > set(DEFAULT)


@each_case
def test_keys_and_epistemic_uncertainty_are_those_of_the_method(case: Case) -> None:
    method, x, _ = built(case)
    result = method.predict_step(x)
    own = {"pred", "pred_uct", "epistemic_uct", "aleatoric_uct"} | case.method.additional_keys
    own |= set() if case.problem.is_regression else {"probs_var"}
    assert set(result) == own | ({"expected_class"} if case.problem.likelihood().is_ordered else set())
    assert (result["epistemic_uct"] > 0).all() == (not case.is_point)
    assert (result["aleatoric_uct"] > 0).all()


@each_case
def test_a_method_in_float64_has_the_same_uncertainties(case: Case) -> None:
    method, (x, _) = case.build(torch.float64), case.problem.data(torch.float64)
    result = method.predict_step(x)
    assert all(value.dtype == torch.float64 and value.isfinite().all() for value in result.values())
    assert (result["epistemic_uct"] > 0).all() == (not case.is_point)


@each_case
def test_one_sample_has_no_epistemic_uncertainty_and_an_ensemble_has_no_more_samples_than_members(case: Case) -> None:
    method, x, _ = built(case)
    prediction = method.predict(x, num_samples=9, seed=4, return_samples=True)
    assert prediction.samples is not None
    assert len(prediction.samples) == min(9, case.method.num_functions)
    one = method.predict(x, num_samples=1)
    if not case.is_exact:
        assert (one.as_dict()["epistemic_uct"] == 0).all()


@each_case
def test_another_seed_gives_other_functions(case: Case) -> None:
    method, x, _ = built(case)
    first, other = method.predict(x, seed=1), method.predict(x, seed=2)
    assert torch.equal(first.epistemic_var, other.epistemic_var) == (not case.is_stochastic)
    if case.is_stochastic:
        assert first.metadata["seed"] == 1
        assert first.metadata["num_samples"] == TEST


@each_case
def test_the_loss_is_the_negative_elbo_where_the_method_has_one(case: Case) -> None:
    method, (x, target) = case.build(), case.problem.data()
    loss, nll, kl = method.elbo(x, target, num_data=50)
    assert (kl > 0) == case.method.has_kl
    if case.method.loss_is_elbo:
        assert_close(loss, nll + kl / 50)


@each_case
def test_every_parameter_has_a_gradient(case: Case) -> None:
    method, (x, target) = case.build(), case.problem.data()
    method.elbo(x, target, num_data=50).loss.backward()
    for name, parameter in method.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@each_case
def test_the_callers_backbone_and_likelihood_stay_untouched(case: Case) -> None:
    backbone, likelihood = case.backbone(), case.problem.likelihood()
    before = copy_of_state(backbone) | copy_of_state(likelihood)
    method = case.method.make(backbone, likelihood)
    x, target = case.problem.data()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    method.elbo(x, target, num_data=50).loss.backward()
    optimizer.step()
    assert same_state(copy_of_state(backbone) | copy_of_state(likelihood), before)
    assert all(parameter.grad is None for parameter in backbone.parameters())


@each_case
def test_forward_is_one_pass_without_sampling(case: Case) -> None:
    method, (x, _) = case.build().eval(), case.problem.data()
    assert torch.equal(method(x), method.point_outputs(x))
