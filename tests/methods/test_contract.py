"""What every method promises, on every likelihood."""

import copy
import pickle

import pytest
import torch
from helpers import copy_of_state, same_state
from method_cases import (
    METHODS,
    ROWS,
    TEST,
    Case,
    each_case,
    fail_in_forward,
    global_states,
    modes,
    weights_of_predictions,
)
from torch import Tensor
from torch.testing import assert_close

REGRESSION = {"pred", "pred_uct", "epistemic_uct", "aleatoric_uct"}


def identities(case: Case, result: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    """Keys, shapes and the sums of section 3 of the contract."""
    _, target = case.problem.data()
    keys = REGRESSION if case.problem.is_regression else REGRESSION | {"probs_var"}
    assert set(result) == keys | case.additions
    assert all(value.isfinite().all() for value in result.values())
    pred, total, epistemic, aleatoric = (result[k] for k in ("pred", "pred_uct", "epistemic_uct", "aleatoric_uct"))
    assert total.shape == epistemic.shape == aleatoric.shape == target.shape
    assert (epistemic >= 0).all()
    if case.problem.is_regression:
        assert pred.shape == target.shape
        assert (aleatoric > 0).all()
        assert_close(total.square(), epistemic.square() + aleatoric.square(), rtol=1e-5, atol=tolerance)
        return
    assert pred.shape == (ROWS, pred.shape[1], *target.shape[1:])
    assert_close(pred.sum(1), torch.ones_like(total))
    assert_close(total, epistemic + aleatoric, rtol=1e-5, atol=tolerance)
    assert_close(total, torch.special.entr(pred).sum(1), rtol=1e-4, atol=1e-5)
    assert result["probs_var"].shape == pred.shape
    assert (result["probs_var"] >= 0).all()


@each_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_shapes_identities_and_types(case: Case, dtype: torch.dtype) -> None:
    method = case.build(dtype)
    x, target = case.problem.data(dtype)
    result = method.predict_step(x)
    identities(case, result)
    assert all(value.dtype == dtype and value.device == x.device for value in result.values())
    assert not any(value.requires_grad for value in result.values())
    assert (result["epistemic_uct"] > 0).all() == (not case.is_point)
    for batch in ((x, target), [x, target], {"input": x, "target": target}, {"input": x}, [x]):
        assert all(torch.equal(value, result[key]) for key, value in method.predict_step(batch).items())


@each_case
def test_one_sample_has_no_epistemic_uncertainty_and_no_nan(case: Case) -> None:
    method, (x, _) = case.build(), case.problem.data()
    result = method.predict(x, num_samples=1).as_dict()
    identities(case, result)
    if not case.is_exact:
        assert (result["epistemic_uct"] == 0).all()


@each_case
def test_samples_have_the_moments_that_are_returned(case: Case) -> None:
    method, (x, _) = case.build(), case.problem.data()
    prediction = method.predict(x, num_samples=9, seed=4, return_samples=True)
    samples = prediction.samples
    assert samples is not None
    assert samples.shape == (min(9, case.num_functions), *prediction.mean.shape)
    assert_close(samples.mean(0), prediction.mean)
    assert_close(samples.var(0, correction=0), prediction.epistemic_var, rtol=1e-4, atol=1e-6)
    assert_close(prediction.as_dict()["samples"], samples)
    assert method.predict(x).samples is None


@each_case
def test_the_typed_result_and_the_dictionary_agree(case: Case) -> None:
    method, (x, _) = case.build(), case.problem.data()
    prediction, dictionary = method.predict(x), method.predict_step(x)
    assert_close(dictionary["pred"], prediction.mean)
    assert_close(prediction.total_var, prediction.epistemic_var + prediction.aleatoric_var)
    if case.problem.is_regression:
        assert prediction.probs is None
        assert_close(dictionary["epistemic_uct"].square(), prediction.epistemic_var)
        assert_close(dictionary["aleatoric_uct"].square(), prediction.aleatoric_var)
    else:
        assert prediction.probs is not None
        assert_close(dictionary["probs_var"], prediction.probs_var)
        assert_close(prediction.total_var, prediction.probs * (1 - prediction.probs), rtol=1e-4, atol=1e-6)
    assert prediction.metadata["method"] == case.method_name.split(",")[0]


@each_case
def test_a_seed_names_functions(case: Case) -> None:
    """They are the same in every call and on every split of the rows; another seed names others."""
    method, (x, _) = case.build().eval(), case.problem.data()
    first = method.predict(x, seed=1)
    method.elbo(*case.problem.data(), num_data=5)
    torch.manual_seed(5)
    again = method.predict(x, seed=1)
    assert torch.equal(first.mean, again.mean)
    assert torch.equal(first.epistemic_var, again.epistemic_var)
    parts = [method.predict(part, seed=1).as_dict() for part in x.split([5, 4, 3])]
    for key, value in first.as_dict().items():
        assert_close(torch.cat([part[key] for part in parts]), value, rtol=1e-4, atol=1e-5)
    assert torch.equal(method.predict(x).mean, method.predict(x).mean)
    if case.is_stochastic:
        other = method.predict(x, seed=2)
        assert not torch.allclose(first.epistemic_var, other.epistemic_var, atol=0.0)
        assert first.metadata["seed"] == 1
        assert first.metadata["num_samples"] == TEST


@each_case
def test_more_samples_refine_the_same_functions(case: Case) -> None:
    method, (x, _) = case.build(), case.problem.data()
    few = method.predict(x, num_samples=3, seed=1, return_samples=True).samples
    many = method.predict(x, num_samples=8, seed=1, return_samples=True).samples
    assert_close(few, many[:3])


@each_case
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_predict_leaves_everything_as_it_was(case: Case, fails: bool) -> None:
    method, (x, _) = case.build(), case.problem.data()
    next(method.backbone.children()).eval()
    method.likelihood.eval()
    state, mode, random_states = copy_of_state(method), modes(method), global_states()
    if fails:
        fail_in_forward(method)
        with pytest.raises(RuntimeError, match="out of luck"):
            method.predict(x)
        with pytest.raises(RuntimeError, match="out of luck"):
            method.predict_step(x)
    else:
        method.predict(x)
        method.predict(x, num_samples=2, seed=3, return_samples=True)
        method.predict_step(x)
    assert global_states() == random_states
    assert modes(method) == mode
    assert same_state(copy_of_state(method), state)


@each_case
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_elbo_leaves_everything_as_it_was(case: Case, fails: bool) -> None:
    method, (x, target) = case.build(), case.problem.data()
    next(method.backbone.children()).eval()
    mode, random_states = modes(method), global_states()
    weights = {name: value.detach().clone() for name, value in method.named_parameters()}
    if fails:
        fail_in_forward(method)
        with pytest.raises(RuntimeError, match="out of luck"):
            method.elbo(x, target, num_data=50)
    else:
        method.elbo(x, target, num_data=50)
    assert global_states() == random_states
    assert modes(method) == mode
    assert same_state({name: value.detach() for name, value in method.named_parameters()}, weights)


@each_case
def test_elbo_is_per_datum_and_differentiable(case: Case) -> None:
    method, (x, target) = case.build(), case.problem.data()
    loss, nll, kl = method.elbo(x, target, num_data=50)
    assert loss.shape == nll.shape == kl.shape == ()
    if case.has_elbo:
        assert_close(loss, nll + kl / 50)
    assert (kl > 0) == case.has_kl
    loss.backward()
    for name, parameter in method.backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@each_case
def test_the_callers_backbone_and_likelihood_stay_untouched(case: Case) -> None:
    backbone, likelihood = case.backbone(), case.problem.likelihood()
    before = copy_of_state(backbone) | copy_of_state(likelihood)
    method = METHODS[case.method_name](backbone, likelihood)
    x, target = case.problem.data()
    optimizer = torch.optim.SGD(method.parameters(), lr=1.0)
    method.elbo(x, target, num_data=50).loss.backward()
    optimizer.step()
    assert same_state(copy_of_state(backbone) | copy_of_state(likelihood), before)
    assert all(parameter.grad is None for parameter in backbone.parameters())


@each_case
def test_a_method_can_be_copied_and_pickled(case: Case) -> None:
    method, (x, target) = case.build(), case.problem.data()
    expected = method.predict(x)
    for twin in (copy.deepcopy(method), pickle.loads(pickle.dumps(method))):
        assert_close(twin.predict(x).mean, expected.mean)
        assert_close(twin.predict(x).total_var, expected.total_var)
        with torch.no_grad():
            for weight in weights_of_predictions(twin):
                weight.add_(0.5)
        assert not torch.allclose(twin.predict(x).mean, expected.mean)
        twin.elbo(x, target, num_data=50).loss.backward()
    assert_close(method.predict(x).mean, expected.mean)
    assert all(parameter.grad is None for parameter in method.parameters())


@each_case
def test_forward_is_one_pass_without_sampling(case: Case) -> None:
    method, (x, _) = case.build().eval(), case.problem.data()
    assert torch.equal(method(x), method(x))
    assert torch.equal(method(x), method.point_outputs(x))
