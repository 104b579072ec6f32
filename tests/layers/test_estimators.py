"""Means, variances and gradients of the estimators against exact values."""

import pytest
import torch
from layer_cases import CASES, Case, each_case, each_estimator, exact_law
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import functional_call

from lightning_vi.layers import VariationalLayer, VariationalLinear, activation_moments, check_estimator
from lightning_vi.noise import private_random_state

CPU = torch.device("cpu")


def assert_within_standard_error(estimates: Tensor, exact: Tensor) -> None:
    """Checks that the mean of independent estimates [R, ...] is within 5.5 standard errors of `exact`."""
    standard_error = estimates.std(0) / estimates.shape[0] ** 0.5
    worst = ((estimates.mean(0) - exact).abs() / (standard_error + 1e-9)).max()
    assert worst < 5.5, f"{worst:.1f} standard errors away"


@torch.no_grad()
def samples(layer: VariationalLayer, x: Tensor, repeats: int, *, in_one_call: bool = True) -> Tensor:
    """Samples of the flattened output, shape [repeats, outputs]."""
    calls = layer(x, num_samples=repeats) if in_one_call else torch.stack([layer(x) for _ in range(repeats)])
    return calls.view(repeats, -1)


@each_case
@each_estimator
def test_mean_and_variance_match_the_exact_law(case: Case, estimator: str) -> None:
    layer, x = case.build(estimator=estimator), case.input()
    mean, covariance = exact_law(layer, case, x)
    for values in (samples(layer, x, 1500), samples(layer, x, 300, in_one_call=False)):
        assert_within_standard_error(values, mean)
        assert_within_standard_error((values - mean).square(), covariance.diagonal())


@each_case
def test_activation_moments_match_the_exact_law(case: Case) -> None:
    layer, x = case.build(), case.input()
    mean, std = activation_moments(layer, x)
    exact_mean, covariance = exact_law(layer, case, x)
    torch.testing.assert_close(mean.flatten(), exact_mean)
    torch.testing.assert_close(std.flatten(), covariance.diagonal().sqrt())


@pytest.mark.parametrize("name", ["linear", "conv2d, reflect, groups", "transposed conv1d"])
def test_reparameterization_shares_weights_across_the_batch(name: str) -> None:
    """The covariance between examples and pixels is that of J w; every third output is checked."""
    layer, x = CASES[name].build(estimator="reparameterization"), CASES[name].input()
    mean, covariance = exact_law(layer, CASES[name], x)
    deviations = (samples(layer, x, 1500) - mean)[:, ::3]
    assert_within_standard_error(deviations[:, :, None] * deviations[:, None, :], covariance[::3, ::3])


@each_case
@pytest.mark.parametrize("estimator", ["local_reparameterization", "flipout"])
def test_activation_space_noise_is_independent_between_examples(case: Case, estimator: str) -> None:
    """The deviations of two equal examples are uncorrelated; shared weights would make them equal."""
    layer = case.build(estimator=estimator)
    x = case.input(1).expand(2, *case.input_shape)
    mean, _ = exact_law(layer, case, x)
    first, second = (samples(layer, x, 600, in_one_call=False) - mean).chunk(2, dim=1)
    assert_within_standard_error(first * second, torch.zeros(()))
    assert (first != second).any(0).all()


@each_case
@each_estimator
def test_samples_are_uncorrelated(case: Case, estimator: str) -> None:
    layer, x = case.build(estimator=estimator), case.input()
    mean, _ = exact_law(layer, case, x)
    triples = (samples(layer, x, 1200) - mean).view(400, 3, -1)
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        assert_within_standard_error(triples[:, first] * triples[:, second], torch.zeros(()))


