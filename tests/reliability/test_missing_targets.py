"""Missing targets and weights: every method, against the same data without the rows, or with rows repeated."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import loader, quiet_trainer
from method_cases import CASES, DEFAULT, Case, params
from torch import Tensor
from torch.testing import assert_close

from lightning_vi import IVON, AlphaDivergenceVI, Laplace, LatentVariableVI
from lightning_vi.likelihoods import Bernoulli, Categorical, Likelihood, Ordinal, RegressionLikelihood
from lightning_vi.methods import UQMethod

IGNORED = 255
STACKED = ("DeepEnsemble", "SGHMC")
"""Methods with a likelihood for each network."""
# The divergence of FunctionSpaceVI is that at the inputs of all rows, with and without targets.
COUNTED = [case for case in CASES if case.method_name != "FunctionSpaceVI"]
each_case = pytest.mark.parametrize("case", params(COUNTED, default=DEFAULT))


def forgiving(method: UQMethod) -> UQMethod:
    """The method with likelihoods that ignore missing targets, and in evaluation mode."""
    for module in method.modules():
        if isinstance(module, RegressionLikelihood):
            module.missing = "ignore"
        elif isinstance(module, Categorical | Bernoulli | Ordinal):
            module.ignore_index = IGNORED
    return method.eval()


def without_noise(method: UQMethod) -> UQMethod:
    """Posterior stds near zero, so that outputs of a row do not depend on the rows beside it."""
    for name, parameter in method.named_parameters():
        if name.endswith("_rho") and "likelihood" not in name:
            parameter.data.fill_(-30.0)
    if isinstance(method, LatentVariableVI):
        method.latent_std = 1e-9
    if isinstance(method, AlphaDivergenceVI):
        method.kl_weight = 0.0  # each datum has a share of the divergence
    return method


def built(case: Case) -> UQMethod:
    return without_noise(forgiving(case.build(torch.float64)))


def missing(target: Tensor) -> Any:
    return torch.nan if target.is_floating_point() else IGNORED


def with_missing_rows(target: Tensor, rows: list[int]) -> Tensor:
    target = target.clone()
    target[rows] = missing(target)
    return target


def total(method: UQMethod, x: Tensor, y: Tensor, weight: Tensor | None = None, *, burnin: bool = False) -> Any:
    """The objective summed over rows, and its gradients. The KL divergence has the same share in all data sets."""
    method = copy.deepcopy(method)
    if burnin:
        loss = method.likelihood.point_loss(
            method.point_outputs(x).unsqueeze(0), y, method.likelihood.element_weights(y, weight)
        )
    else:
        terms = method.elbo(x, y, weight, num_data=12 if isinstance(method, AlphaDivergenceVI) else len(y))
        loss = terms.nll if isinstance(method, IVON) else terms.loss  # its prior depends on N
    loss = loss * len(y)
    if loss.requires_grad:
        loss.backward()
    return loss.detach(), [p.grad for p in method.parameters() if p.grad is not None]


def assert_same(found: Any, expected: Any) -> None:
    assert_close(found[0], expected[0], rtol=1e-6, atol=1e-8)
    for own, other in zip(found[1], expected[1], strict=True):
        assert_close(own, other, rtol=1e-5, atol=1e-7)


@each_case
def test_rows_without_targets_count_like_rows_that_are_not_there(case: Case, tally: Callable[..., None]) -> None:
    method, (x, y) = built(case), case.problem.data(torch.float64)
    rows = [1, 4, 11]
    kept = [row for row in range(len(y)) if row not in rows]
    gone = with_missing_rows(y, rows)
    for burnin in (False,) if case.method_name in STACKED else (False, True):
        assert_same(total(method, x, gone, burnin=burnin), total(method, x[kept], y[kept], burnin=burnin))
    if isinstance(method, Laplace):
        fitted = [copy.deepcopy(method), copy.deepcopy(method)]
        fitted[0].fit_posterior([(x[:6], gone[:6]), (x[6:], gone[6:])])
        fitted[1].fit_posterior([(x[kept], y[kept])])
        method = fitted[0]
        assert_same_posterior(*fitted, x)
    method = method.float()
    scores = [
        dict(quiet_trainer().test(method, loader(part.float(), target, batch_size=5), verbose=False)[0])
        for part, target in ((x, as_float(gone)), (x[kept], as_float(y[kept])))
    ]
    assert scores[0] == pytest.approx(scores[1], rel=1e-4, abs=1e-5, nan_ok=True)
    tally("missing targets", case.method_name, tried=3, right=3)


def as_float(target: Tensor) -> Tensor:
    return target.float() if target.is_floating_point() else target


def assert_same_posterior(first: Laplace, second: Laplace, x: Tensor) -> None:
    """Samples are not compared: the basis of a repeated eigenvalue is arbitrary."""
    assert_close(first.prior_precision, second.prior_precision, rtol=1e-5, atol=0.0)
    assert_close(first.log_likelihood, second.log_likelihood, rtol=1e-6, atol=1e-6)
    assert_close(first.output_moments(x)[1], second.output_moments(x)[1], rtol=1e-5, atol=1e-7)


@each_case
def test_a_weight_counts_like_rows_that_are_repeated(case: Case, tally: Callable[..., None]) -> None:
    method, (x, y) = built(case), case.problem.data(torch.float64)
    weight = torch.tensor([1.0, 2, 0, 1, 3, 1, 1, 0, 2, 1, 1, 1], dtype=torch.float64)
    rows = torch.arange(len(y)).repeat_interleave(weight.long())
    for burnin in (False,) if case.method_name in STACKED else (False, True):
        assert_same(total(method, x, y, weight, burnin=burnin), total(method, x[rows], y[rows], burnin=burnin))
    if isinstance(method, Laplace):
        fitted = [copy.deepcopy(method), copy.deepcopy(method)]
        fitted[0].fit_posterior([{"input": x, "target": y, "weight": weight}])
        fitted[1].fit_posterior([(x[rows], y[rows])])
        assert_same_posterior(*fitted, x)
    tally("weights", case.method_name, tried=2, right=2)


@each_case
def test_single_missing_elements_leave_no_trace(case: Case, tally: Callable[..., None]) -> None:
    """Whatever the value of a missing element was: objective and gradients are finite and those of the others."""
    method, (x, y) = built(case), case.problem.data(torch.float64)
    gone = torch.rand(y.shape) < 0.3
    partial = torch.where(gone, torch.full_like(y, missing(y)), y)
    outputs, terms = method.objective(x, partial, num_data=12, kl_weight=1.0)
    gradients = total(method, x, partial)[1]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)
    if case.method_name not in STACKED:
        elements = method.likelihood.elementwise_log_prob(outputs, y)
        expected = -(elements * ~gone).sum() / len(elements) / len(y)
        if case.method_name.startswith("VBLL"):
            variance = method.output_moments(x)[1].square()  # type: ignore[index, attr-defined]
            expected_elements = method.likelihood.elementwise_expected_log_prob(outputs[0], variance, y)
            expected = -(expected_elements * ~gone).sum() / len(y)
        assert_close(terms.nll, expected, rtol=1e-6, atol=1e-8)
    tally("missing targets", case.method_name, tried=1, right=1)


def test_likelihoods_without_the_option_do_not_mask() -> None:
    for case in DEFAULT:
        likelihood: Likelihood = case.problem.likelihood()
        target = case.problem.data()[1]
        assert likelihood.observed(target) is None
        assert likelihood.fill(target) is target
        assert likelihood.element_weights(target) is None
