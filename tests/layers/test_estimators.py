"""Means, variances and gradients of the estimators."""

import pytest
import torch
from layer_cases import CASES, Case, each_case, each_estimator, exact_law
from torch import Tensor
from torch.autograd import gradcheck
from torch.func import functional_call

from lightning_vi.layers import VariationalLayer, VariationalLinear, activation_moments, check_estimator
from lightning_vi.noise import private_random_state

CPU = torch.device("cpu")
SAMPLES = [None, 1, 4]


def assert_within_standard_error(estimates: Tensor, exact: Tensor) -> None:
    """The mean over independent estimates [R, ...] agrees with `exact`, up to 5.5 standard errors for each element."""
    standard_error = estimates.std(0) / estimates.shape[0] ** 0.5
    worst = ((estimates.mean(0) - exact).abs() / (standard_error + 1e-9)).max()
    assert worst < 5.5, f"{worst:.1f} standard errors away"


@torch.no_grad()
def draws(layer: VariationalLayer, x: Tensor, num_samples: int | None, repeats: int) -> Tensor:
    """Shape [repeats, S, outputs], independent over repeats."""
    calls = [layer(x, num_samples=num_samples) for _ in range(repeats)]
    return torch.stack(calls).view(repeats, num_samples or 1, -1)


@each_case
@each_estimator
@pytest.mark.parametrize("num_samples", [None, 3])
def test_mean_and_variance_are_exact(case: Case, estimator: str, num_samples: int | None) -> None:
    """For each estimator, with one draw and with several, on the same exact law."""
    layer, x = case.build(estimator=estimator), case.input()
    mean, covariance = exact_law(layer, case, x)
    values = draws(layer, x, num_samples, repeats=600)
    assert_within_standard_error(values.mean(1), mean)
    assert_within_standard_error((values - mean).square().mean(1), covariance.diagonal())


@each_case
def test_activation_moments_are_exact(case: Case) -> None:
    layer, x = case.build(), case.input()
    mean, std = activation_moments(layer, x)
    exact_mean, covariance = exact_law(layer, case, x)
    torch.testing.assert_close(mean.flatten(), exact_mean)
    torch.testing.assert_close(std.flatten(), covariance.diagonal().sqrt())


@pytest.mark.parametrize("name", ["linear", "conv2d, reflect, groups", "transposed conv1d"])
def test_one_weight_draw_is_shared_by_the_batch(name: str) -> None:
    """Reparameterization has the full covariance of J w, across rows and pixels."""
    layer, x = CASES[name].build(estimator="reparameterization"), CASES[name].input()
    mean, covariance = exact_law(layer, CASES[name], x)
    deviations = draws(layer, x, 2, repeats=800) - mean
    assert_within_standard_error((deviations[..., :, None] * deviations[..., None, :]).mean(1), covariance)


@each_case
@pytest.mark.parametrize("estimator", ["local_reparameterization", "flipout"])
def test_noise_is_independent_between_rows(case: Case, estimator: str) -> None:
    """Deviations of two equal rows are uncorrelated; one weight draw would make them equal."""
    layer = case.build(estimator=estimator)
    x = case.input(1).expand(2, *case.input_shape)
    mean, _ = exact_law(layer, case, x)
    first, second = (draws(layer, x, None, repeats=600) - mean).squeeze(1).chunk(2, dim=1)
    assert_within_standard_error(first * second, torch.zeros(()))
    assert (first != second).any(0).all()


@each_case
@each_estimator
def test_samples_are_uncorrelated(case: Case, estimator: str) -> None:
    layer, x = case.build(estimator=estimator), case.input()
    mean, _ = exact_law(layer, case, x)
    values = draws(layer, x, 3, repeats=400) - mean
    for first, second in [(0, 1), (0, 2), (1, 2)]:
        assert_within_standard_error(values[:, first] * values[:, second], torch.zeros(()))


@each_case
@each_estimator
@pytest.mark.parametrize("num_samples", SAMPLES)
def test_gradients_match_finite_differences_on_common_noise(
    case: Case, estimator: str, num_samples: int | None
) -> None:
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
def test_every_draw_contributes_to_the_gradient_of_rho(case: Case, estimator: str) -> None:
    """The loss of one draw alone reaches every rho, each draw in another way, and the draws add up."""
    layer, x = case.build(estimator=estimator), case.input()
    rhos = [layer.posterior(name).rho for name in layer.stochastic_names]
    with private_random_state(3, CPU):
        losses = layer(x, num_samples=4).square().flatten(1).sum(1)
    per_draw = [torch.autograd.grad(loss, rhos, retain_graph=True) for loss in losses]
    total = torch.autograd.grad(losses.sum(), rhos)
    for position in range(len(rhos)):
        gradients = torch.stack([gradient[position] for gradient in per_draw])
        assert (gradients.flatten(2) if gradients.dim() > 2 else gradients).abs().sum(-1).min() > 0
        assert len({tuple(gradient.flatten().tolist()) for gradient in gradients}) == 4
        torch.testing.assert_close(gradients.sum(0), total[position])


@pytest.mark.parametrize("name", ["linear", "conv2d, reflect, groups"])
def test_gradients_of_the_estimators_agree_in_expectation(name: str) -> None:
    """The gradient of E[sum a^2] is known: 2 J^T J mu for mu, and 2 sigma (column norms of J)^2 dsigma/drho."""
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
def test_no_noise_reaches_the_global_state_or_the_layer(estimator: str) -> None:
    """A pass draws from the global generator, changes no parameter, and leaves no weight behind."""
    layer = VariationalLinear(3, 2, estimator=estimator)
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    layer(torch.ones(4, 3), num_samples=2)
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    assert layer._parameters["weight"] is None
    assert layer._parameters["bias"] is None


def test_zero_input_without_bias_has_finite_gradients() -> None:
    """The variance is zero there, and the gradient of its root must not be infinite."""
    layer = VariationalLinear(3, 2, bias=False, estimator="local_reparameterization")
    x = torch.zeros(4, 3, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight_rho.grad.isfinite().all()
    assert x.grad.isfinite().all()


def test_auto_is_an_estimator_and_others_are_refused() -> None:
    check_estimator("auto")
    with pytest.raises(ValueError, match=r"estimator must be .* got 'local'"):
        check_estimator("local")


@pytest.mark.parametrize("name", ["linear", "conv2d, reflect, groups"])
def test_flipout_needs_a_batch(name: str) -> None:
    layer, x = CASES[name].build(estimator="flipout"), CASES[name].input()[0]
    with pytest.raises(ValueError, match="needs a batch"):
        layer(x)