@each_case
@each_estimator
@pytest.mark.parametrize("num_samples", [None, 2])
def test_gradients_match_finite_differences(case: Case, estimator: str, num_samples: int | None) -> None:
    layer, x = case.build(estimator=estimator), case.input().requires_grad_()
    names = list(dict(layer.named_parameters()))
    parameters = [layer.get_parameter(name).detach().clone().requires_grad_() for name in names]

    def objective(x: Tensor, *values: Tensor) -> Tensor:
        with private_random_state(3, CPU):
            output = functional_call(layer, dict(zip(names, values, strict=True)), (x,), {"num_samples": num_samples})
        return output.sin().sum() + output.square().sum()

    assert gradcheck(objective, (x, *parameters), fast_mode=True)


@each_case
@each_estimator
def test_every_sample_contributes_to_the_gradient_of_rho(case: Case, estimator: str) -> None:
    """The gradients of single samples are nonzero, differ from each other and sum to the gradient of all."""
    layer, x = case.build(estimator=estimator), case.input()
    rhos = [layer.posterior(name).rho for name in layer.stochastic_names]
    with private_random_state(3, CPU):
        losses = layer(x, num_samples=4).square().flatten(1).sum(1)
    per_sample = [torch.autograd.grad(loss, rhos, retain_graph=True) for loss in losses]
    total = torch.autograd.grad(losses.sum(), rhos)
    for position in range(len(rhos)):
        gradients = torch.stack([gradient[position] for gradient in per_sample])
        assert (gradients.flatten(2) if gradients.dim() > 2 else gradients).abs().sum(-1).min() > 0
        assert len({tuple(gradient.flatten().tolist()) for gradient in gradients}) == 4
        torch.testing.assert_close(gradients.sum(0), total[position])


@pytest.mark.parametrize("name", ["linear", "conv2d, reflect, groups"])
def test_expected_gradients_match_the_exact_law(name: str) -> None:
    """The gradient of E[sum a^2] is 2 J^T J mu with respect to mu, and that of the summed variances for rho."""
    case = CASES[name]
    x = case.input()
    reference = case.build()
    state = reference.state_dict()
    mean = reference(x, sample=False)
    by_mu = torch.autograd.grad(mean.square().sum(), [reference.posterior("weight").mu, reference.posterior("bias").mu])
    variance = activation_moments(reference, x)[1].square().sum()
    by_rho = torch.autograd.grad(variance, [reference.posterior("weight").rho, reference.posterior("bias").rho])
    for estimator in ("reparameterization", "local_reparameterization", "flipout"):
        layer = case.build(estimator=estimator)
        layer.load_state_dict(state)
        wanted = [getattr(layer.posterior(part), kind) for kind in ("mu", "rho") for part in ("weight", "bias")]
        rows = [torch.autograd.grad(layer(x).square().sum(), wanted) for _ in range(500)]
        for position, exact in enumerate([*by_mu, *by_rho]):
            assert_within_standard_error(torch.stack([row[position] for row in rows]), exact)


@each_estimator
def test_forward_does_not_change_the_state_dict(estimator: str) -> None:
    layer = VariationalLinear(3, 2, estimator=estimator)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(torch.ones(4, 3), num_samples=2)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer._parameters["weight"] is None
    assert layer._parameters["bias"] is None


def test_gradients_are_finite_for_zero_input() -> None:
    """The variance is zero, where the derivative of the square root is infinite."""
    layer = VariationalLinear(3, 2, bias=False, estimator="local_reparameterization")
    x = torch.zeros(4, 3, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight_rho.grad.isfinite().all()
    assert x.grad.isfinite().all()


def test_check_estimator() -> None:
    check_estimator("auto")
    with pytest.raises(ValueError, match=r"estimator must be .* got 'local'"):
        check_estimator("local")


@pytest.mark.parametrize("name", ["linear", "conv2d, reflect, groups"])
def test_flipout_without_batch_dimension_raises(name: str) -> None:
    layer, x = CASES[name].build(estimator="flipout"), CASES[name].input()[0]
    with pytest.raises(ValueError, match="needs an input with a batch dimension"):
        layer(x)
